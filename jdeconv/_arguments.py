"""Integers and padding, read from every form that callers may give them in; no JAX."""

import operator
from collections.abc import Sequence
from typing import Any

from ._errors import either, refusal
from ._geometry import Padding

LARGEST = 2**31 - 1  # of a size, a step or a pad: products of two fit XLA's 64 bits
MOST_SHOWN = 16  # entries of an array or a list
LONGEST_SHOWN = 160  # characters of anything else, such as a dict of arrays


def concrete(value: Any) -> Any:
    """An array with known values, of JAX or any other library, as NumPy's array or scalar; else `value` itself.

    Inside `jit` JAX traces every operation on its own arrays, even where their values are known.
    """
    if not hasattr(value, "__array__") or not hasattr(value, "dtype"):
        return value
    try:
        return value.__array__()[()]
    except Exception:  # traced, a random key, a tensor without values: each library raises an error of its own
        return value


def items(value: Any) -> list[Any] | None:
    """The entries of a sequence or one-dimensional array; None for anything else."""
    value = concrete(value)
    if getattr(value, "ndim", 1) != 1 or not hasattr(value, "__len__") or isinstance(value, (str, bytes, set, dict)):
        return None
    try:
        return list(value)
    except (TypeError, ValueError):  # a length but no entries: a neural network's layers, a shape of unknown rank
        return None


def shown(value: Any) -> str:
    """An argument as an error message shows it: arrays as the list that a reader would have typed."""
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(shown, value[:MOST_SHOWN])) + (", ..." if len(value) > MOST_SHOWN else "")
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(value) == 1 else f"({inner})"
    if not hasattr(value, "tolist"):
        text = " ".join(repr(value).split())
        return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    if getattr(value, "size", 0) > MOST_SHOWN:
        return f"{value.dtype}{list(value.shape)}"
    try:
        return repr(value.tolist())  # NumPy's and JAX's own repr name their type
    except TypeError:  # a traced value, or a random key
        return f"traced {value.dtype}{list(value.shape)}"


def described(value: Any) -> str:
    """An array as its dtype and shape, anything else as `shown` has it."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") and hasattr(value, "shape") else shown(value)


def integer(value: Any) -> int | None:
    """`value` as an int if it is an integer known now, in an array or not; else None."""
    value = concrete(value)
    if getattr(getattr(value, "dtype", None), "kind", None) == "b":  # NumPy 2.0 still takes its booleans for integers
        return None
    try:
        return operator.index(value)
    except TypeError:  # floats, strings, and traced values
        return None


def integers(
    name: str,
    value: object,
    *,
    lengths: Sequence[int] | None = None,
    least: int | None,
    whole: object = None,
    single: bool = True,
) -> tuple[int, ...]:
    """A tuple of ints: `value` is one int, broadcast to `lengths[0]`, or a sequence of one of `lengths` (None: any).

    A sequence of length 1 is broadcast too, unless `single` is False. No int may be below `least` (None: any may).
    `whole` is the argument that an error shows, where `value` is only a part of it.
    """
    received = shown(value if whole is None else whole)
    entries = items(value)
    found = [integer(entry) for entry in ([value] if entries is None else entries)]
    ints = [entry for entry in found if entry is not None]
    if len(ints) != len(found):
        raise refusal(
            TypeError,
            name,
            received,
            "an entry is not an integer" if entries else "not an integer",
            "expected ints known at trace time",
            "Give Python ints; what is traced inside jit, as a static argument (static_argnames).",
        )
    if lengths is not None:
        if len(ints) == 1 and (single or entries is None):
            ints = ints * lengths[0]
        if len(ints) not in lengths:
            raise refusal(
                ValueError,
                name,
                received,
                f"length {len(found)}",
                f"expected an int or a sequence of length {either(sorted({*lengths, *[1] * single}))}",
                "Give one int for all spatial dimensions, or one for each.",
            )
    if least is not None and any(entry < least for entry in ints):
        raise refusal(
            ValueError,
            name,
            received,
            f"{min(ints)} is too small",
            f"expected at least {least}",
            f"Use {least} or more.",
        )
    if any(entry > LARGEST for entry in ints):
        raise refusal(
            ValueError,
            name,
            received,
            f"{max(ints)} is too large",
            f"expected at most {LARGEST}",
            "Use a size that fits into memory.",
        )
    return tuple(ints)


def flag(name: str, value: Any) -> bool:
    """A bool, of Python or in an array; 'no' and 2 are refused."""
    value = concrete(value)
    if type(value).__name__ == "bool":
        return bool(value)
    raise refusal(TypeError, name, shown(value), "not a bool", "expected True or False", "Use one of the two.")


def spatial_steps(name: str, value: object, rank: int, channel_axis: int) -> tuple[int, ...]:
    """Strides or dilations: None (1), an int, or 1, `rank` or `rank + 2` ints, with 1 for batch and channels."""
    if value is None:
        return (1,) * rank
    steps = integers(name, value, lengths=(rank, rank + 2), least=1)
    if len(steps) == rank:
        return steps
    for dimension, step in (("batch", steps[0]), ("channel", steps[channel_axis])):
        if step != 1:
            raise refusal(
                ValueError,
                name,
                shown(value),
                f"{step} in the {dimension} dimension",
                "expected 1 there",
                f"Only spatial dimensions have {name}; give those {rank} alone, or 1 for batch and channels.",
            )
    return spatial(steps, channel_axis)


def spatial(entries: tuple[Any, ...], channel_axis: int) -> tuple[Any, ...]:
    """The spatial entries of one per dimension, where the batch is first and channels are second or last."""
    return entries[2:] if channel_axis == 1 else entries[1:-1]


def tensorflow_padding(value: object, rank: int, channel_axis: int) -> Padding:
    """'SAME', 'VALID', or a (low, high) pair for every dimension, zeros for batch and channels."""
    if isinstance(value, str) or items(value) is None:
        return spatial_padding(value, rank + 2)
    pairs = int_pairs(value, rank + 2)
    if any(pairs[0]) or any(pairs[channel_axis]):
        raise refusal(
            ValueError,
            "padding",
            shown(value),
            "batch or channels padded",
            "expected [0, 0] for both",
            "Pad spatial dimensions only, in the order of data_format.",
        )
    return spatial(pairs, channel_axis)


def spatial_padding(value: object, count: int) -> Padding:
    """'SAME', 'VALID', or `count` pairs of ints from 0."""
    return value if isinstance(value, str) and value in ("SAME", "VALID") else int_pairs(value, count)


def int_pairs(value: object, count: int, least: int | None = 0) -> tuple[tuple[int, int], ...]:
    """Padding as `count` pairs of ints, none below `least` (None: any)."""
    pairs = items(value)
    expected = f"expected 'SAME', 'VALID' or {f'{count} [low, high] pairs' if count > 1 else 'one [low, high] pair'}"
    if pairs is None:
        kind: type[Exception] = ValueError if isinstance(value, str) else TypeError
        problem = "unknown" if isinstance(value, str) else "neither a string nor a list"
        mend = "Spell a string in capitals, or list the pairs."
        raise refusal(kind, "padding", shown(value), problem, expected, mend)
    if len(pairs) != count or any(len(items(pair) or ()) != 2 for pair in pairs):
        raise refusal(
            ValueError,
            "padding",
            shown(value),
            f"length {len(pairs)}" if len(pairs) != count else "an entry is not a pair",
            expected,
            "Give one pair a dimension, [0, 0] where nothing is padded.",
        )
    found = [integers("padding", pair, lengths=(2,), least=least, whole=value) for pair in pairs]
    return tuple((low, high) for low, high in found)
