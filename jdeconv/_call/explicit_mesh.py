"""Meshes with explicit axes, where shardings are part of the types: the result's sharding."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec


class Dimension(NamedTuple):
    """One dimension of the result."""

    size: Any
    sources: tuple[tuple[int, int], ...]
    """The operands' dimensions whose mesh axes it keeps, in this order: (0: x, 1: w; dimension)."""
    groups: int = 1
    """The number of its blocks; a device gets whole blocks, or an equal part of one."""

    def splits(self, parts: int) -> bool:
        """Whether it divides evenly over so many devices."""
        whole = self.groups % parts == 0 or parts % self.groups == 0
        return whole and bool(self.size % parts == 0)


def channels(size: Any, groups: int, x_channels: int, w_outputs: int, w_groups: int) -> Dimension:
    """The result's channels; `w_groups` is w's dimension that holds all groups.

    The groups follow x's sharding, else w's; w's output channels use the remaining axes.
    """
    sources = ((0, x_channels), (1, w_groups), (1, w_outputs)) if groups > 1 else ((1, w_outputs),)
    return Dimension(size, sources, groups)


def on_mesh(
    compute: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, w: jax.Array, dimensions: Sequence[Dimension]
) -> jax.Array:
    """`compute(x, w)`, whose result has these dimensions, also where `x` or `w` lives on explicit mesh axes.

    A dimension of the result keeps the mesh axes of its sources. It drops an axis, and is gathered over it, if the axis
    doesn't split it evenly or belongs to another dimension (dimensions of images, from x alone, choose first).
    Dimensions that only the operands have are summed over the devices.
    """
    types = [jax.typeof(operand).sharding for operand in (x, w)]
    mesh = next((kind.mesh for kind in types if kind.mesh.explicit_axes), None)
    if mesh is None:
        return compute(x, w)
    specs = [kind.spec if kind.mesh.explicit_axes else (None,) * x.ndim for kind in types]
    kept: list[tuple[str, ...]] = [()] * len(dimensions)
    for place in sorted(range(len(dimensions)), key=lambda place: max(dimensions[place].sources)[0]):
        for operand, source in dimensions[place].sources:
            entry = specs[operand][source]
            more = (entry,) if isinstance(entry, str) else tuple(entry or ())
            wider = tuple(dict.fromkeys((*kept[place], *more)))
            taken = any(axis in used for axis in more for used in kept[:place] + kept[place + 1 :])
            if not taken and dimensions[place].splits(math.prod(mesh.shape[axis] for axis in wider)):
                kept[place] = wider
    sharding = NamedSharding(mesh, PartitionSpec(*(axes or None for axes in kept)))
    return jax.sharding.auto_axes(compute, axes=mesh.explicit_axes, out_sharding=sharding)(x, w)
