"""Meshes with explicit axes, where shardings are part of the types: which one the result has."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def on_mesh(
    compute: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    w: jax.Array,
    sources: tuple[tuple[int, int], ...],
    units: tuple[Any, ...],
) -> jax.Array:
    """`compute(x, w)`, also where `x` or `w` lives on explicit mesh axes.

    Dimension d of the result keeps the mesh axes of `sources[d]`, an operand (0: x, 1: w) and its dimension, if they
    divide `units[d]`, its size or its number of groups. An axis that does not, or that an earlier dimension has, is
    dropped: that dimension is gathered. Dimensions that only the operands have are summed over the devices.
    """
    types = [jax.typeof(operand).sharding for operand in (x, w)]
    mesh = next((kind.mesh for kind in types if kind.mesh.explicit_axes), None)
    if mesh is None:
        return compute(x, w)
    specs = [list(kind.spec) if kind.mesh.explicit_axes else [None] * len(units) for kind in types]
    kept: list[tuple[str, ...]] = []
    for unit, (operand, dimension) in zip(units, sources, strict=True):
        entry = specs[operand][dimension]
        axes = (entry,) if isinstance(entry, str) else tuple(entry or ())
        parts = math.prod(mesh.shape[axis] for axis in axes)
        free = not any(axis in used for axis in axes for used in kept)
        kept.append(axes if free and unit % parts == 0 else ())
    sharding = NamedSharding(mesh, PartitionSpec(*(axes or None for axes in kept)))
    return jax.sharding.auto_axes(compute, axes=mesh.explicit_axes, out_sharding=sharding)(x, w)
