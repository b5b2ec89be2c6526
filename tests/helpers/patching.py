"""What is routed by jdeconv.patch: two functions, and what their programs hold."""

import jax
import numpy as np
from jax import lax

ORIGINALS = {name: getattr(lax, name) for name in ("conv_transpose", "conv_general_dilated")}
X, W = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((2, 5, 6, 4), (3, 3, 4, 6)))


def program(f, *operands):
    return str(jax.make_jaxpr(f)(*operands))


def routed(f, *operands):
    """Whether the program has jdeconv's operator and no convolution of lax's."""
    text = program(f, *operands)
    assert ("transposed_convolution" in text) != ("conv_general_dilated" in text), text
    return "transposed_convolution" in text


def transposed(x, w):
    return lax.conv_transpose(x, w, (2, 2), "SAME")


def dilated(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), [(1, 2), (0, 3)], (2, 1), None, ("NHWC", "HWIO", "NHWC"))
