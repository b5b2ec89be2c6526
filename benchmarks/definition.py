"""Every method against the definition in float64 NumPy, on the device at hand: what no machine without it can check."""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jdeconv._formulations import METHODS
from jdeconv._geometry import Geometry, crop
from jdeconv._operator.primitive import solve

from .report import number, table
from .work.cases import DTYPES, Array, rounded

# The operands of each result and their letters, positions and groups aside.
RESULTS = {
    "output": ("input", "kernel", "n_gi,ogi->n_go"),
    "input": ("kernel", "output", "ogi,n_go->n_gi"),
    "kernel": ("input", "output", "n_gi,n_go->ogi"),
}
EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-8}
PARTS = 4
"""Roundings for each product and sum at most: TPUs multiply float32 in parts of bfloat16."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One geometry and its channels: all three results are computed."""

    geometry: Geometry
    batch: int
    groups: int
    inputs: int
    outputs: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        g = self.geometry
        return {
            "input": (self.batch, *g.input, self.groups, self.inputs),
            "kernel": (*g.kernel, self.outputs, self.groups, self.inputs),
            "output": (self.batch, *g.output, self.groups, self.outputs),
        }

    def arrays(self, dtype: str) -> dict[str, Array]:
        rng = np.random.default_rng(0)
        return {role: rounded(rng.standard_normal(shape, "float32"), dtype) for role, shape in self.shapes.items()}


class Verdict(NamedTuple):
    """One method on one problem: its `error`, as a multiple of what rounding may do, or why there is none."""

    problem: Problem
    dtype: str
    method: str
    error: float | None = None
    refused: str | None = None
    failed: str | None = None

    @property
    def wrong(self) -> bool:
        refused = self.method == "auto" and self.refused is not None
        # Not <= 1, so that NaN is wrong too.
        return refused or self.failed is not None or (self.error is not None and not self.error <= 1)


