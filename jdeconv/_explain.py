"""What the planner chooses for a call, and what the call costs, as a value that prints as a table."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax

from ._errors import blames_caller, refusal
from ._facade.apply import transpose_conv
from ._facade.arrays import ranked_array
from ._formulations import METHODS, engine_for
from ._geometry import Geometry
from ._operator.primitive import LETTERS, problem_of, solve, transposed_convolution_p
from ._plan.choose import Choice, choose
from ._plan.problem import Problem
from ._plan.rules import RULES
from ._tf import DATA_FORMATS, one_of, prepare

PASSES = {"output": "forward", "input": "input gradient", "kernel": "kernel gradient"}


@dataclasses.dataclass(frozen=True)
class Pass:
    """One of the three: its problem, and the formulation that each platform computes it with."""

    problem: Problem
    choices: dict[str, Choice]
    bytes: Any
    """Of the operands and the result."""
    temporary: int | None
    """Bytes beside those that the compiled program needs, on this process's default backend; None: sizes unknown,
    or the method asked for has no program there."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` returns. `str()` of it is a table."""

    geometry: Geometry
    groups: int
    passes: tuple[Pass, ...]
    backend: str
    """The platform that `temporary` was compiled for."""

    def __str__(self) -> str:
        g = self.geometry
        platforms = list(self.passes[0].choices)
        head = ["pass", *platforms, "GFLOP", "MB", f"temporary MB ({self.backend})"]
        rows = [
            [
                PASSES[p.problem.result],
                *(_named(p.choices[platform]) for platform in platforms),
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
        rules = {choice.rule for p in self.passes for choice in p.choices.values() if choice.rule}
        lines += [f"{rule.method}: {rule.evidence}" for rule in RULES if rule in rules]
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

    It answers for one device, and so for each device's part of a program that `jit` partitions; those that are exported
    or made while `jax_compilation_cache_dir` is set, use `lax`. Nothing is computed, but the three passes are compiled
    for the default backend, to read their temporary memory.

    Args:
      value, filter: arrays, or `jax.ShapeDtypeStruct`s; of rank 3, 4 or 5, the spatial rank being 1, 2 or 3.
      data_format: None (default) is channels last.
      output_shape, strides, padding, name, input, filters, dilations, precision, preferred_element_type, method: as in
        `conv2d_transpose`.

    Returns:
      An `Explanation`: geometry, groups and, for forward, input gradient and kernel gradient, the choice for cpu, gpu
      and tpu with the rule behind it, the definition's FLOPs, the bytes of operands and result, and the bytes that the
      program needs beside them. It prints as a table.

    Raises:
      ValueError, TypeError, NotImplementedError: as `conv2d_transpose`.

    Example:
      >>> x, w = jax.ShapeDtypeStruct((1, 8, 8, 4), "float32"), jax.ShapeDtypeStruct((2, 2, 6, 4), "float32")
      >>> explanation = explain(x, w, strides=2)
      >>> explanation.passes[0].problem.flops  # 8 * 8 positions, 2 * 2 taps, 4 * 6 pairs of channels
      12288
      >>> explanation.passes[2].choices["cpu"].method
      'gemm'
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
    names = value_name, filter_name
    arguments = (output_shape, strides, padding, data_format, dilations, "explain" if name is None else name, names)
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    jaxpr = jax.make_jaxpr(lambda x, w: transpose_conv(prepare(rank, x, w, *arguments, **options)))(x, w)
    equation = next(_equations(jaxpr.jaxpr))
    parameters = equation.params
    a, b = (operand.aval for operand in equation.invars)
    sizes = problem_of(a, b, parameters["geometry"], parameters["result"], parameters["dtype"])
    avals = dict(zip(LETTERS, [a, b, equation.outvars[0].aval], strict=True))
    passes = tuple(_pass(dataclasses.replace(sizes, result=result), avals, parameters) for result in PASSES)
    return Explanation(sizes.geometry, sizes.groups, passes, jax.default_backend())


def _operand(name: str, value: Any) -> Any:
    return value if isinstance(value, jax.ShapeDtypeStruct) else ranked_array(name, value, None)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The operator's equations, also those inside others (a mesh with explicit axes puts one around them)."""
    for equation in jaxpr.eqns:
        if equation.primitive is transposed_convolution_p:
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from _equations(getattr(inner, "jaxpr", inner))


def _pass(problem: Problem, avals: dict[str, Any], parameters: dict[str, Any]) -> Pass:
    method, precision = parameters["method"], parameters["precision"]
    choices = {
        platform: choose(platform, engine_for(problem) if platform == "cpu" else "xla", problem, method, METHODS)
        for platform in ("cpu", "gpu", "tpu")
    }
    operands = {
        role: jax.ShapeDtypeStruct(aval.shape, aval.dtype) for role, aval in avals.items() if role != problem.result
    }

    def compute(operands: dict[str, jax.Array]) -> jax.Array:
        dtype = avals[problem.result].dtype
        return solve(problem.result, problem.geometry, dtype=dtype, precision=precision, method=method, **operands)

    known = all(isinstance(size, int) for aval in avals.values() for size in aval.shape)
    try:
        memory = jax.jit(compute).lower(operands).compile().memory_analysis() if known else None
    except NotImplementedError:  # a kernel that is for other platforms
        memory = None
    total = sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals.values())
    return Pass(problem, choices, total, memory.temp_size_in_bytes if memory else None)


def _named(choice: Choice) -> str:
    return choice.method if choice.engine == "xla" else f"{choice.method} ({choice.engine})"


def _scaled(amount: Any, unit: float) -> str:
    return f"{amount / unit:.3g}" if isinstance(amount, int) else "?"
