"""Tests of many small programs compile longer than they run: LLVM's optimisations are left out."""

import jax
import jax.numpy as jnp


def jit(f):
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def with_gradients(f, *operands):
    """f's result and its gradients in the operands, for a cotangent that functions of like results are given alike."""
    y, pull = jax.vjp(f, *operands)
    cotangent = jnp.cos(jnp.arange(y.size, dtype=y.real.dtype)).reshape(y.shape).astype(y.dtype)
    return (y, *pull(cotangent))
