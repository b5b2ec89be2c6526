"""Live peers: TensorFlow, PyTorch and ONNX Runtime, each asked the same question as jdeconv.

Absent, their tests are skipped, unless JDECONV_ORACLES=1 (CI sets it), where a missing peer is an error.
"""

import importlib
import os

import jax
import numpy as np
import oracle
import pytest


def peer(name):
    """The module, or None where it is absent and need not be there."""
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "0"
    )  # with oneDNN its input gradient is uninitialised for some sizes
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("JDECONV_ORACLES") == "1":
            raise
        return None


def needs(module, name):
    return pytest.mark.skipif(module is None, reason=f"{name} is not installed (pip install 'jdeconv[oracles]')")


def refuses(call):
    """The error that the call raises, or None."""
    try:
        call()
    except Exception as error:  # each peer's are of many kinds
        return error
    return None


def trace(function, call):
    """The call's result as far as it is known without computing it: enough to be refused."""
    arrays = {name: value for name, value in call.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in call.items() if name not in arrays}
    return jax.eval_shape(lambda arrays: function(**arrays, **others), arrays)


def check_close(found, wanted, room, what):
    """Each array within `room` of the largest magnitude of the wanted one."""
    for got, want in zip(found, wanted, strict=True):
        got, want = (np.asarray(array, np.result_type(np.asarray(want).dtype, "float64")) for array in (got, want))
        assert got.shape == want.shape, what
        error = np.abs(got - want).max(initial=0)
        assert error <= room * np.abs(want).max(initial=0), f"{what}\n{error} of {np.abs(want).max()}"


def tensorflow_run(tf, case):
    """y and both gradients, channels last, from TensorFlow's function of the case's rank."""
    function = {1: tf.nn.conv1d_transpose, 2: tf.compat.v1.nn.conv2d_transpose, 3: tf.nn.conv3d_transpose}[case.rank]
    arguments = case.arguments
    dilated = max(case.dilations) > 1

    # XLA where the CPU kernels refuse: dilation, groups, channels first.
    @tf.function(jit_compile=case.groups > 1 or dilated or case.channels_first)
    def all_three(x, w, y):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            out = function(x, w, **arguments)
        if case.rank == 3 and dilated:  # TensorFlow's gradient of this op forgets the dilations and refuses the shapes
            return (out,)
        return (out, *tape.gradient(out, [x, w], output_gradients=y))

    x, w, y = case.arrays()
    out, *bars = (array.numpy() for array in all_three(case.to_format(x), w, case.to_format(y)))
    return [case.from_format(out), *([case.from_format(bars[0]), bars[1]] if bars else [])]


def pads_of(case):
    """(low, high) per dimension by which the full result is cut; a negative high adds rows that no tap reaches."""
    pads = []
    for in_size, out, kernel, stride, dilation, padding in case.per_dimension():
        low = oracle.low_pad(in_size, out, kernel, stride, dilation, padding)
        pads.append((low, (in_size - 1) * stride + oracle.window_span(kernel, dilation) - out - low))
    return pads


def torch_run(torch, case):
    """The same from PyTorch; None where PyTorch can't be asked: it pads both ends alike and bounds output_padding."""
    pads = pads_of(case)
    extra = [low - high for low, high in pads]
    limits = [max(steps) for steps in zip(case.strides, case.dilations, strict=True)]
    if not all(0 <= more < limit for more, limit in zip(extra, limits, strict=True)):
        return None
    x, w, y = (torch.tensor(array, requires_grad=True) for array in case.arrays())
    weight = w.permute(case.rank + 1, case.rank, *range(case.rank)).contiguous()  # (*k, o, g*i) to (g*i, o, *k)
    function = getattr(torch.nn.functional, f"conv_transpose{case.rank}d")
    lows = [low for low, _ in pads]
    out = function(x.movedim(-1, 1), weight, None, case.strides, lows, extra, case.groups, case.dilations)
    out = out.movedim(1, -1)
    return [tensor.detach().numpy() for tensor in (out, *torch.autograd.grad(out, [x, w], y))]


def onnx_run(onnx, runtime, case):
    """y from ONNX Runtime."""
    pads = pads_of(case)
    x, w, _ = case.arrays()
    node = onnx.helper.make_node(
        "ConvTranspose",
        ["x", "w"],
        ["y"],
        kernel_shape=case.kernel,
        strides=case.strides,
        dilations=case.dilations,
        group=case.groups,
        pads=[*(low for low, _ in pads), *(max(high, 0) for _, high in pads)],
        output_padding=[max(-high, 0) for _, high in pads],
    )
    x, w = np.moveaxis(x, -1, 1), np.moveaxis(w, (-1, -2), (0, 1))
    floats = onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [info("x", floats, x.shape), info("w", floats, w.shape)], [info("y", floats, None)]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ascontiguousarray(x), "w": np.ascontiguousarray(w)})
    return np.moveaxis(y, 1, -1)
