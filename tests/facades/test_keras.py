"""jdeconv.keras against live Keras on its PyTorch and TensorFlow backends: its tests' cases, and random ones."""

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import pickle
import subprocess
import sys
import types

import jax
import keras_child
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peers import check_close, refuses, trace

import jdeconv

ROOM = {"float32": 1e-5, "float64": 1e-12}


@contextlib.contextmanager
def keras_on(backend):
    """A function that asks Keras on this backend, or skips where either is not installed."""
    absent = [name for name in ("keras", backend) if importlib.util.find_spec(name) is None]
    if absent and os.environ.get("JDECONV_ORACLES") != "1":
        pytest.skip(f"{' and '.join(absent)} not installed")
    command = [sys.executable, keras_child.__file__, backend]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:

        def ask(*request):
            pickle.dump(request, child.stdin)
            child.stdin.flush()
            return pickle.load(child.stdout)

        yield ask
        child.stdin.close()


@pytest.fixture(scope="module")
def keras_on_torch():
    with keras_on("torch") as ask:
        yield ask


@pytest.fixture(scope="module")
def keras_on_tensorflow():
    with keras_on("tensorflow") as ask:
        yield ask


@dataclasses.dataclass(frozen=True)
class Call:
    inputs: tuple
    kernel: tuple
    arguments: dict
    dtype: str = "float32"
    seed: int = 0

    def draw(self, *shapes):
        rng = np.random.default_rng(self.seed)
        return [rng.standard_normal(shape).astype(self.dtype) for shape in shapes]

    def check(self, ask):
        """The result and both gradients; False where TensorFlow's kernels refuse the call."""
        with jax.enable_x64(self.dtype == "float64"):
            operands = self.draw(self.inputs, self.kernel)
            shape = jax.eval_shape(lambda *o: jdeconv.keras.conv_transpose(*o, **self.arguments), *operands).shape
            *operands, cotangent = self.draw(self.inputs, self.kernel, shape)
            wanted = ask(*operands, cotangent, self.arguments)
            if isinstance(wanted, str):
                assert "BackpropInput" in wanted, f"{self}\n{wanted}"  # TensorFlow's kernels, on the sizes
                return False
            found = jax.jit(self._three)(*operands, cotangent)
            check_close(found, wanted, ROOM[self.dtype], self)
        return True

    def _three(self, inputs, kernel, cotangent):
        y, pull = jax.vjp(lambda *o: jdeconv.keras.conv_transpose(*o, **self.arguments), inputs, kernel)
        return y, *pull(cotangent)


# Keras's own tests: ops/nn_test.py and layers/convolutional/conv_transpose_test.py


def _row(inputs, kernel, strides, padding="valid", output_padding=None, data_format="channels_last", dilation_rate=1):
    names = dict(strides=strides, padding=padding, output_padding=output_padding, data_format=data_format)
    return Call(inputs, kernel, {**names, "dilation_rate": dilation_rate})


THEIRS = [
    _row((2, 4, 3), (2, 5, 3), 2),
    _row((2, 4, 3), (2, 5, 3), 2, "same"),
    _row((2, 4, 3), (2, 5, 3), 5, "valid", 4),
    _row((2, 4, 4, 3), (2, 2, 5, 3), 2),
    _row((2, 4, 4, 3), (2, 2, 5, 3), (2, 2), "same"),
    _row((2, 4, 4, 3), (2, 2, 5, 3), (5, 5), "valid", 4),
    _row((2, 8, 4), (2, 5, 4), 2),
    _row((2, 8, 4), (2, 6, 4), 3, "same", 2),
    _row((2, 8, 4), (2, 6, 4), (2,)),
    _row((2, 8, 8, 4), (2, 2, 5, 4), 2),
    _row((2, 8, 8, 4), (2, 2, 6, 4), 3, "same", 2, dilation_rate=(1, 1)),
    _row((2, 4, 8, 8), (2, 3, 6, 4), (2, 1), data_format="channels_first"),
    _row((1, 14, 14, 2), (7, 7, 2, 2), (16, 16)),
    _row((2, 14, 14, 4), (7, 7, 6, 4), 16, "same", 2),
    _row((2, 8, 8, 8, 4), (2, 2, 2, 5, 4), 2),
    _row((2, 8, 8, 8, 4), (2, 2, 2, 6, 4), 3, "same", 2),
    _row((2, 8, 8, 8, 4), (2, 2, 3, 6, 4), (2, 1, 2)),
]

