"""Every way that may compute a problem on a platform: what measuring has to choose from. No JAX here."""

from collections.abc import Mapping, Sequence

from .choose import AUTO, Choice, choose
from .engine_kind import XLA, EngineKind
from .problem import Problem, Supports
from .ways import calls_engine, ways


def candidates(
    platform: str, engines: Sequence[EngineKind], problem: Problem, methods: Mapping[str, Supports]
) -> tuple[Choice, ...]:
    """The ways to compute the problem on `platform`: method 'lax' first, the table's own choice among them.

    Left out are ways that are wrong with infinite operands, that compile for minutes, or whose patches fill the memory.

    Args:
      engines: what may run the program, the table's engine first: on a CPU with oneDNN its kind and `XLA`, else `XLA`.
    """
    lax = choose(platform, XLA if XLA in engines else engines[0], problem, "lax", methods)
    default = choose(platform, engines[0], problem, AUTO, methods)
    default = Choice(default.method, default.variant, default.engine, None)
    found = (
        Choice(method, variant, engine, None)
        for number, engine in enumerate(engines)
        for method, variant in ways(platform, engine, problem, methods)
        if number == 0 or calls_engine(method, variant, problem)
    )
    return tuple(dict.fromkeys((lax, *found, default)))
