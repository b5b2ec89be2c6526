"""Random geometries against live TensorFlow, PyTorch and ONNX Runtime: values, both gradients, what is refused."""

import dataclasses

import numpy as np
import pytest
from cases import Case, cases, legal_sizes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peers import needs, onnx_run, peer, tensorflow_run, torch_run
from refused import ROWS, X

import jdeconv

tf, torch, onnx, onnxruntime = map(peer, ("tensorflow", "torch", "onnx", "onnxruntime"))
needs_tf, needs_torch = needs(tf, "TensorFlow"), needs(torch, "PyTorch")
needs_onnx = needs(onnxruntime and onnx, "ONNX Runtime")

# Relative to the largest magnitude; half precision: both sides round a few times more.
ROOM = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-2, "bfloat16": 1e-1}


def agree(case, found, wanted):
    for got, want in zip(found, wanted, strict=True):
        got, want = np.asarray(got, "float64"), np.asarray(want, "float64")
        assert got.shape == want.shape
        error = np.abs(got - want).max(initial=0)
        assert error <= ROOM[case.dtype] * np.abs(want).max(initial=0), f"{case}\n{error} of {np.abs(want).max()}"


@needs_tf
@given(case=cases(dtypes=("float32", "float32", "float64"), ranks=(2,)))
def test_tensorflow_2d(case):
    wanted = tensorflow_run(tf, case)
    agree(case, case.run()[: len(wanted)], wanted)


@needs_tf
@settings(max_examples=settings.default.max_examples // 2)
@given(case=cases(dtypes=("float32", "float64"), ranks=(1, 3), explicit=False))
def test_tensorflow_1d_and_3d(case):
    wanted = tensorflow_run(tf, case)
    agree(case, case.run()[: len(wanted)], wanted)


@needs_tf
@settings(max_examples=settings.default.max_examples // 4)
@given(case=cases(dtypes=("float16", "bfloat16"), ranks=(1, 2), explicit=False, most_groups=1, dilated=False))
def test_tensorflow_in_half_precision(case):
    wanted = tensorflow_run(tf, case)
    agree(case, case.run()[: len(wanted)], wanted)


@needs_torch
@given(case=cases(dtypes=("float32", "float64")))
def test_pytorch(case):
    wanted = torch_run(torch, case)
    assume(wanted is not None)
    agree(case, case.run(), wanted)


@needs_onnx
@settings(max_examples=settings.default.max_examples // 2)
@given(case=cases(dtypes=("float32",), ranks=(1, 2, 3)))
def test_onnx_runtime(case):
    agree(case, case.run()[:1], [onnx_run(onnx, onnxruntime, case)])


@needs_tf
@needs_torch
def test_their_tensors_are_arrays_too():
    case = Case(2, (3, 4), (3, 2), (2, 2), (1, 1), "SAME", (5, 8), 1, 2, 3)
    x, w, _ = case.arrays()
    wanted = jdeconv.conv2d_transpose(x, w, (2, 5, 8, 3), 2)
    shape = tf.TensorShape((2, 5, 8, 3))
    np.testing.assert_array_equal(jdeconv.conv2d_transpose(tf.constant(x), tf.constant(w), shape, 2), wanted)
    np.testing.assert_array_equal(jdeconv.conv2d_transpose(torch.tensor(x), torch.tensor(w), shape, 2), wanted)


# What is refused


def refuses(call):
    """The error that the call raises, or None."""
    try:
        call()
    except Exception as error:  # TensorFlow's are of many kinds, some of them XLA's
        return error
    return None


@needs_tf
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tf])
def test_tensorflow_refuses_what_is_refused_here(name):
    row = ROWS[name]
    module = tf.compat.v1.nn if row.function == "conv2d_transpose" else tf.nn
    assert refuses(lambda: getattr(module, row.function)(**row.call)), row.call


INTS = st.integers(-1, 3)
STEPS = st.one_of(
    st.none(), INTS, st.lists(INTS, min_size=0, max_size=5), st.lists(st.integers(1, 3), min_size=2, max_size=2),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.just(1)),
)  # fmt: skip
PAIR = st.lists(st.integers(-1, 4), min_size=1, max_size=2)
PADDINGS = st.one_of(
    st.sampled_from(["SAME", "VALID"]),
    st.sampled_from(["same", "EXPLICIT", "FULL", ""]),
    st.tuples(st.just([0, 0]), PAIR, PAIR, st.sampled_from([[0, 0], [0, 0], [0, 1]])),
    st.lists(PAIR, min_size=0, max_size=5),
)


