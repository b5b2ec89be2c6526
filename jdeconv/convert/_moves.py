"""The kind of each layer and how its weight moves: as the user or the trees say, otherwise as the shapes allow."""

import fnmatch
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from .._arguments import described, shown
from .._call.arrays import any_array
from .._errors import either, refusal
from ._kernel_layouts import KernelLayout, axis_names, groups_of, moved, moved_shape
from ._leaves import CONVOLUTIONS, ROLES, name_says_transposed
from ._trees import Layer

Transposed = bool | Collection[str] | None


class Move(NamedTuple):
    """The arguments of `moved`, and the kind of layer whose weights they move."""

    kind: str
    source: str
    target: str
    groups: int
    flip: bool

    def of(self, array: Any) -> Any:
        return moved(array, self.source, self.target, self.groups, self.flip)


def moves(
    pairs: list[tuple[Layer, Layer]], source: KernelLayout, target: KernelLayout, transposed: Transposed
) -> list[Move | None]:
    """How each pair's weight moves from the first layer to the second; None if it isn't a matrix or kernel."""
    found = [_possible_moves(old, new, source, target, transposed) for old, new in pairs]
    undecided = [old.name for (old, _), several in zip(pairs, found, strict=True) if len(several) > 1]
    if undecided:
        transposed_ones = [
            old.name
            for (old, new), several in zip(pairs, found, strict=True)
            if [move.kind for move in several] == ["conv_transpose"]
            or (len(several) > 1 and any(map(name_says_transposed, (old.name, new.name))))
        ]
        raise _undecided(undecided, transposed_ones)
    return [several[0] if several else None for several in found]


def _undecided(undecided: list[str], proposed: list[str]) -> Exception:
    first, *others = map(repr, undecided)
    several = f"{first}, {others[0]} and {len(others) - 1} more" if len(others) > 2 else " and ".join((first, *others))
    what = (
        f"which of {several} are transposed convolutions" if others else f"whether {first} is a transposed convolution"
    )
    return refusal(
        ValueError,
        "transposed",
        "None",
        f"shapes and classes don't say {what}, and a name is no evidence",
        "expected True, False, or patterns of the names of those that are",
        f"If names and shapes are right, pass transposed={proposed!r}."
        if proposed
        else f"Pass transposed=True if all are, False if none is, or a list such as transposed=[{undecided[0]!r}].",
    )


def _possible_moves(
    old: Layer, new: Layer, source: KernelLayout, target: KernelLayout, transposed: Transposed
) -> list[Move]:
    """The moves that turn the old layer's weight into the new layer's; no two have the same result."""
    kinds = _kinds(old, new, transposed)
    if not {"weight"} <= old.roles & new.roles or not kinds & {"dense", *CONVOLUTIONS} or "embedding" in kinds:
        return []  # where it may be a dense layer or an embedding, both libraries lay out the two alike
    array, wanted = any_array("tree", old.leaves["weight"]), tuple(new.leaves["weight"].shape)
    candidates = [
        move
        for kind in sorted(kinds)
        if array.ndim == len(wanted)
        for move in _candidates(kind, array.shape, wanted, source, target)
    ]
    shapes = [moved_shape(array.shape, move.source, move.target, move.groups) for move in candidates]
    fitting = [
        move
        for move, shape in zip(candidates, shapes, strict=True)
        if shape == wanted and array.size == math.prod(wanted)  # groups that divide the channels
        if move.kind != "conv_transpose" or old.groups in (None, move.groups)
    ]
    if not fitting:
        raise _does_not_fit(array, wanted, old, new, either(sorted(kinds)), "weight", shapes)
    if len(fitting) == 1:
        return fitting
    places = np.arange(array.size).reshape(array.shape)
    results = [move.of(places) for move in fitting]
    return [
        move
        for n, move in enumerate(fitting)
        if not any(np.array_equal(results[n], earlier) for earlier in results[:n])
    ]


def _kinds(old: Layer, new: Layer, transposed: Transposed) -> set[str]:
    """The kinds that both layers can be."""
    kinds = old.kinds & new.kinds
    if not kinds:
        raise refusal(
            ValueError,
            "tree",
            f"layer {old.name!r}",
            f"{_described_layer(old)}, but like's {new.name!r} is {_described_layer(new)}",
            "expected layers of one kind",
            "Check names.",
        )
    if transposed is None or not kinds & set(CONVOLUTIONS):
        return kinds
    patterns = [] if isinstance(transposed, bool) else transposed
    told = transposed is True or any(fnmatch.fnmatchcase(old.name, pattern) for pattern in patterns)
    kind = "conv_transpose" if told else "conv"
    if kind in kinds:
        return {kind}
    if not told and not isinstance(transposed, bool):  # a list need not name what the trees themselves say
        return kinds
    raise refusal(
        ValueError,
        "transposed",
        shown(transposed),
        f"layer {old.name!r} is {either(sorted(kinds))}, as its class or node says",
        f"expected what agrees, or a list without {old.name!r}",
        "Use a list of the transposed ones.",
    )