CONSISTENCY = [
    _row((1, 3, 1), (kernel, 1, 1), strides, padding, output_padding)
    for kernel, strides, padding, output_padding in itertools.product(
        range(1, 5), range(1, 5), ["same", "valid"], [None, 1, 2, 3]
    )
    if output_padding is None or output_padding < strides
]


@pytest.mark.parametrize("call", THEIRS, ids=lambda call: f"{call.inputs} {call.kernel} {call.arguments['padding']}")
def test_their_cases(keras_on_torch, call):
    assert call.check(keras_on_torch)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_their_consistency_cases(keras_on_torch, padding):
    """An input of 3 ones, without gradients, so that 80 cases take as long as a few."""
    for call in CONSISTENCY:
        if call.arguments["padding"] == padding:
            inputs, kernel = np.ones(call.inputs, "float32"), np.arange(1.0, call.kernel[0] + 1, dtype="float32")
            kernel = kernel.reshape(call.kernel)
            wanted = keras_on_torch(inputs, kernel, None, call.arguments)
            check_close([jdeconv.keras.conv_transpose(inputs, kernel, **call.arguments)], wanted, 1e-6, call)


# Random calls


@st.composite
def calls(
    draw, dtypes=("float32", "float64"), most_dilation=3, formats=("channels_last", "channels_first"), ranks=(1, 2, 3)
):
    rank = draw(st.sampled_from(ranks))
    most = {1: 9, 2: 6, 3: 3}[rank]
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    in_sizes, kernel = each(1, most), each(1, most - 1)
    arguments = dict(strides=each(1, 4), dilation_rate=each(1, most_dilation))
    arguments["output_padding"] = draw(st.sampled_from([None, each(0, 3), each(0, 6)]))
    arguments = {
        name: value[0] if value is not None and len(set(value)) == 1 else value for name, value in arguments.items()
    }
    arguments["padding"] = draw(st.sampled_from(["valid", "same", "VALID", "Same"]))
    arguments["data_format"] = draw(st.sampled_from(formats))
    if arguments["padding"].lower() == "same" and arguments["output_padding"] is not None:
        # An even kernel and no padding may leave nothing, of which PyTorch has no gradient.
        assume(min(in_sizes) > 1 or np.min(arguments["output_padding"]) > 0)
    batch, c_in, c_out = (draw(st.integers(1, 3)) for _ in range(3))
    last = arguments["data_format"] == "channels_last"
    inputs = (batch, *in_sizes, c_in) if last else (batch, c_in, *in_sizes)
    return Call(inputs, (*kernel, c_out, c_in), arguments, draw(st.sampled_from(dtypes)), draw(st.integers(0, 99)))


