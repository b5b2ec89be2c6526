"""What a formulation is: what it can't do, and for each result the functions that compute it."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import jax

from .._engine.engine import Engine
from .._geometry import Geometry
from .._plan.problem import Supports

Compute: TypeAlias = Callable[[jax.Array, jax.Array, Geometry, Engine], jax.Array]
"""Computes the result from the other two roles, in the order input, kernel, output; only if an output is reached.

Input `(n, *in, g, i)`, kernel `(*k, o, g, i)`, output `(n, *out, g, o)`.
"""
Variants: TypeAlias = Mapping[str, Mapping[str, Compute]]
"""A formulation's functions, by result and variant."""


class Formulation(Supports, Protocol):
    """A module that computes some or all of the three results."""

    VARIANTS: Variants
    """For each result, the functions that compute it, by the names that the rows of `_plan.variant_table` give them."""
