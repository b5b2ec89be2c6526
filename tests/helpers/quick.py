"""Many small programs take longer to compile than to run: they are compiled without LLVM's optimisations."""

import jax
import jax.numpy as jnp


def jit(f):
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def with_gradients(f, *operands):
    """f's result and its gradients in the operands; the cotangent depends on the result's shape and dtype alone."""
    y, pull = jax.vjp(f, *operands)
    cotangent = jnp.cos(jnp.arange(y.size, dtype=y.real.dtype)).reshape(y.shape).astype(y.dtype)
    return (y, *pull(cotangent))
