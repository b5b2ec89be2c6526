"""A program that XLA partitions: which part of the operator each device solves, and what devices send each other.

XLA's own partitioner returns multiples of a convolution's kernel gradient for images split in height or width on meshes
of two axes, and wrong strided convolutions (jaxlib 0.10 to 0.12). So it is told how, by JAX's `custom_partitioning`:
every mesh axis splits one letter of the sum (see `primitive`), or a spatial dimension of both images. Letters that the
result lacks are summed over the devices at the end; split images are lent the rows that they need by their neighbours.
"""

import contextvars
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

Specs = Mapping[str, list[tuple[str, ...]]]
"""For each role, the mesh axes of each of its dimensions."""


# The geometry of a part.


def halo(geometry: Geometry, result: str, dim: int) -> tuple[int, int]:
    """How many positions before and after its own a device needs: of the input for the output, else of the output.

    Outputs are taken to be `stride` times as many as inputs, so that all parts are alike.
    """
    stride, low = geometry.strides[dim], geometry.low[dim]
    last = geometry.extent[dim] - 1 - low  # where an input position's last tap is, counted from its first output
    if result == "output":
        return max(last // stride, 0), max(-(-low // stride), 0)
    return max(low, 0), max(last - stride + 1, 0)


def splits(geometry: Geometry, result: str, dim: int, parts: int) -> bool:
    """Whether both images fall into so many equal parts along a dimension, of which each has its neighbours' halos."""
    i, o, stride = geometry.input[dim], geometry.output[dim], geometry.strides[dim]
    lent = (i if result == "output" else o) // parts
    return o == i * stride and i % parts == 0 and max(halo(geometry, result, dim)) <= lent


def part(geometry: Geometry, result: str, parts: Sequence[int]) -> Geometry:
    """What a device solves whose images are cut into so many parts, halos included."""
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


def dimensions(role: str, letters: str, rank: int) -> list[str]:
    """A name for each dimension of a role: its letters, and for images the number of each spatial dimension."""
    names = [f"t{dim}" if role == "kernel" else str(dim) for dim in range(rank)]
    before, after = letters.split("_")
    return [*before, *names, *after]


def assignment(
    names: Mapping[str, list[str]],
    shapes: Mapping[str, tuple[int, ...]],
    specs: Specs,
    sizes: Mapping[str, int],
    geometry: Geometry,
    result: str,
) -> dict[str, tuple[str, ...]]:
    """The mesh axes of each name, where `specs` is how operands are split, and how the result is asked to be.

    An axis that splits several names goes to the one for which the fewest elements are sent.
    """
    found: dict[str, tuple[str, ...]] = {}
    has = {role: {axis: name for name, axes in zip(names[role], specs[role], strict=True) for axis in axes}
           for role in names}  # fmt: skip
    lengths = {name: size for role in names for name, size in zip(names[role], shapes[role], strict=True)}

    def divides(name: str, axes: tuple[str, ...]) -> bool:
        parts = math.prod(sizes[axis] for axis in axes)
        if name.isdigit():
            return splits(geometry, result, int(name), parts)
        return not name.startswith("t") and lengths[name] % parts == 0

    def sent(axis: str, name: str) -> int:
        total = 0
        for role in names:
            now, size = has[role].get(axis), math.prod(shapes[role])
            if role == result and name not in names[role]:
                total += 2 * size  # an all-reduce
            elif now != name and (now is not None or role == result):  # else it is whole, and each takes its part
                total += size
        return total

    # In the order of the axes within a dimension, which is that of its parts.
    for axis in dict.fromkeys(axis for role in names for axes in specs[role] for axis in axes):
        wanted = dict.fromkeys(name for role in names if (name := has[role].get(axis)))
        fits = [name for name in wanted if divides(name, (*found.get(name, ()), axis))]
        if fits:
            name = min(fits, key=lambda name: sent(axis, name))
            found[name] = (*found.get(name, ()), axis)
    return found


# The program of a device.


def lent(x: jax.Array, dim: int, before: int, after: int, axes: tuple[str, ...], sizes: Mapping[str, int]) -> jax.Array:
    """`x` between the last `before` positions of the part before it and the first `after` of the next, or zeros."""
    # Where each part is, counted in the order of the mesh's axes: ppermute knows no other.
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
    token = _inside.set(True)
    try:
        with jax.enable_x64(wide):  # this is another thread, which has not the caller's settings
            return lowered(compute, context, a, b)
    finally:
        _inside.reset(token)


_inside = contextvars.ContextVar("inside", default=False)


def inside() -> bool:
    """Whether a device's part of a partitioned program is being lowered."""
    return _inside.get()


register_lowering(_part_p, _lower_part)


def partitioned(
    solve: Callable[[jax.Array, jax.Array, Geometry], jax.Array],
    geometry: Geometry,
    result: str,
    roles: tuple[str, str],
    letters: Mapping[str, str],
    devices: Sequence[Any],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`solve(a, b, geometry)` for the two roles, as a function of `a` and `b` that XLA splits as this module says."""
    from jax.experimental.custom_partitioning import custom_partitioning

    names = {role: dimensions(role, letters[role], geometry.rank) for role in (*roles, result)}
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    image = "input" if result == "output" else "output"  # the one that is lent

    def partition(_: Any, operands: Any, solved: Any) -> Any:
        arrays = dict(zip(names, (*operands, solved), strict=True))
        shapes = {role: tuple(array.shape) for role, array in arrays.items()}
        mesh, specs = _mesh_of(devices, {role: (array.sharding, len(array.shape)) for role, array in arrays.items()})
        axes = assignment(names, shapes, specs, mesh.shape, geometry, result)
        shardings = {
            role: NamedSharding(mesh, jax.P(*(axes.get(name) or None for name in names[role]))) for role in names
        }
        parts = [math.prod(mesh.shape[axis] for axis in axes.get(str(dim), ())) for dim in range(geometry.rank)]
        summed = tuple(axis for name, split in axes.items() if name not in names[result] for axis in split)

        def compute(a: jax.Array, b: jax.Array) -> jax.Array:
            both = dict(zip(roles, (a, b), strict=True))
            for dim, count in enumerate(parts):
                if count > 1:
                    where = names[image].index(str(dim))
                    both[image] = lent(both[image], where, *halo(geometry, result, dim), axes[str(dim)], mesh.shape)
            y = solve(both[roles[0]], both[roles[1]], part(geometry, result, parts))
            return lax.psum(y, summed) if summed else y

        whole = shardings[result].shard_shape(shapes[result])
        bind = functools.partial(_part_p.bind, compute=compute, shape=whole, dtype=solved.dtype, wide=wide)
        return mesh, bind, shardings[result], tuple(shardings[role] for role in roles)

    split = custom_partitioning(lambda a, b: solve(a, b, geometry))
    split.def_partition(partition, decode_shardings=False, sharding_rule=_rule(names, geometry, result))
    return split


def _rule(names: Mapping[str, list[str]], geometry: Geometry, result: str) -> Any:
    """How shardings spread from array to array: along what they share, and along images whose parts are alike."""
    from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule

    alike = [o == i * s for i, o, s in zip(geometry.input, geometry.output, geometry.strides, strict=True)]

    def factor(role: str, name: str) -> str:
        return f"{'image' if alike[int(name)] else role}{name}" if name.isdigit() else name

    *operands, solved = ([factor(role, name) for name in names[role]] for role in names)
    shared = [name for name in operands[0] if name in operands[1] and name not in solved]
    mappings = [ArrayMapping(*factors) for factors in (*operands, solved)]
    return SdyShardingRule(tuple(mappings[:2]), (mappings[2],), reduction_factors=tuple(shared))


def _mesh_of(devices: Sequence[Any], shardings: Mapping[str, tuple[Any, int]]) -> tuple[Any, Specs]:
    """A mesh by whose axes all arrays are split, and by which ones each is; `shardings` has ranks beside them.

    The program's own is not known here, nor would it do: of groups, XLA may split by part of an axis. So it has an axis
    for each prime factor of the number of devices, whose order matters where these differ.
    """
    for order in _orders(_primes(len(devices))):
        mesh = jax.sharding.Mesh(np.array(devices).reshape(order), [f"axis{k}" for k in range(len(order))])
        specs = {role: _axes(*known, mesh) for role, known in shardings.items()}
        if all(spec is not None for spec in specs.values()):
            break
    return mesh, {role: spec or [()] * shardings[role][1] for role, spec in specs.items()}


def _orders(factors: list[int]) -> Iterator[tuple[int, ...]]:
    """The different orders of what may repeat: of eleven twos there is one."""
    if not factors:
        yield ()
    for first in sorted(set(factors)):
        rest = list(factors)
        rest.remove(first)
        yield from ((first, *order) for order in _orders(rest))


def _primes(number: int) -> list[int]:
    factor = next((k for k in range(2, number + 1) if number % k == 0), None)
    return [factor, *_primes(number // factor)] if factor else []


def _axes(sharding: Any, rank: int, mesh: Any) -> list[tuple[str, ...]] | None:
    """The mesh axes that split each dimension, outermost first; None if no axes make these parts."""
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
