"""How each library lays out a kernel (axis order, flip and groups) as one table, and the move from one to another."""

import math
from typing import Any, NamedTuple

from .._arguments import shown
from .._errors import either, refusal


class KernelLayout(NamedTuple):
    """Axes in order: `*` spatial, `i` and `o` channels of one group, `gi` and `go` channels of all groups."""

    conv_transpose: str
    flipped: bool
    """Whether a transposed convolution's taps are reversed, as a convolution of the dilated input reads them."""
    conv: str
    dense: str
    depthwise: str | None = None
    """A convolution with one group for each input channel, if its layout differs from that with fewer groups."""


KERNEL_LAYOUTS = {
    "tf": KernelLayout("* o gi", False, "* i go", "i o", "* gi o"),
    "keras": KernelLayout("* o gi", False, "* i go", "i o", "* gi o"),
    "torch": KernelLayout("gi o *", False, "go i *", "o i"),
    "onnx": KernelLayout("gi o *", False, "go i *", "o i"),
    "flax": KernelLayout("* i go", True, "* i go", "i o"),
    "flax_transposed": KernelLayout("* o gi", False, "* i go", "i o"),
    "equinox": KernelLayout("go i *", True, "go i *", "o i"),
    "haiku": KernelLayout("* go i", True, "* i go", "i o"),
}


def layout_named(argument: str, name: Any) -> KernelLayout:
    if isinstance(name, str) and name in KERNEL_LAYOUTS:
        return KERNEL_LAYOUTS[name]
    raise refusal(
        ValueError,
        argument,
        shown(name),
        "unknown",
        f"expected {either(map(repr, KERNEL_LAYOUTS))}",
        "Name the library whose layer reads the kernel.",
    )


def axis_names(axes: str, ndim: int) -> list[str]:
    """The name of each of `ndim` axes; spatial axes are numbered from 0."""
    names = axes.split()
    at = names.index("*") if "*" in names else len(names)
    return [*names[:at], *map(str, range(ndim - len(names) + ("*" in names))), *names[at + 1 :]]


def moved(array: Any, source: str, target: str, groups: int, flip: bool) -> Any:
    """`array` with its axes moved from the order `source` to the order `target`, spatial ones reversed if `flip`."""
    sizes = _sizes(array.shape, source, groups)
    axes = axis_names(target, array.ndim)
    letters = list(sizes)
    apart = array.reshape(tuple(sizes.values())).transpose([letters.index(letter) for letter in "".join(axes)])
    whole = apart.reshape(moved_shape(array.shape, source, target, groups))
    return whole[tuple(slice(None, None, -1 if flip and axis.isdecimal() else None) for axis in axes)]


def moved_shape(shape: tuple[int, ...], source: str, target: str, groups: int) -> tuple[int, ...]:
    """The shape of `moved`'s result."""
    sizes = _sizes(shape, source, groups)
    return tuple(math.prod(sizes[letter] for letter in axis) for axis in axis_names(target, len(shape)))


def _sizes(shape: tuple[int, ...], source: str, groups: int) -> dict[str, int]:
    """The size of each letter, in the order of `source`."""
    sizes: dict[str, int] = {}
    for axis, size in zip(axis_names(source, len(shape)), shape, strict=True):
        sizes |= {"g": groups, axis[1]: size // groups} if len(axis) == 2 else {axis: size}
    return sizes


def groups_of(shape: tuple[int, ...], source: str, wanted: tuple[int, ...], target: str) -> int:
    """The number of groups that the input channels of both shapes imply; 1 where the number makes no difference."""
    sizes, others = (dict(zip(axis_names(a, len(s)), s, strict=True)) for a, s in ((source, shape), (target, wanted)))
    if "gi" not in sizes | others or "gi" in sizes.keys() & others.keys():
        return 1
    grouped, single = (sizes, others) if "gi" in sizes else (others, sizes)
    groups = grouped["gi"] // max(single["i"], 1)
    divided = sizes["gi" if "gi" in sizes else "go"]
    return groups if groups and divided % groups == 0 else 1