@needs_tf
@settings(max_examples=settings.default.max_examples * 3)
@given(
    data=st.data(), strides=STEPS, padding=PADDINGS, kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    data_format=st.sampled_from(["NHWC", "NHWC", "NHWC", None, "NWHC"]),
    filter_channels=st.tuples(st.integers(1, 4), st.sampled_from([4, 4, 4, 3])),
)  # fmt: skip
def test_tensorflow_agrees_on_what_is_refused(data, strides, padding, kernel, data_format, filter_channels):
    """Undilated, ungrouped calls, which TensorFlow's own CPU kernels judge, without oneDNN."""
    w = np.zeros((*kernel, *filter_channels), np.float32)
    spatial = data.draw(st.tuples(st.integers(0, 20), st.integers(0, 24)))
    if data.draw(st.booleans()):  # most free draws are refused; aim at what is reachable
        step = [2, 2] if strides is None or isinstance(strides, int) else [*strides, 1, 1, 1, 1][:4][-3:-1]
        strides = strides if strides is not None else 2
        step = [strides, strides] if isinstance(strides, int) else step
        pads = (
            [padding] * 2 if isinstance(padding, str) else [tuple(p) for p in [*padding, (0, 0), (0, 0), (0, 0)][1:3]]
        )
        if all(s > 0 for s in step) and all(p in ("SAME", "VALID") or len(p) == 2 for p in pads):
            sizes = [legal_sizes(n, k, s, 1, p) for n, k, s, p in zip((5, 7), kernel, step, pads, strict=True)]
            spatial = tuple(data.draw(st.sampled_from(options or [1])) for options in sizes)
    shape = (data.draw(st.sampled_from([2, 2, 2, 2, 3])), *spatial,
             data.draw(st.sampled_from([filter_channels[0]] * 4 + [filter_channels[0] + 1])))  # fmt: skip
    if shape[3] % filter_channels[0] == 0 and shape[3] != filter_channels[0]:
        shape = (*shape[:3], filter_channels[0])  # grouped: the CPU kernels refuse what XLA accepts
    assume(all(shape))  # with an empty output TensorFlow skips its checks
    call = {"value": X, "filter": w, "output_shape": shape, "strides": strides, "padding": padding,
            "data_format": data_format}  # fmt: skip
    theirs = refuses(lambda: tf.compat.v1.nn.conv2d_transpose(**call))
    ours = refuses(lambda: jdeconv.conv2d_transpose(**call))
    assert bool(ours) == bool(theirs), f"{call}\nTensorFlow: {theirs}\njdeconv: {ours}"
    assert ours is None or isinstance(ours, (ValueError, TypeError))


@needs_tf
@settings(max_examples=max(settings.default.max_examples // 4, 1))
@given(case=cases(dtypes=("float32",), ranks=(2,)), offset=st.tuples(st.integers(-2, 2), st.integers(-2, 2)))
def test_tensorflow_agrees_on_grouped_and_dilated_sizes(case, offset):
    """XLA-compiled, where the CPU kernels can't judge."""
    outs = tuple(max(n + k, 1) for n, k in zip(case.out_sizes, offset, strict=True))
    case = dataclasses.replace(case, out_sizes=outs, groups=max(case.groups, 2))
    x, w, _ = case.arrays()
    call = {"value": case.to_format(x), "filter": w, **case.arguments}
    theirs = refuses(lambda: tf.function(tf.compat.v1.nn.conv2d_transpose, jit_compile=True)(**call))
    ours = refuses(lambda: jdeconv.conv2d_transpose(**call))
    assert bool(ours) == bool(theirs), f"{call}\nTensorFlow: {theirs}\njdeconv: {ours}"


@needs_tf
def test_tensorflow_by_rank():
    """tf.nn.conv_transpose and its three functions, channels first too."""
    for rank in (1, 2, 3):
        for first in (False, True):
            case = Case(2, (3, 4, 2)[:rank], (3, 2, 2)[:rank], (2, 1, 2)[:rank], (1,) * rank, "SAME",
                        (5, 4, 4)[:rank], 1, 2, 3, first)  # fmt: skip
            x, w, _ = case.arrays()
            arguments = case.arguments
            call = tf.function(lambda x, w, a=arguments: tf.nn.conv_transpose(x, w, **a), jit_compile=first)
            theirs = call(case.to_format(x), w).numpy()
            ours = jdeconv.conv_transpose(case.to_format(x), w, **arguments)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
