"""`explain`: what the planner chooses for a call, and what the call costs, as a value that prints as a table."""

import dataclasses
import math
from typing import Any

import jax

from ._call.arrays import ranked_array
from ._dtypes import common_dtype
from ._errors import blames_caller, refusal
from ._geometry import Geometry
from ._operator.planned import operation_of, planned, tunings_in_use
from ._operator.primitive import operand_roles, problem_of, result_shape, solve
from ._plan.choose import Choice
from ._plan.method_table import RULES
from ._plan.problem import Problem
from ._plan.tuning import named
from ._tf import DATA_FORMATS, one_of, prepare

PASSES = {"output": "forward", "input": "input gradient", "kernel": "kernel gradient"}


@dataclasses.dataclass(frozen=True)
class Pass:
    """One of the three passes: its problem, and each platform's choice of a formulation."""

    problem: Problem
    choices: dict[str, Choice]
    bytes: Any
    """The size of operands and result."""
    temporary: int | None
    """Further bytes that the compiled program needs on this process's default backend. None where sizes are symbolic,
    or the method asked for has no program there."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` returns. `str()` of it is a table."""

    geometry: Geometry
    groups: int
    passes: tuple[Pass, ...]
    backend: str
    """The platform for which `temporary` was compiled."""

    def __str__(self) -> str:
        g = self.geometry
        platforms = list(self.passes[0].choices)
        head = ["pass", *platforms, "GFLOP", "MB", f"temporary MB ({self.backend})"]
        rows = [
            [
                PASSES[p.problem.result],
                *(named(p.choices[platform]) for platform in platforms),
                _scaled(p.problem.flops, 1e9),
                _scaled(p.bytes, 1e6),
                _scaled(p.temporary, 1e6),
            ]
            for p in self.passes
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            f"input {g.input}, kernel {g.kernel}, output {g.output}, strides {g.strides}, dilations {g.dilations}, "
            f"low {g.low}, groups {self.groups}"
        ]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows]]
        reasons = dict.fromkeys(choice.rule for p in self.passes for choice in p.choices.values() if choice.rule)
        measured = [reason for reason in reasons if reason not in RULES]
        rules = [rule for rule in RULES if rule in reasons]
        lines += [f"{reason.method}: {reason.evidence}" for reason in measured]
        lines += [f"{rule.method}: {rule.text} ({rule.evidence})" for rule in rules]
        return "\n".join(lines)


@blames_caller
def explain(
    value: Any = None,
    filter: Any = None,
    output_shape: Any = None,
    strides: Any = None,
    padding: Any = "SAME",
    data_format: str | None = None,
    name: str | None = None,
    input: Any = None,
    filters: Any = None,
    dilations: Any = None,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> Explanation:
    """How a transposed convolution is computed: which formulation on which platform, and what it costs.

    It answers for one device, and so for each device's part of a program that `jit` partitions. Partitioned programs
    that are exported, or made while `jax_compilation_cache_dir` is set, use `lax`. Nothing is computed, but the three
    passes are compiled for the default backend, to read their temporary memory.

    Args:
      value, filter: arrays, or `jax.ShapeDtypeStruct`s; of rank 3, 4 or 5, the spatial rank being 1, 2 or 3.
      data_format: None (default) is channels last.
      output_shape, strides, padding, name, input, filters, dilations, precision, preferred_element_type, method: as in
        `conv2d_transpose`.

    Returns:
      An `Explanation`: geometry, groups and three passes (forward, input gradient, kernel gradient). Each pass has the
      choices for cpu, gpu and tpu with the rules behind them (or the tuning, where one is in use that has the
      operation), the definition's FLOPs, the bytes of operands and result, and the bytes that the program needs beside
      them. It prints as a table.

    Raises:
      ValueError, TypeError, NotImplementedError: as `conv2d_transpose`.

    Example:
      >>> x, w = jax.ShapeDtypeStruct((1, 8, 8, 4), "float32"), jax.ShapeDtypeStruct((2, 2, 6, 4), "float32")
      >>> explanation = explain(x, w, strides=2)
      >>> explanation.passes[0].problem.flops  # 8 * 8 positions, 2 * 2 taps, 4 * 6 pairs of channels
      12288
      >>> explanation.passes[0].choices["cpu"].method
      'taps'
    """
    value_name, value = one_of("value", value, "input", input)
    filter_name, filter = one_of("filter", filter, "filters", filters)
    x, w = _operand(value_name, value), _operand(filter_name, filter)
    rank = x.ndim - 2
    if rank not in DATA_FORMATS:
        raise refusal(
            ValueError,
            value_name,
            f"an array of rank {rank + 2}",
            "no transposed convolution has that",
            "expected rank 3, 4 or 5",
            "Add the batch and channels dimensions.",
        )
    scope, spelt = "explain" if name is None else name, (value_name, filter_name)
    arguments = (output_shape, strides, padding, data_format, dilations, scope, spelt)
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    call = jax.eval_shape(lambda x, w: prepare(rank, x, w, *arguments, **options), x, w)
    input, kernel = (
        jax.ShapeDtypeStruct(shape, array.dtype)
        for shape, array in ((call.image_shape, call.x), (call.kernel_shape, call.w))
    )
    output = jax.ShapeDtypeStruct(result_shape(input, kernel, call.geometry, "output"), call.dtype)
    forward = problem_of(input, kernel, call.geometry, "output", call.dtype)
    roles = {"input": input, "kernel": kernel, "output": output}
    passes = tuple(
        _pass(dataclasses.replace(forward, result=result), roles, call.precision, call.method) for result in PASSES
    )
    return Explanation(forward.geometry, forward.groups, passes, jax.default_backend())


def _operand(name: str, value: Any) -> Any:
    return value if isinstance(value, jax.ShapeDtypeStruct) else ranked_array(name, value, None)


def _pass(problem: Problem, roles: dict[str, jax.ShapeDtypeStruct], precision: Any, method: str) -> Pass:
    a, b = (roles[role].dtype for role in operand_roles(problem.result))
    operation = operation_of(problem, common_dtype(a, b), roles[problem.result].dtype, precision)
    tunings = tunings_in_use()
    choices = {
        platform: planned(platform, platform == "cpu", operation, method, tunings) for platform in ("cpu", "gpu", "tpu")
    }

    def compute(operands: dict[str, jax.Array]) -> jax.Array:
        dtype = roles[problem.result].dtype
        return solve(problem.result, problem.geometry, dtype=dtype, precision=precision, method=method, **operands)

    known = all(isinstance(size, int) for role in roles.values() for size in role.shape)
    operands = {role: roles[role] for role in operand_roles(problem.result)}
    try:
        memory = jax.jit(compute).lower(operands).compile().memory_analysis() if known else None
    except NotImplementedError:  # the method has no program for this backend
        memory = None
    total = sum(math.prod(role.shape) * role.dtype.itemsize for role in roles.values())
    return Pass(problem, choices, total, memory.temp_size_in_bytes if memory else None)


def _scaled(amount: Any, unit: float) -> str:
    return f"{amount / unit:.3g}" if isinstance(amount, int) else "?"
