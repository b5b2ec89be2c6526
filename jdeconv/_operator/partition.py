"""How XLA's partitioner splits the operator: which part each device solves, and what devices send each other.

XLA's own way returns multiples of a convolution's kernel gradient for images split in height or width on meshes of two
axes, and wrong strided convolutions (jaxlib 0.10 to 0.12). So XLA is told how, by JAX's `custom_partitioning`. Every
mesh axis splits one letter of the sum (see `primitive`), or a spatial dimension of both images. Letters that the result
lacks are summed over the devices at the end. Where images are split, each device gets a halo from its neighbours: the
positions that its own part of the result needs beyond its own part of the operand.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from .._geometry import Geometry
from .._jax_compat import Primitive, ShapedArray, lowered, register_lowering
from .._jax_operations import lax
from .primitive import LETTERS, operand_roles, transposed_convolution_p

Specs = Mapping[str, list[tuple[str, ...]]]
"""For each role, the mesh axes of each of its dimensions."""


# The geometry of a part.


def halo(geometry: Geometry, result: str, dim: int) -> tuple[int, int]:
    """How many positions a device needs before and after its own: input positions for the output, else output ones.

    The output is taken to be `stride` times as large as the input, so that all parts are alike.
    """
    stride, low = geometry.strides[dim], geometry.low[dim]
    last = geometry.extent[dim] - 1 - low  # where an input position's last tap is, counted from its first output
    if result == "output":
        return max(last // stride, 0), max(-(-low // stride), 0)
    return max(low, 0), max(last - stride + 1, 0)


def splits_evenly(geometry: Geometry, result: str, dim: int, parts: int) -> bool:
    """Whether a dimension of both images falls into `parts` equal parts, each as long as the halos or longer."""
    i, o, stride = geometry.input[dim], geometry.output[dim], geometry.strides[dim]
    length = (i if result == "output" else o) // parts
    return o == i * stride and i % parts == 0 and max(halo(geometry, result, dim)) <= length


def part_geometry(geometry: Geometry, result: str, parts: Sequence[int]) -> Geometry:
    """What a device solves where each spatial dimension is split into so many parts, halos included."""
    input, output, low = list(geometry.input), list(geometry.output), list(geometry.low)
    for dim, count in enumerate(parts):
        if count > 1:
            before, after = halo(geometry, result, dim)
            input[dim] //= count
            output[dim] //= count
            if result == "output":
                input[dim] += before + after
                low[dim] += before * geometry.strides[dim]
            else:
                output[dim] += before + after
                low[dim] -= before
    return dataclasses.replace(geometry, input=tuple(input), output=tuple(output), low=tuple(low))


# Which axis splits what.


def dimension_names(role: str, rank: int) -> list[str]:
    """A name for each dimension of a role: its letter; "0", "1", … in the space of images; "t0", "t1", … for taps."""
    spatial = [f"t{dim}" if role == "kernel" else str(dim) for dim in range(rank)]
    before, after = LETTERS[role].split("_")
    return [*before, *spatial, *after]


def assign_axes(
    names: Mapping[str, list[str]],
    shapes: Mapping[str, tuple[int, ...]],
    specs: Specs,
    sizes: Mapping[str, int],
    geometry: Geometry,
    result: str,
) -> dict[str, tuple[str, ...]]:
    """The mesh axes that split each name, given how operands are split and how the result is asked to be (`specs`).

    An axis that splits several names goes to the name for which devices send the fewest elements.
    """
    found: dict[str, tuple[str, ...]] = {}
    has = {role: {axis: name for name, axes in zip(names[role], specs[role], strict=True) for axis in axes}
           for role in names}  # fmt: skip
    lengths = {name: size for role in names for name, size in zip(names[role], shapes[role], strict=True)}

    def divides(name: str, axes: tuple[str, ...]) -> bool:
        parts = math.prod(sizes[axis] for axis in axes)
        if name.isdigit():
            return splits_evenly(geometry, result, int(name), parts)
        return not name.startswith("t") and lengths[name] % parts == 0

    def sent(axis: str, name: str) -> int:
        total = 0
        for role in names:
            now, size = has[role].get(axis), math.prod(shapes[role])
            if role == result and name not in names[role]:
                total += 2 * size  # an all-reduce
            elif now != name and (now is not None or role == result):  # else each device has the whole operand
                total += size
        return total

    # The order of the axes within a dimension is the order of its parts.
    for axis in dict.fromkeys(axis for role in names for axes in specs[role] for axis in axes):
        wanted = dict.fromkeys(name for role in names if (name := has[role].get(axis)))
        fits = [name for name in wanted if divides(name, (*found.get(name, ()), axis))]
        if fits:
            name = min(fits, key=lambda name: sent(axis, name))
            found[name] = (*found.get(name, ()), axis)
    return found


# The program of a device.


def with_halo(
    x: jax.Array, dim: int, before: int, after: int, axes: tuple[str, ...], sizes: Mapping[str, int]
) -> jax.Array:
    """`x` between the last `before` positions of the previous part and the first `after` of the next part.

    At the image's ends the halo is zeros.
    """
    # The device of each part, counted in the order of the mesh's axes, the only order that ppermute knows.
    ordered = tuple(axis for axis in sizes if axis in axes)
    parts = np.arange(math.prod(sizes[axis] for axis in axes)).reshape([sizes[axis] for axis in axes])
    place = np.argsort(parts.transpose([axes.index(axis) for axis in ordered]).ravel()).tolist()
    next_to = list(itertools.pairwise(place))
    ends = [x]
    if before:
        last = lax.slice_in_dim(x, x.shape[dim] - before, None, axis=dim)
        ends.insert(0, lax.ppermute(last, ordered, next_to))
    if after:
        first = lax.slice_in_dim(x, 0, after, axis=dim)
        ends.append(lax.ppermute(first, ordered, [(to, source) for source, to in next_to]))
    return lax.concatenate(ends, dim)


_part_p = Primitive("transposed_convolution_part")
_part_p.def_abstract_eval(lambda a, b, *, compute, shape, dtype, wide: ShapedArray(shape, dtype))


def _lower_part(context: Any, a: Any, b: Any, *, compute: Callable[..., jax.Array], wide: bool, **_: Any) -> Any:
    with jax.enable_x64(wide):  # XLA partitions in a thread of its own, which lacks the caller's settings
        return lowered(compute, context, a, b)


register_lowering(_part_p, _lower_part)


def partitioned(
    compute: Callable[..., jax.Array], devices: Sequence[Any], *, geometry: Geometry, result: str, **parameters: Any
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The primitive of these parameters, as a function of its operands that XLA splits over `devices`.

    `compute` takes operands and parameters likewise, and computes what one device solves: no part is split again.
    """
    from jax.experimental.custom_partitioning import custom_partitioning

    roles = operand_roles(result)
    names = {role: dimension_names(role, geometry.rank) for role in (*roles, result)}
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    image = "input" if result == "output" else "output"  # the operand that needs halos

    def partition(_: Any, operands: Any, solved: Any) -> Any:
        arrays = dict(zip(names, (*operands, solved), strict=True))
        shapes = {role: tuple(array.shape) for role, array in arrays.items()}
        mesh, specs = _mesh_of(devices, {role: (array.sharding, len(array.shape)) for role, array in arrays.items()})
        axes = assign_axes(names, shapes, specs, mesh.shape, geometry, result)
        shardings = {
            role: NamedSharding(mesh, jax.P(*(axes.get(name) or None for name in names[role]))) for role in names
        }
        parts = [math.prod(mesh.shape[axis] for axis in axes.get(str(dim), ())) for dim in range(geometry.rank)]
        summed = tuple(axis for name, split in axes.items() if name not in names[result] for axis in split)

        def compute_part(a: jax.Array, b: jax.Array) -> jax.Array:
            both = dict(zip(roles, (a, b), strict=True))
            for dim, count in enumerate(parts):
                if count > 1:
                    where, reach = names[image].index(str(dim)), halo(geometry, result, dim)
                    both[image] = with_halo(both[image], where, *reach, axes[str(dim)], mesh.shape)
            y = compute(*both.values(), geometry=part_geometry(geometry, result, parts), result=result, **parameters)
            return lax.psum(y, summed) if summed else y

        shape = shardings[result].shard_shape(shapes[result])
        bind = functools.partial(_part_p.bind, compute=compute_part, shape=shape, dtype=solved.dtype, wide=wide)
        return mesh, bind, shardings[result], tuple(shardings[role] for role in roles)

    def whole(a: jax.Array, b: jax.Array) -> jax.Array:  # never compiled: JAX asks for the type of its result
        return transposed_convolution_p.bind(a, b, geometry=geometry, result=result, **parameters)

    split = custom_partitioning(whole)
    split.def_partition(partition, decode_shardings=False, sharding_rule=_rule(names, geometry, result))
    return split


