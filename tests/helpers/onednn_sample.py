"""One convolution that oneDNN computes, and how many calls of it a program has."""

import jax
import numpy as np
import pytest
from jax import lax

from jdeconv._engine import onednn

needs_onednn = pytest.mark.skipif(onednn.unavailable() is not None, reason=str(onednn.unavailable()))
CALL = '"__onednn$convolution"'
SAMPLE = dict(window_strides=(1, 2), padding=((1, 0), (0, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def sample(dtype="float32"):
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 7, 9, 8)).astype(dtype), rng.standard_normal((3, 2, 8, 16)).astype(dtype)


def ours(x, w):
    return onednn.conv(x, w, **SAMPLE)


def theirs(x, w):
    return lax.conv_general_dilated(x, w, **SAMPLE)


def calls(function, *operands):
    """How many calls of oneDNN the compiled program has."""
    fresh = jax.jit(lambda *a: function(*a))  # of the same function a trace would be remembered
    return fresh.lower(*operands).compile().as_text().count(CALL)
