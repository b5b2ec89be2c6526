"""Kernels of our own for the transposed convolution, written in Pallas: one for TPU, one for GPU, each in its module.

Kernels are 2-D: a 1-D case is given height 1, and the single group has no axis. A kernel's module has

    transpose_conv(x, w, geometry, engine): x (n, h, w, i), w (kh, kw, o, i) -> (n, H, W, o), of type engine.dtype

and raises NotImplementedError, by `unsupported`, for what only it can't do. Pallas loads when a kernel is called.
"""

import dataclasses
import functools
import importlib
import importlib.util

import jax

from .._engine.engine import Engine
from .._errors import unsupported
from .._geometry import Geometry
from .._jax_compat import tpu_interpreted
from .._plan.problem import UNKNOWN, Problem
from . import lax_conv
from .formulation import Variants

DTYPES = ("bfloat16", "float32")
INTERPRET = "jax.experimental.pallas.tpu.force_tpu_interpret_mode()"


def supports(problem: Problem) -> str | None:
    """One group, one or two dimensions, no dilation, bfloat16 and float32; all sizes known."""
    geometry = problem.geometry
    if not available():
        return "this JAX has no jax.experimental.pallas; expected one that has"
    if geometry.rank > 2:
        return f"{geometry.rank} spatial dimensions; expected 1 or 2"
    if any(d > 1 for d in geometry.dilations):
        return f"dilations={geometry.dilations}; expected dilations of 1"
    if problem.groups != 1:
        return f"{problem.groups} groups; expected 1"
    if problem.dtype not in DTYPES:
        return f"{problem.dtype}; expected {' or '.join(DTYPES)}"
    if problem.unknown_channels:
        return f"an unknown number of channels, or at least {UNKNOWN}; expected a known number below that"
    sizes = (problem.batch, *geometry.input, *geometry.output)
    if unknown := [size for size in sizes if not isinstance(size, int)]:
        return f"the size {unknown[0]} is symbolic; expected a known number"
    return None


def _by_kernel(platform: str, x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The platform's kernel, called in two dimensions."""
    plane = in_plane(geometry)
    kernel = importlib.import_module(f"{__package__}.pallas_{platform}")
    x = x.reshape(x.shape[0], *plane.input, x.shape[-1])
    w = w.reshape(*plane.kernel, w.shape[-3], w.shape[-1])
    y = kernel.transpose_conv(x, w, plane, engine)
    return y.reshape(y.shape[0], *geometry.output, 1, y.shape[-1])


def _interpreted(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The TPU kernel, interpreted on a CPU."""
    if not tpu_interpreted():
        raise unsupported("pallas", "no kernel for CPU; expected a TPU or GPU", f"Use method='auto', or {INTERPRET}.")
    return _by_kernel("tpu", x, w, geometry, engine)


def _refused(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Refuses: the platform has no kernel, or the program runs on several devices."""
    raise unsupported(
        "pallas",
        "a program over several devices; expected one device's",
        "Use method='auto', or jax.shard_map over all axes.",
    )


def in_plane(geometry: Geometry) -> Geometry:
    """The geometry in two dimensions.

    >>> from jdeconv._geometry import build
    >>> in_plane(build((5,), (4,), (2,), (1,), "SAME"))
    Geometry(input=(1, 5), kernel=(1, 4), output=(1, 10), strides=(1, 2), dilations=(1, 1), low=(0, 1))
    """
    if geometry.rank == 2:
        return geometry
    line = dataclasses.astuple(geometry)
    return Geometry(*((one, *sizes) for one, sizes in zip((1, 1, 1, 1, 1, 0), line, strict=True)))


@functools.cache
def available() -> bool:
    """Whether this JAX has Pallas; does not load it."""
    return importlib.util.find_spec("jax.experimental.pallas") is not None


VARIANTS: Variants = {
    "output": {
        "TPU kernel": functools.partial(_by_kernel, "tpu"),
        "GPU kernel": functools.partial(_by_kernel, "gpu"),
        "TPU kernel, interpreted": _interpreted,
        "none": _refused,
    },
    # Gradients are convolutions that both compilers do well.
    "input": lax_conv.VARIANTS["input"],
    "kernel": lax_conv.VARIANTS["kernel"],
}