def _candidates(
    kind: str, shape: tuple[int, ...], wanted: tuple[int, ...], source: KernelLayout, target: KernelLayout
) -> list[Move]:
    """The moves that a kernel of this kind allows."""
    if kind == "dense":
        return [Move(kind, source.dense, target.dense, 1, False)]
    if kind == "conv_transpose":
        old, new = source.conv_transpose, target.conv_transpose
        return [Move(kind, old, new, groups_of(shape, old, wanted, new), source.flipped != target.flipped)]
    found = [Move(kind, source.conv, target.conv, 1, False)]
    if source.depthwise and not target.depthwise:
        apart, whole = (source.depthwise, shape), (target.conv, wanted)
    elif target.depthwise and not source.depthwise:
        apart, whole = (target.depthwise, wanted), (source.conv, shape)
    else:
        return found
    groups = max(dict(zip(axis_names(apart[0], len(apart[1])), apart[1], strict=True))["gi"], 1)
    if dict(zip(axis_names(whole[0], len(whole[1])), whole[1], strict=True))["i"] == 1:
        found.append(Move(kind, source.depthwise or source.conv, target.depthwise or target.conv, groups, False))
    return found


def moved_leaf(old: Layer, new: Layer, role: str, move: Move | None, source: KernelLayout, target: KernelLayout) -> Any:
    """The old layer's leaf of this role, as the new layer has it."""
    array, wanted = any_array("tree", old.leaves[role]), tuple(new.leaves[role].shape)
    if role == "weight" and move is not None:
        return move.of(array)
    kinds = old.kinds & new.kinds
    found = None
    if role == "weight" and kinds == {"prelu"}:
        found = _prelu_slopes(array, wanted, source, target)
    elif array.shape == wanted:
        found = array
    elif max(array.shape, default=1) == array.size and max(wanted, default=1) == math.prod(wanted) == array.size:
        found = array.reshape(wanted)  # 1-D, apart from the dimensions of 1 that Equinox's biases have
    if found is None:
        raise _does_not_fit(array, wanted, old, new, either(sorted(kinds)), role, [array.shape])
    return found


def _prelu_slopes(array: Any, wanted: tuple[int, ...], source: KernelLayout, target: KernelLayout) -> Any:
    """A PReLU's slopes: one, one for each channel, or one for each element; None if they don't fit."""
    last = [layout.conv.startswith("*") for layout in (source, target)]  # where the channels are
    old, new = ("* o" if channels_last else "o *" for channels_last in last)
    if array.ndim == len(wanted) > 0 and moved_shape(array.shape, old, new, 1) == wanted:
        return moved(array, old, new, 1, False)
    of_channels = all(
        math.prod(shape) == (shape[-1 if channels_last else 0] if shape else 1) == array.size
        for shape, channels_last in zip((array.shape, wanted), last, strict=True)
    )
    return array.reshape(wanted) if of_channels else None


def _does_not_fit(
    array: Any,
    wanted: tuple[int, ...],
    old: Layer,
    new: Layer,
    kinds: str,
    role: str,
    shapes: list[tuple[int, ...]],
) -> Exception:
    if wanted in shapes:
        expected = f"expected a kernel of {old.groups} groups, as the node of {old.name!r} says"
        mend = "Make like's layer one of as many groups."
    else:
        others = dict.fromkeys(map(str, map(list, shapes or [array.shape])))
        expected = f"expected what becomes {list(wanted)}, not {either(others)}"
        mend = (
            "Give both as many slopes (num_parameters, shared_axes, the shape of init_alpha)."
            if kinds == "prelu"
            else "Check names, transposed, source and target."
        )
    return refusal(
        ValueError,
        "tree",
        described(array),
        f"its {kinds} {role} doesn't fit like's layer {new.name!r}",
        expected,
        mend,
    )


def _described_layer(layer: Layer) -> str:
    return f"{either(sorted(layer.kinds)) if layer.kinds else 'of no known kind'} with {role_names(layer.roles)}"


def role_names(roles: set[str]) -> str:
    return " and ".join(role for role in ROLES if role in roles) or "nothing"