@settings(max_examples=settings.default.max_examples * 4 // 3)
@given(call=calls())
def test_random_calls_on_pytorch(keras_on_torch, call):
    assert call.check(keras_on_torch)


@settings(max_examples=max(settings.default.max_examples // 2, 1))
@given(call=calls(dtypes=("float32",), most_dilation=1, formats=("channels_last",), ranks=(1, 2)))
def test_random_calls_on_tensorflow(keras_on_tensorflow, call):
    """Those that TensorFlow's CPU kernels compute: the strided convolution leads back from the output's size.

    No volumes: there its input gradient is read a position off where the stride exceeds the kernel (TensorFlow 2.21).
    """
    assume(call.check(keras_on_tensorflow))


# What is refused. Left to either library, and not drawn: a negative output_padding (PyTorch's, NumPy's and JAX's
# backends cut, TensorFlow's refuses), output_padding of too many entries or with None among them (Keras reads what it
# needs), ints as NumPy scalars (Keras takes none, but arrays), empty inputs and kernels without outputs (the backends
# disagree), types beyond the floats, and Python lists as operands.

GOOD = dict(inputs=(2, 5, 7, 4), kernel=(3, 2, 6, 4))
STEPS = st.one_of(
    st.integers(1, 3), st.integers(-1, 3), st.lists(st.integers(-1, 3), max_size=3), st.sampled_from([1.5, "2", None]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)  # fmt: skip
CHANGES = {
    "strides": STEPS, "dilation_rate": STEPS,
    "output_padding": st.sampled_from([None, 0, 1, 2, 5, (1, 0), [0, 3], (1,), 1.5, "1"]),
    "padding": st.sampled_from(["valid", "same", "SAME", "Valid", "causal", "full", "", None, 1]),
    "data_format": st.sampled_from(["channels_last", "channels_first", "CHANNELS_LAST", "NHWC", 3]),
    "inputs": st.sampled_from([(0, 5, 7, 4), (5, 7, 4), (5, 4), (1, 2, 5, 7, 4), (2, 4, 5, 7), (2, 1, 1, 4)]),
    "kernel": st.sampled_from([(3, 2, 6, 3), (3, 2, 6, 8), (0, 2, 6, 4), (3, 6, 4), (3, 3, 2, 6, 4), (1, 1, 1, 4)]),
}  # fmt: skip


@settings(max_examples=settings.default.max_examples * 4)
@given(data=st.data(), names=st.lists(st.sampled_from(sorted(CHANGES)), max_size=3, unique=True),
       dtypes=st.sampled_from([("float32", "float32")] * 8 + [("float32", "float16")]))  # fmt: skip
def test_keras_agrees_on_what_is_refused(keras_on_torch, data, names, dtypes):
    call = {**GOOD, **{name: data.draw(CHANGES[name], label=name) for name in names}}
    shapes = call.pop("inputs"), call.pop("kernel")
    assume(0 not in shapes[0] or len(set(dtypes)) == 1)  # with no examples PyTorch looks at no types
    extra = call.get("output_padding")
    assume(not isinstance(extra, (tuple, list)) or len(extra) <= len(shapes[1]) - 2)
    arrays = [np.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    theirs = keras_on_torch(*arrays, None, call)
    ours = refuses(lambda: trace(jdeconv.keras.conv_transpose, {"inputs": arrays[0], "kernel": arrays[1], **call}))
    assert bool(ours) == isinstance(theirs, str), f"{shapes} {call}\nKeras: {theirs}\njdeconv: {ours}"
    assert ours is None or isinstance(ours, (ValueError, TypeError))


# data_format=None


def test_the_default_format_is_what_an_imported_keras_says(keras_on_torch, monkeypatch):
    call = _row((2, 5, 3, 4), (3, 2, 6, 5), 2)  # channels first
    inputs, kernel = call.draw(call.inputs, call.kernel)
    said = types.SimpleNamespace(config=types.SimpleNamespace(image_data_format=lambda: "channels_first"))
    monkeypatch.setitem(sys.modules, "keras", said)
    keras_on_torch("data_format", "channels_first")
    try:
        wanted = keras_on_torch(inputs, kernel, None, dict(strides=2))
    finally:
        keras_on_torch("data_format", "channels_last")
    check_close([jdeconv.keras.conv_transpose(inputs, kernel, 2)], wanted, 1e-5, call)


def test_without_keras_the_default_is_channels_last(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    x, w = np.ones((1, 2, 3, 4), "float32"), np.ones((2, 2, 5, 4), "float32")
    assert jdeconv.keras.conv_transpose(x, w).shape == (1, 3, 4, 5)
    assert "keras" not in sys.modules
