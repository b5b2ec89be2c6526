"""The ways to compute the operator: one module each, all satisfying `Formulation`, listed in `METHODS`."""

from . import gemm, lax_conv, pallas, phase, taps
from .formulation import Formulation

METHODS: dict[str, Formulation] = {"lax": lax_conv, "phase": phase, "gemm": gemm, "taps": taps, "pallas": pallas}
