"""The ways to compute the operator: one module each, all satisfying `Formulation`, listed in `METHODS`."""

from typing import Protocol

from .._plan.problem import Supports
from . import gemm, lax_conv, pallas, phase, taps
from .engine import Engine as Engine
from .engine import Variants
from .engine import engine_for as engine_for


class Formulation(Supports, Protocol):
    """A module that computes some or all of the three results."""

    VARIANTS: Variants
    """For each result, the functions that compute it, by the names that `_plan.variants` gives them."""


METHODS: dict[str, Formulation] = {"lax": lax_conv, "phase": phase, "gemm": gemm, "taps": taps, "pallas": pallas}
