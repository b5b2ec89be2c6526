"""TensorFlow: `tf.function` without XLA, with oneDNN as it comes."""

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import machine
from ..work.cases import Array, Case
from ..work.ordinary import Ordinary
from .entry import Entry


@functools.cache
def tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = importlib.import_module("tensorflow")
    # Before the first operation; two gradients that run beside each other share the threads.
    tf.config.threading.set_intra_op_parallelism_threads(machine.threads())
    tf.config.threading.set_inter_op_parallelism_threads(machine.threads())
    tf.config.set_visible_devices([], "GPU")
    return tf


def convolution(
    x: Any,
    w: Any,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    groups: int,
) -> Any:
    """The ordinary convolution with a kernel `(*K, i / groups, o)`, dense or depthwise."""
    tf, channels = tensorflow(), x.shape[-1]
    reach = [(k - 1) * d for k, d in zip(w.shape, dilations, strict=False)]
    if set(strides) == {1} and all(
        pair == (total // 2, -(-total // 2)) for pair, total in zip(pads, reach, strict=True)
    ):
        padding = "SAME"
    else:
        padding = "VALID"
        if any(low or high for low, high in pads):
            x = tf.pad(x, [(0, 0), *pads, (0, 0)])
    if groups == 1:
        return tf.nn.convolution(x, w, strides, padding, dilations=dilations)
    if groups < channels or len(pads) != 2:
        raise NotImplementedError("TensorFlow has no grouped gradients on CPU without XLA, 2-D depthwise ones apart")
    kernel = tf.reshape(w, (*w.shape[:2], channels, -1))
    return tf.nn.depthwise_conv2d(x, kernel, (1, *strides, 1), padding, dilations=dilations)


FEWEST_OF_ONE_TAP = 16
"""With fewer output channels oneDNN's kernel gradient of one tap, strided, touches memory beyond its arrays."""


def case_entry(case: Case, arrays: tuple[Array, Array, Array], dtype: str, pass_: str) -> Entry:
    if case.groups > 1:
        raise NotImplementedError("TensorFlow has no grouped gradients on CPU without XLA")
    one_tap = max(case.kernel) == 1 < max(case.stride)
    if pass_ == "train" and one_tap and case.c_out < FEWEST_OF_ONE_TAP:
        raise NotImplementedError(
            "TensorFlow 2.21's kernel gradient of one tap, strided, to few channels kills processes"
        )
    tf = tensorflow()
    function = {1: tf.nn.conv1d_transpose, 2: tf.nn.conv2d_transpose, 3: tf.nn.conv3d_transpose}[case.rank]
    return _entry(lambda x, w: function(x, w, case.shapes[2], case.stride, "SAME"), arrays, dtype, pass_)


def ordinary_entry(work: Ordinary, arrays: tuple[Array, Array, Array], dtype: str, pass_: str) -> Entry:
    """One ordinary convolution."""
    dilations = (work.dilation,) * work.rank
    return _entry(lambda x, w: convolution(x, w, work.stride, work.pads, dilations, work.groups), arrays, dtype, pass_)


def _entry(function: Callable[[Any, Any], Any], arrays: tuple[Array, Array, Array], dtype: str, pass_: str) -> Entry:
    """The function's value, or for `'train'` its value and both gradients."""
    tf = tensorflow()
    x, w, y = (tf.cast(tf.constant(array), dtype) for array in arrays)

    # Without autograph, which would dress up the errors.
    @tf.function(jit_compile=False, autograph=False)  # type: ignore[untyped-decorator]
    def forward(x: Any, w: Any, y: Any) -> Any:
        return (function(x, w),)

    @tf.function(jit_compile=False, autograph=False)  # type: ignore[untyped-decorator]
    def train(x: Any, w: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            out = function(x, w)
        return (out, *tape.gradient(out, [x, w], output_gradients=y))

    step = {"forward": forward, "train": train}[pass_]
    # On CPU an eager call of a tf.function returns when it is done.
    return Entry(lambda: step(x, w, y), lambda found: [np.asarray(tf.cast(array, "float32")) for array in found])
