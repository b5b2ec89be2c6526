"""Ordinary convolutions to compile, and the text of a program without what the compiler only names."""

import re

import jax
import jax.numpy as jnp
from lax_conv_calls import Call

LAST = ("NHWC", "HWIO", "NHWC")
CALLS = {
    "dense": Call((2, 14, 14, 32), (3, 3, 32, 48), (1, 1), "SAME", None, None, LAST),
    "strided": Call((2, 14, 14, 32), (3, 3, 32, 48), (2, 2), "SAME", None, None, LAST),
    "one tap": Call((2, 14, 14, 32), (1, 1, 32, 48), (1, 1), "SAME", None, None, LAST),
    "depthwise": Call((2, 14, 14, 32), (3, 3, 1, 32), (1, 1), "SAME", None, None, LAST, 32),
    "grouped": Call((2, 8, 8, 16), (3, 3, 8, 16), (1, 1), "SAME", None, None, LAST, 2),
    "causal, dilated": Call((2, 50, 32), (3, 32, 48), (1,), [(8, 0)], None, (4,), ("NWC", "WIO", "NWC")),
    "3-D": Call((2, 6, 6, 6, 16), (3, 3, 3, 16, 32), (1, 1, 1), "SAME", None, None, ("NDHWC", "DHWIO", "NDHWC")),
}
PASSES = ("forward", "input gradient", "kernel gradient")


def traced(convolution, call, pass_, sharding):
    """One pass of `call`, by a function with the arguments of `jax.lax.conv_general_dilated`."""
    f = call.of(convolution)
    x, w = (jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding) for shape in (call.lhs, call.rhs))
    y = jax.eval_shape(f, x, w)
    y = jax.ShapeDtypeStruct(y.shape, y.dtype, sharding=sharding)
    step, operands = {
        "forward": (f, (x, w)),
        "input gradient": (lambda x, w, y: jax.vjp(lambda x: f(x, w), x)[1](y), (x, w, y)),
        "kernel gradient": (lambda x, w, y: jax.vjp(lambda w: f(x, w), w)[1](y), (x, w, y)),
    }[pass_]
    return jax.jit(step).trace(*operands)


def normalised(text):
    """The program's text without metadata, files and bitcasts, and with its names numbered."""
    text = re.sub(r"\n\s*(FileNames|FunctionNames|FileLocations|StackFrames)[\s\S]*?(?=\n\n)", "", text)
    text = re.sub(r"HloModule \S+|, frontend_attributes=\{[^}]*\}|,? ?metadata=\{[^}]*\}", "", text)
    bitcasts = re.compile(r"\n\s+(%[\w.-]+) = \S+ bitcast\((%[\w.-]+)\)[^\n]*")
    while found := bitcasts.search(text):
        text = text.replace(found[0], "", 1)
        text = re.sub(re.escape(found[1]) + r"(?![\w.-])", found[2], text)
    names = {}
    return re.sub(r"%[\w.-]+", lambda name: names.setdefault(name[0], f"%{len(names)}"), text)
