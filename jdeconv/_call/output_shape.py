"""Output sizes as callers ask for them: `output_shape`, the groups that it implies, and `output_padding`."""

from collections.abc import Sequence
from typing import Any

from jax import export

from .._arguments import integer, integers, items, shown, spatial
from .._errors import refusal
from .._jax_compat import Tracer


def spatial_and_channels(
    output_shape: Any, rank: int, batch: Any, group_channels: int, channel_axis: int
) -> tuple[tuple[Any, ...] | None, int]:
    """TensorFlow's `output_shape`: its spatial sizes (None: the default ones) and its channels."""
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


def spatial_only(value: Any, rank: int, single: bool = True) -> tuple[Any, ...]:
    """An `output_shape` of spatial sizes alone, read by `integers`; any of them may be symbolic."""
    entries = items(value)
    parts = [value] if entries is None else entries
    ints = [0 if export.is_symbolic_dim(part) else part for part in parts]
    read = integers(
        "output_shape",
        ints[0] if entries is None else ints,
        lengths=(rank,),
        least=0,
        whole=value,
        single=single,
    )
    sizes = zip(parts * rank if len(parts) == 1 else parts, read, strict=True)
    return tuple(part if export.is_symbolic_dim(part) else size for part, size in sizes)


def implied_groups(
    output_shape: Any, rank: int, out_channels: int, group_channels: int, in_channels: int, filter_name: str
) -> int:
    """TensorFlow's groups, for which it has no argument: the output's channels divided by the filter's."""
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


def check_output_padding(
    value: Any, output_padding: Sequence[int], strides: Sequence[int], dilations: Sequence[int], names: str
) -> None:
    """Refuses an output padding that is as large as both stride and dilation, which the caller spells as `names`."""
    for extra, stride, dilation in zip(output_padding, strides, dilations, strict=True):
        if extra >= max(stride, dilation):
            raise refusal(
                ValueError,
                "output_padding",
                shown(value),
                f"{extra} is too large",
                f"expected less than the larger of {names}, here {stride} and {dilation}",
                f"Use {max(stride, dilation) - 1} or less, and jax.numpy.pad for more.",
            )