def problems(count: int, seed: int = 0) -> Iterator[Problem]:
    """Random problems, the same at every call: any padding and output size, strides up to 16, few channels and many."""
    rng = random.Random(seed)
    for index in range(count):
        rank = (2, 1, 2, 3)[index % 4]
        stride = rng.choice((1, 2, 2, 3, 4, 8, 16)[: {1: 7, 2: 6, 3: 4}[rank]])
        dims = []
        for _ in range(rank):
            size, s = rng.randint(1, {1: 70, 2: 13, 3: 4}[rank]), rng.choice((stride, stride, min(stride, 2)))
            # 'phase' has a convolution for each phase where the kernel is no multiple of the stride.
            k = rng.choice((s, 2 * s, rng.randint(1, 7) if s < 8 else s))
            low = rng.randint(-2, min(k, (size - 1) * s + k - 1))
            high = rng.randint(-2, min(k, (size - 1) * s + k - 1 - max(low, 0)))
            dims.append((size, k, s, (low, high)))
        sizes, kernels, strides, cuts = zip(*dims, strict=True)
        groups = rng.choice((1, 1, 1, 4))
        inputs, outputs = (rng.choice((1, 3, 8, 21, 64, 130)) // (groups if groups > 1 else 1) or 1 for _ in range(2))
        yield Problem(crop(sizes, kernels, strides, (1,) * rank, cuts), rng.randint(1, 3), groups, inputs, outputs)


def defined(problem: Problem, arrays: dict[str, Array], result: str) -> Array:
    """Tap by tap: tap t joins input position p to output position p*stride + t - low."""
    first, second, letters = RESULTS[result]
    letters = letters.replace("_", "xyz"[: problem.geometry.rank])
    wide = {role: arrays[role].astype("float64") for role in (first, second)}
    wide[result] = np.zeros(problem.shapes[result])
    for tap in itertools.product(*map(range, problem.geometry.kernel)):
        parts = _joined(problem.geometry, tap)
        terms = np.einsum(letters, wide[first][parts[first]], wide[second][parts[second]], optimize=True)
        wide[result][parts[result]] += terms
    return wide[result]


def _joined(geometry: Geometry, tap: tuple[int, ...]) -> dict[str, tuple[Any, ...]]:
    """The input positions that the tap joins to an output position, and these."""
    inputs, outputs = [], []
    for size, out, s, low, t in zip(geometry.input, geometry.output, geometry.strides, geometry.low, tap, strict=True):
        start, stop = max(0, -(-(low - t) // s)), min(size, -(-(out + low - t) // s))
        count = max(stop - start, 0)
        inputs.append(slice(start, start + count))
        at = start * s + t - low
        outputs.append(slice(at, at + (count - 1) * s + 1, s) if count else slice(0, 0))
    return {"input": (slice(None), *inputs), "kernel": tap, "output": (slice(None), *outputs)}


def verdict(problem: Problem, dtype: str, method: str) -> Verdict:
    """The verdict on all three results, computed in one program."""
    arrays = problem.arrays(dtype)

    def compute(operands: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            result: solve(
                result, problem.geometry, dtype=dtype, precision=jax.lax.Precision.HIGHEST, method=method,
                **{role: operands[role] for role in RESULTS[result][:2]},
            )
            for result in RESULTS
        }  # fmt: skip

    try:
        found = jax.jit(compute)({role: jax.numpy.asarray(array, dtype) for role, array in arrays.items()})
    except NotImplementedError as error:
        return Verdict(problem, dtype, method, refused=str(error).splitlines()[0])
    except Exception as error:  # reported: the others are still to be checked
        return Verdict(problem, dtype, method, failed=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    errors = [_error(problem, arrays, dtype, found, result) for result in RESULTS]
    return Verdict(problem, dtype, method, error=float(np.max(errors)))  # NaN where any is


def _error(problem: Problem, arrays: dict[str, Array], dtype: str, found: dict[str, jax.Array], result: str) -> float:
    """The largest error, as a multiple of what rounding may do: float32's for each term, and the result's own."""
    magnitudes = defined(problem, {role: np.abs(array) for role, array in arrays.items()}, result)
    # As many terms as the sum of ones has.
    terms = defined(problem, {role: np.ones_like(array) for role, array in arrays.items()}, result)
    want = defined(problem, arrays, result)
    room = EPS[dtype] * np.abs(want) + PARTS * (terms + 1) * EPS["float32"] * magnitudes
    off = np.abs(np.asarray(found[result]).astype("float64") - want)
    return float(np.max(off / np.where(room > 0, room, np.finfo("float64").tiny), initial=0))


def verdicts(count: int) -> Iterator[Verdict]:
    """The verdicts on every method, for so many problems."""
    for problem, dtype, method in itertools.product(problems(count), DTYPES, ("auto", *METHODS)):
        yield verdict(problem, dtype, method)


def described(verdict: Verdict) -> str:
    """The verdict as a line of text."""
    outcome = verdict.failed or f"off by {number(verdict.error)} of what rounding may do"
    return f"{verdict.method}, {verdict.dtype}, {verdict.problem}: {outcome}"


def markdown(found: Sequence[Verdict]) -> str:
    """A section of the report, empty where nothing was checked."""
    if not found:
        return ""
    rows = []
    for method, dtype in dict.fromkeys((v.method, v.dtype) for v in found):
        these = [v for v in found if (v.method, v.dtype) == (method, dtype)]
        errors = [v.error for v in these if v.error is not None]
        counts = (len(these), sum(v.refused is not None for v in these), sum(v.wrong for v in these))
        rows.append((f"{method}, {dtype}", *map(str, counts), number(max(errors, default=None))))
    parts = [
        "## Every method against the definition in float64",
        "Random geometries, all three results, float32 at the highest precision. Errors are multiples of what rounding "
        "may do: 1 is the most.",
        table(("", "asked", "refused", "wrong", "largest error"), rows),
    ]
    parts += [f"- {line}" for line in dict.fromkeys(f"{v.method} refused: {v.refused}" for v in found if v.refused)]
    parts += [f"- WRONG: {described(v)}" for v in found if v.wrong]
    return "\n\n".join(["", *parts]) + "\n"


def as_data(found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The verdicts as JSON takes them."""
    return [{**v._asdict(), "problem": dataclasses.asdict(v.problem)} for v in found]
