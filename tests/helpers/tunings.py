"""Tunings made by hand: entries that choose a way, for a transposed convolution of this process's device."""

import dataclasses

import jax
import numpy as np

from jdeconv import Tuning
from jdeconv._engine.device import device_kind
from jdeconv._geometry import build
from jdeconv._operator.planned import JAXLIB
from jdeconv._plan.choose import Choice
from jdeconv._plan.engine_kind import XLA
from jdeconv._plan.problem import Problem
from jdeconv._plan.tuning import Entry, Operation, Timing

X, W = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((2, 5, 6, 8), (3, 3, 6, 8)))
GEOMETRY = build((5, 6), (3, 3), (2, 2), (1, 1), "SAME")
"""Of `conv2d_transpose(X, W, None, 2)`."""
LAX, TAPS, BLOCKS = (
    Choice(method, variant, XLA, None)
    for method, variant in (("lax", "plain"), ("taps", "windows"), ("gemm", "blocks"))
)


def operation(result="output", dtype="float32", precision="default", batch=2):
    return Operation(Problem(GEOMETRY, result, batch, 1, 8, 6, dtype), dtype, dtype, precision)


def entry(best=TAPS, ms=(2.0, 1.0), device=None, jaxlib=JAXLIB, default=LAX, **changed):
    timings = Timing(default, ms[0]), Timing(best, ms[1]), Timing(BLOCKS, None, "wrong: it differs from lax")
    return Entry(device or device_kind("cpu"), jaxlib, operation(**changed), default, best, timings)


def tuning(*entries, left_out=()):
    return Tuning(entries or [entry()], left_out)


def other_engine(choice, **words):
    return dataclasses.replace(choice, engine=dataclasses.replace(choice.engine, **words))


def program(f, *operands):
    """The text of the program that jit compiles now."""
    return jax.jit(f).lower(*operands).as_text()
