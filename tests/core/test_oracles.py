"""Random geometries against live TensorFlow, PyTorch and ONNX Runtime: values, both gradients, what is refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from calls import calls
from cases import Case, cases
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peers import needs, onnx_run, peer, refuses, tensorflow_run, torch_run
from refused.tensorflow import ROWS

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
@settings(max_examples=max(settings.default.max_examples // 2, 1))
@given(case=cases(dtypes=("float32", "float64"), ranks=(1, 3), explicit=False))
def test_tensorflow_1d_and_3d(case):
    wanted = tensorflow_run(tf, case)
    agree(case, case.run()[: len(wanted)], wanted)


@needs_tf
@settings(max_examples=max(settings.default.max_examples // 4, 1))
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
@settings(max_examples=max(settings.default.max_examples // 2, 1))
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


@needs_tf
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tf])
def test_tensorflow_refuses_what_is_refused_here(name):
    row = ROWS[name]
    module = tf.compat.v1.nn if row.function == "conv2d_transpose" else tf.nn
    assert refuses(lambda: getattr(module, row.function)(**row.call)), row.call


@needs_tf
@settings(max_examples=settings.default.max_examples * 3)
@given(call=calls())
def test_tensorflow_agrees_on_what_is_refused(call):
    """Undilated, ungrouped calls, which TensorFlow's own CPU kernels judge, without oneDNN."""
    theirs = refuses(lambda: tf.compat.v1.nn.conv2d_transpose(**call))
    ours = refuses(lambda: jdeconv.conv2d_transpose(**call))
    assert bool(ours) == bool(theirs), f"{call}\nTensorFlow: {theirs}\njdeconv: {ours}"
    assert ours is None or isinstance(ours, (ValueError, TypeError))


@needs_tf
@settings(max_examples=max(settings.default.max_examples // 4, 1))
@given(case=cases(dtypes=("float32",), ranks=(2,)), offset=st.tuples(st.integers(-2, 2), st.integers(-2, 2)))
def test_tensorflow_agrees_on_grouped_and_dilated_sizes(case, offset):
    """Compiled by XLA, since the CPU kernels can't judge these."""
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_check_takes_no_missing_result_and_no_hundredth(dtype):
    case = Case(2, (4, 5), (3, 3), (2, 2), (1, 1), "SAME", (8, 10), 1, 2, 2, dtype=dtype)
    right = [want.astype(jnp.dtype(dtype)) for want in case.expected()]
    case.check(right)
    for index in range(3):
        wrong = list(right)
        wrong[index] = (right[index].astype("float32") * 1.01).astype(right[index].dtype)
        with pytest.raises(AssertionError):
            case.check(wrong)
    with pytest.raises(ValueError, match="zip"):
        case.check(right[:1])
