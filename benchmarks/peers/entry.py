"""What a peer hands over for one piece of work: a step to time, and a way to read what it returned."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ..work.cases import Array, Case, Ensemble
from ..work.models import Model
from ..work.ordinary import Ordinary
from ..work.stacks import Stack

Work = Case | Ordinary | Ensemble | Stack | Model


class Costs(NamedTuple):
    """Of a JAX program."""

    compile_s: float  # tracing, lowering and compiling
    temp_bytes: int | None  # the most that is allocated beside arguments and results; None where XLA does not tell


class Entry(NamedTuple):
    """One peer's step: its arguments are made, in its own layouts, and it has been compiled."""

    run: Callable[[], Any]  # returns once the results are there
    results: Callable[[Any], list[Array]]  # what `run` returned, as float32 in jdeconv's layouts
    costs: Costs | None = None


# (work, its arrays, dtype, pass) to an entry; NotImplementedError says why the peer can't be asked.
Builder = Callable[[Any, Any, str, str], Entry]