def _rule(names: Mapping[str, list[str]], geometry: Geometry, result: str) -> Any:
    """How shardings propagate: along the letters that arrays share, and between images whose parts are alike."""
    from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule

    alike = [o == i * s for i, o, s in zip(geometry.input, geometry.output, geometry.strides, strict=True)]

    def factor(role: str, name: str) -> str:
        return f"{'image' if alike[int(name)] else role}{name}" if name.isdigit() else name

    *operands, solved = ([factor(role, name) for name in names[role]] for role in names)
    shared = [name for name in operands[0] if name in operands[1] and name not in solved]
    mappings = [ArrayMapping(*factors) for factors in (*operands, solved)]
    return SdyShardingRule(tuple(mappings[:2]), (mappings[2],), reduction_factors=tuple(shared))


def _mesh_of(devices: Sequence[Any], shardings: Mapping[str, tuple[Any, int]]) -> tuple[Any, Specs]:
    """A mesh whose axes split all arrays, and the axes that split each; `shardings` has each array's sharding and rank.

    The program's own mesh is not known here, nor would it do: XLA may split groups by a part of an axis. So this mesh
    has an axis for each prime factor of the number of devices. Where factors differ, their order matters.
    """
    for order in _orders(_prime_factors(len(devices))):
        mesh = jax.sharding.Mesh(np.array(devices).reshape(order), [f"axis{k}" for k in range(len(order))])
        specs = {role: _axes_of(*known, mesh) for role, known in shardings.items()}
        if all(spec is not None for spec in specs.values()):
            break
    return mesh, {role: spec or [()] * shardings[role][1] for role, spec in specs.items()}


