"""The ways to compute the operator: one module each, all satisfying `Formulation`, listed in `METHODS`."""

import dataclasses
from typing import Any, Protocol

import jax
from jax import lax

from .._geometry import Geometry
from . import conv


@dataclasses.dataclass(frozen=True)
class Engine:
    """What runs a formulation's convolutions: XLA's own, at one precision and with one type of result."""

    precision: Any
    dtype: Any

    def conv(self, lhs: jax.Array, rhs: jax.Array, **arguments: Any) -> jax.Array:
        """`lax.conv_general_dilated` with this engine's precision and result type."""
        return lax.conv_general_dilated(
            lhs, rhs, precision=self.precision, preferred_element_type=self.dtype, **arguments
        )


class Formulation(Protocol):
    """A module that computes some or all of the three results. It is asked only where some output is reached.

    Operands and results: x `(n, *in, g, i)`, w `(*k, o, g, i)`, y `(n, *out, g, o)`.
    """

    def supports(self, geometry: Geometry, result: str) -> str | None:
        """None if this formulation computes `result`, else the reason why not, which the error shows."""

    def transpose_conv(self, x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
        """`result="output"`: y from x and w."""

    def input_grad(self, w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
        """`result="input"`: x from w and y, the strided convolution."""

    def kernel_grad(self, x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
        """`result="kernel"`: w from x and y."""


METHODS: dict[str, Formulation] = {"lax": conv}
