"""ONNX Runtime: inference, with the kernel a constant of the graph, as its users have it."""

import importlib

import numpy as np

from .. import machine
from ..work.cases import Array, Case
from .entry import Entry
from .layouts import channels_first, channels_last, io_kernel


def case_entry(case: Case, arrays: tuple[Array, Array, Array], dtype: str, pass_: str) -> Entry:
    if pass_ != "forward":
        raise NotImplementedError("ONNX Runtime infers only")
    if dtype != "float32":
        raise NotImplementedError(f"ONNX Runtime has no ConvTranspose of {dtype} on CPU")
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    x, w = channels_first(arrays[0]), io_kernel(arrays[1])
    cut = [k - s for k, s in zip(case.kernel, case.stride, strict=True)]
    lows = [max(total, 0) // 2 for total in cut]
    node = onnx.helper.make_node(
        "ConvTranspose",
        ["x", "w"],
        ["y"],
        kernel_shape=case.kernel,
        strides=case.stride,
        group=case.groups,
        pads=[*lows, *(max(total, 0) - low for total, low in zip(cut, lows, strict=True))],
        output_padding=[max(-total, 0) for total in cut],
    )
    floats, info = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [info("x", floats, x.shape)], [info("y", floats, None)], [onnx.numpy_helper.from_array(w, "w")]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = machine.threads()
    options.inter_op_num_threads = 1  # one node
    # Its threads may spin while it runs, but not while the next peer does.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    value = runtime.OrtValue.ortvalue_from_numpy(x)
    return Entry(
        lambda: session.run_with_ort_values(["y"], {"x": value}),
        lambda found: [np.asarray(channels_last(found[0].numpy()))],
    )