def _orders(factors: list[int]) -> Iterator[tuple[int, ...]]:
    """The different orders of factors that may repeat: eleven twos have one."""
    if not factors:
        yield ()
    for first in sorted(set(factors)):
        rest = list(factors)
        rest.remove(first)
        yield from ((first, *order) for order in _orders(rest))


def _prime_factors(number: int) -> list[int]:
    factor = next((k for k in range(2, number + 1) if number % k == 0), None)
    return [factor, *_prime_factors(number // factor)] if factor else []


def _axes_of(sharding: Any, rank: int, mesh: Any) -> list[tuple[str, ...]] | None:
    """The mesh axes that split each dimension, outermost first; None if no axes of the mesh split it so."""
    fine = mesh.devices.size  # a size that every number of parts divides
    slices = sharding.devices_indices_map((fine,) * rank)
    starts = np.array([[cut.start or 0 for cut in slices[device]] for device in mesh.devices.flat], int)
    coordinates = np.indices(mesh.devices.shape)
    found: list[tuple[str, ...]] = []
    for places in np.moveaxis(starts.reshape(*mesh.devices.shape, rank), -1, 0):
        steps = [int(np.moveaxis(places, k, 0)[1].flat[0]) for k in range(mesh.devices.ndim)]
        split = sorted((k for k, step in enumerate(steps) if step), key=lambda k: -steps[k])
        parts = [mesh.devices.shape[k] for k in split]
        regular = [steps[k] for k in split] == [fine // math.prod(parts[: n + 1]) for n in range(len(parts))]
        made = sum((steps[k] * coordinates[k] for k in split), np.zeros_like(places))
        if not regular or (places != made).any():
            return None
        found.append(tuple(mesh.axis_names[k] for k in split))
    return found
