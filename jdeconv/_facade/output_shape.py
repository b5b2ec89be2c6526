"""`output_shape`: its forms, and the groups that TensorFlow's implies."""

from typing import Any

from jax import export

from .._arguments import integer, integers, items, shown, spatial
from .._errors import refusal
from .._jax_compat import Tracer


def parse(
    output_shape: Any, rank: int, batch: Any, group_channels: int, channel_axis: int
) -> tuple[tuple[Any, ...] | None, int]:
    """The spatial sizes (None: the default ones) and the channels."""
    if output_shape is None:
        return None, group_channels
    entries = items(output_shape)
    sizes: list[Any] = [] if entries is None else [e if export.is_symbolic_dim(e) else integer(e) for e in entries]
    if entries is None or None in sizes:
        traced = any(isinstance(part, Tracer) for part in (output_shape, *(entries or ())))
        raise refusal(
            TypeError,
            "output_shape",
            shown(output_shape),
            "traced, so unknown while the program is built" if traced else "not a sequence of integers",
            "expected ints known at trace time",
            "Make it static: Python ints or NumPy; in jit, an argument named in static_argnames."
            if traced
            else "Give a tuple of ints, or None for the default size.",
        )
    if len(sizes) == rank:
        return tuple(sizes), group_channels
    if len(sizes) != rank + 2:
        raise refusal(
            ValueError,
            "output_shape",
            shown(output_shape),
            f"length {len(sizes)}",
            f"expected {rank} (the spatial sizes) or {rank + 2} (the full shape)",
            "Give the shape of the result in the order of data_format.",
        )
    if sizes[0] != batch and not (isinstance(sizes[0], int) and sizes[0] == -1):
        raise refusal(
            ValueError,
            "output_shape",
            shown(output_shape),
            f"batch {sizes[0]}",
            f"expected {batch}, the input's, or -1",
            "Use -1 for whatever batch the input has.",
        )
    return spatial(tuple(sizes), channel_axis), sizes[channel_axis]


def spatial_sizes(value: Any, rank: int, single: bool = True) -> tuple[Any, ...]:
    """The sizes alone, as `integers` reads them, or symbolic dimensions."""
    entries = items(value)
    parts = [value] if entries is None else entries
    ints = [0 if export.is_symbolic_dim(part) else part for part in parts]
    known = integers(
        "output_shape",
        ints[0] if entries is None else ints,
        lengths=(rank,),
        least=0,
        whole=value,
        single=single,
    )
    sizes = zip(parts * rank if len(parts) == 1 else parts, known, strict=True)
    return tuple(part if export.is_symbolic_dim(part) else size for part, size in sizes)


def groups_of(
    output_shape: Any, rank: int, out_channels: int, group_channels: int, in_channels: int, filter_name: str
) -> int:
    """TensorFlow has no argument for groups: they are the output's channels divided by the filter's."""
    if out_channels == group_channels:
        return 1
    if group_channels == 0 or out_channels < 1 or out_channels % group_channels:
        raise refusal(
            ValueError,
            "output_shape",
            shown(output_shape),
            f"{out_channels} output channels",
            f"expected a multiple of {filter_name}.shape[{rank}] = {group_channels}, one multiple per group",
            f"For one group, ask for {group_channels}.",
        )
    groups = out_channels // group_channels
    if not isinstance(groups, int):
        raise refusal(
            ValueError,
            "output_shape",
            shown(output_shape),
            f"a symbolic number of groups, {groups}",
            "expected channels that give a known one",
            "Export one program for each number of channels.",
        )
    if in_channels % groups:
        raise refusal(
            ValueError,
            "output_shape",
            shown(output_shape),
            f"{out_channels} output channels are {groups} groups of {filter_name}.shape[{rank}] = {group_channels}",
            f"expected groups that divide the {in_channels} input channels",
            f"For one group, ask for {group_channels}.",
        )
    return groups
