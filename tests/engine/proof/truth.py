"""Operands, the definition of a convolution in float64, and whether a result is as near to it as its terms allow."""

import math
from typing import Any

import ml_dtypes
import numpy as np

from .draws import Call

Array = np.ndarray[Any, Any]
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7}
MOST = 2**21  # elements of the windows that are in memory at once


def operands(call: Call) -> tuple[Array, Array]:
    rng = np.random.default_rng(call.seed)
    dtype = ml_dtypes.bfloat16 if call.dtype == "bfloat16" else call.dtype
    lhs, rhs = (rng.standard_normal(shape, "float32").astype(dtype) for shape in (call.lhs, call.rhs))
    if call.infinite:
        lhs.flat[rng.integers(lhs.size, size=call.infinite)] = rng.choice([np.inf, -np.inf, np.nan], call.infinite)
    return lhs, rhs


def definition(
    x: Array,
    w: Array,
    window_strides: Any,
    padding: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
) -> tuple[Array, int]:
    """The sum over taps and channels in the operands' type, by products of matrices, and its number of terms."""
    images, kernel, out = dimension_numbers
    spatial = "".join(axis for axis in kernel if axis not in "IO")
    rank, groups = len(spatial), feature_group_count
    x = x.transpose([images.index(axis) for axis in f"N{spatial}C"])
    w = w.transpose([kernel.index(axis) for axis in f"{spatial}IO"])
    x = np.ascontiguousarray(np.pad(x, [(0, 0), *map(tuple, padding), (0, 0)]))
    taps, (i, o) = w.shape[:rank], w.shape[rank:]
    sizes = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(x.shape[1:-1], taps, rhs_dilation, window_strides, strict=True)
    ]
    steps = x.strides[1:-1]
    # groups, batch, positions, taps, channels of the group
    windows = np.lib.stride_tricks.as_strided(
        x,
        (groups, x.shape[0], *sizes, *taps, i),
        (
            i * x.strides[-1],
            x.strides[0],
            *(step * s for step, s in zip(steps, window_strides, strict=True)),
            *(step * d for step, d in zip(steps, rhs_dilation, strict=True)),
            x.strides[-1],
        ),
        writeable=False,
    )
    terms = math.prod(taps) * i
    columns = w.reshape(terms, groups, o // groups).transpose(1, 0, 2)
    y = np.empty((groups, x.shape[0], *sizes, o // groups), x.dtype)
    rows = max(1, MOST // max(groups * terms * math.prod(sizes[1:]), 1))
    for n in range(x.shape[0]):
        for row in range(0, sizes[0], rows):
            part = windows[:, n, row : row + rows]
            y[:, n, row : row + rows] = (part.reshape(groups, -1, terms) @ columns).reshape(
                groups, *part.shape[1 : 1 + rank], o // groups
            )
    y = np.moveaxis(y, 0, -2).reshape(x.shape[0], *sizes, o)
    return y.transpose([f"N{spatial}C".index(axis) for axis in out]), terms


def expectation(call: Call, lhs: Array, rhs: Array) -> tuple[Array, Array, Array | None]:
    """The numbers, how far from them a result may be, and where it must be infinite or NaN."""
    x, w = lhs.astype("float64"), rhs.astype("float64")
    reached, finite = None, np.isfinite(x)
    if not finite.all():
        reached = definition(~finite * 1.0, np.ones_like(w), **call.arguments)[0] > 0
        x = np.where(finite, x, 0)
    numbers, terms = definition(x, w, **call.arguments)
    # Products of bfloat16 are exact in float32, in which sums are made.
    bound = (terms + 1) * EPSILON["float32"] * definition(abs(x), abs(w), **call.arguments)[0]
    if call.result == "bfloat16":
        bound += EPSILON["bfloat16"] / 2 * abs(numbers)
    return numbers, bound, reached


def wrong(result: Array, expected: tuple[Array, Array, Array | None]) -> str | None:
    """What is wrong with a result; None if nothing is."""
    numbers, bound, reached = expected
    if result.shape != numbers.shape:
        return f"shape {result.shape}, expected {numbers.shape}"
    result = result.astype("float64")
    finite = np.isfinite(result)
    with np.errstate(invalid="ignore"):
        bad = (
            ~(abs(result - numbers) <= bound)
            if reached is None
            else np.where(reached, finite, ~(abs(result - numbers) <= bound))
        )
    if not bad.any():
        return None
    at = tuple(map(int, np.argwhere(bad)[0]))
    kind = (
        "spread an infinite value or lost it" if reached is not None else "not finite" if not finite.all() else "wrong"
    )
    return f"{kind}: {bad.sum()} of {bad.size}, first at {at}: {result[at]} for {numbers[at]} within {bound[at]:.2g}"
