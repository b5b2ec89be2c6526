"""jdeconv.onnx against the standard's node tests, ONNX Runtime and the standard's reference evaluator."""

import dataclasses
import functools
import math
import pathlib
import warnings

import jax
import numpy as np
import oracle
import pytest
from cases import Case
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peers import check_close, needs, peer, refuses, trace

import jdeconv

onnx, onnxruntime = peer("onnx"), peer("onnxruntime")
needs_onnx, needs_runtime = needs(onnx, "ONNX"), needs(onnx and onnxruntime, "ONNX Runtime")


def attributes_of(node):
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


# The standard's own tests, and what PyTorch exported for them: all that the package has for this operator.


@functools.cache
def node_tests():
    """Node and its operands and result, by name."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other operators' tests overflow on purpose
        return {
            case.name: (case.model.graph.node[0], *case.data_sets[0])
            for case in node.collect_testcases("ConvTranspose")
            if case.model.graph.node[0].op_type == "ConvTranspose"
        }


NODE_TESTS = [
    "test_convtranspose", "test_convtranspose_1d", "test_convtranspose_3d", "test_convtranspose_autopad_same",
    "test_convtranspose_dilations", "test_convtranspose_group_2", "test_convtranspose_group_2_image_3",
    "test_convtranspose_kernel_shape", "test_convtranspose_output_shape", "test_convtranspose_pad",
    "test_convtranspose_pads",
]  # fmt: skip


@needs_onnx
@pytest.mark.parametrize("name", NODE_TESTS)
def test_node_tests(name):
    node, operands, results = node_tests()[name]
    check_close([jdeconv.onnx.conv_transpose(*operands, **attributes_of(node))], results, 1e-6, name)


@needs_onnx
def test_there_are_no_more_node_tests():
    assert sorted(node_tests()) == NODE_TESTS


EXPORTED = [
    "pytorch-converted/test_ConvTranspose2d", "pytorch-converted/test_ConvTranspose2d_no_bias",
    "pytorch-operator/test_operator_convtranspose",
]  # fmt: skip


@needs_onnx
@pytest.mark.parametrize("name", EXPORTED)
def test_models_that_pytorch_exported(name):
    folder = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / name
    graph = onnx.load(folder / "model.onnx").graph
    (node,) = graph.node
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for file, value in (("input_0.pb", graph.input[0].name), ("output_0.pb", graph.output[0].name)):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / "test_data_set_0" / file).read_bytes())
        arrays[value] = onnx.numpy_helper.to_array(tensor)
    operands = [arrays[operand] for operand in node.input]
    found = jdeconv.onnx.conv_transpose(*operands, **attributes_of(node))
    check_close([found], [arrays[node.output[0]]], 1e-5, name)


# Random calls


@dataclasses.dataclass(frozen=True)
class Call:
    x: tuple
    w: tuple
    bias: bool
    attributes: dict
    dtype: str = "float32"
    seed: int = 0

    def operands(self):
        rng = np.random.default_rng(self.seed)
        shapes = [self.x, self.w, *[(self.w[1] * self.attributes.get("group", 1),)] * self.bias]
        return [rng.standard_normal(shape).astype(self.dtype) for shape in shapes]

    def steps(self, name, default):
        return self.attributes.get(name, [default] * (len(self.x) - 2))

    def totals(self):
        """What SAME or `output_shape` cuts off in each dimension, by the standard's equation; None where neither is."""
        i, k = self.x[2:], self.w[2:]
        s, d, more = self.steps("strides", 1), self.steps("dilations", 1), self.steps("output_padding", 0)
        same = [a * b for a, b in zip(i, s, strict=True)] if "SAME" in self.attributes.get("auto_pad", "") else None
        sizes = self.attributes.get("output_shape", same)
        if sizes is None:
            return None
        return [
            s * (i - 1) + more + (k - 1) * d + 1 - size
            for i, s, more, k, d, size in zip(i, s, more, k, d, sizes, strict=True)
        ]

    def ours(self):
        return jax.jit(lambda *operands: jdeconv.onnx.conv_transpose(*operands, **self.attributes))(*self.operands())

    def model(self):
        names = ["X", "W", "B"][: 2 + self.bias]
        info, kind = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("ConvTranspose", names, ["Y"], **self.attributes)], "g",
            [info(name, kind, array.shape) for name, array in zip(names, self.operands(), strict=True)],
            [info("Y", kind, None)],
        )  # fmt: skip
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=8)

    def feeds(self):
        return dict(zip(["X", "W", "B"], self.operands(), strict=False))

    def runtime(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        model = self.model().SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return session.run(None, self.feeds())[0]

    def reference(self):
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(self.model()).run(None, self.feeds())[0]


@st.composite
def calls(draw, dtypes=("float32",), auto_pads=("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), most_groups=3):
    rank = draw(st.integers(1, 3))
    most = {1: 9, 2: 6, 3: 3}[rank]
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(rank)]  # noqa: E731
    in_sizes, kernel, strides, dilations = each(1, most), each(1, most - 1), each(1, 4), each(1, 3)
    attributes = dict(strides=strides, dilations=dilations, auto_pad=draw(st.sampled_from(auto_pads)))
    attributes["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]  # the Runtime's bound
    sizes = zip(in_sizes, strides, kernel, dilations, attributes["output_padding"], strict=True)
    full = [(i - 1) * s + (k - 1) * d + 1 + more for i, s, k, d, more in sizes]
    if draw(st.booleans()):
        # The Runtime fills up less than a stride.
        most_more = [s - 1 if "SAME" not in attributes["auto_pad"] else 0 for s in strides]
        attributes["output_shape"] = [
            draw(st.integers(1, size - (more if more >= size else 0) + extra))
            for size, more, extra in zip(full, attributes["output_padding"], most_more, strict=True)
        ]
    elif attributes["auto_pad"] == "NOTSET":
        low = [draw(st.integers(0, size - 1)) for size in full]
        attributes["pads"] = low + [draw(st.integers(0, s - a - 1)) for s, a in zip(full, low, strict=True)]
    defaults = dict(strides=[1] * rank, dilations=[1] * rank, output_padding=[0] * rank, auto_pad="NOTSET")
    if draw(st.booleans()):
        attributes = {name: value for name, value in attributes.items() if value != defaults.get(name)}
    if draw(st.booleans()):
        attributes["kernel_shape"] = kernel
    groups, inputs, outputs = draw(st.integers(1, most_groups)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if groups > 1:
        attributes["group"] = groups
    return Call((draw(st.integers(1, 3)), groups * inputs, *in_sizes), (groups * inputs, outputs, *kernel),
                draw(st.booleans()), attributes, draw(st.sampled_from(dtypes)), draw(st.integers(0, 99)))  # fmt: skip


@needs_runtime
@settings(max_examples=settings.default.max_examples * 4 // 3)
@given(call=calls())
def test_random_calls_of_the_runtime(call):
    assume(refuses_nothing_by_pads(call))
    check_close([call.ours()], [call.runtime()], 1e-5, call)


def refuses_nothing_by_pads(call):
    """Whether the Runtime agrees with the standard: it cuts what both ends have, and fills up less than a stride."""
    totals, upper = call.totals(), call.attributes.get("auto_pad") == "SAME_UPPER"
    if totals is None:
        return True
    if "output_shape" not in call.attributes or upper:
        return min(totals) >= 0
    return all(total > -2 for total in totals)


@needs_runtime
@settings(max_examples=max(settings.default.max_examples // 2, 1))
@given(call=calls(dtypes=("float32", "float64"), auto_pads=("SAME_UPPER", "SAME_LOWER"), most_groups=1))
def test_random_calls_of_the_reference_evaluator(call):
    assume(math.prod(call.x) * math.prod(call.w[1:]) < 2000)  # it loops
    with jax.enable_x64(call.dtype == "float64"):
        check_close([call.ours()], [call.reference()], {"float32": 1e-5, "float64": 1e-12}[call.dtype], call)


@settings(max_examples=max(settings.default.max_examples // 2, 1))
@given(call=calls(), more=st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_the_standards_equations(call, more):
    """Totals of any sign, halves rounded down, against the definition."""
    sizes = [size + extra for size, extra in zip(call.steps("output_shape", 1), more, strict=False)]
    call = dataclasses.replace(call, bias=False, attributes={**call.attributes, "output_shape": sizes})
    upper = call.attributes.get("auto_pad") == "SAME_UPPER"
    begins = [total // 2 if upper else total - total // 2 for total in call.totals()]
    groups = call.attributes.get("group", 1)
    case = Case(
        call.x[0], call.x[2:], call.w[2:], tuple(call.steps("strides", 1)), tuple(call.steps("dilations", 1)),
        tuple((begin, 0) for begin in begins), tuple(sizes), groups, call.x[1] // groups, call.w[1],
    )  # fmt: skip
    call = dataclasses.replace(call, attributes={k: v for k, v in call.attributes.items() if k != "pads"})
    x, w = call.operands()
    want = oracle.transpose_conv(case, np.moveaxis(x, 1, -1), np.moveaxis(w, (1, 0), (-2, -1)))
    check_close([call.ours()], [np.moveaxis(want, -1, 1)], 1e-5, call)


# What is refused. Left to either side, and not drawn: a single int for every dimension, types beyond the floats, four
# spatial dimensions (jdeconv's own bounds); a B that the reference evaluator would cut; empty results and no output
# channels, output_padding that only the dilation exceeds, output_shape a stride beyond what is reached (the Runtime
# refuses these, the standard does not). `auto_pad` in the standard excludes pads, all zero ones too.

GOOD = dict(X=(2, 4, 5, 7), W=(4, 3, 3, 2))
TWO = st.sampled_from([[1, 1], [2, 1], [2, 2], [3, 2]])
ANY = st.one_of(TWO, TWO, st.lists(st.integers(-1, 3), min_size=1, max_size=3))
CHANGES = {
    "strides": ANY, "dilations": ANY, "output_padding": ANY,
    "pads": st.one_of(st.lists(st.integers(0, 3), min_size=4, max_size=4),
                      st.lists(st.integers(-1, 3), min_size=1, max_size=5)),
    "output_shape": st.one_of(st.tuples(st.integers(1, 7), st.integers(1, 8)).map(list),
                              st.lists(st.integers(-1, 6).filter(bool), min_size=1, max_size=3)),
    "kernel_shape": st.sampled_from([[3, 2], [3, 2], [2, 3], [3], [3, 2, 1], [0, 2]]),
    "group": st.integers(-1, 4),
    "auto_pad": st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "SAME", "valid"]),
    "X": st.sampled_from([(0, 4, 5, 7), (2, 4, 5, 7, 1), (2, 4, 5), (4, 5), (2, 3, 5, 7), (2, 4, 1, 1)]),
    "W": st.sampled_from([(3, 4, 3, 2), (4, 3, 0, 2), (4, 3, 3), (8, 3, 3, 2), (2, 3, 3, 2), (4, 1, 1, 1)]),
    "B": st.sampled_from([(3,), (6,), (12,), (1,), (4,), (1, 3), ()]),
}  # fmt: skip


def is_free(call):
    """Whether the two may differ, for the reasons above, where nothing else is wrong."""
    try:
        k, d = call["W"][2:], call.get("dilations", [1, 1])
        s, more = call.get("strides", [1, 1]), call.get("output_padding", [0, 0])
        low, high = call.get("pads", [0] * 4)[:2], call.get("pads", [0] * 4)[2:]
        full = [(i - 1) * s + (k - 1) * d + 1 + more
                for i, s, k, d, more in zip(call["X"][2:], s, k, d, more, strict=True)]  # fmt: skip
        padded = any(a >= b for a, b in zip(more, s, strict=True))
        out = call.get("output_shape", [n - a - b for n, a, b in zip(full, low, high, strict=True)])
        beyond = any(size - n >= stride for size, n, stride in zip(out, full, s, strict=True))
        return padded or beyond or 0 in out
    except ValueError:  # lengths differ: refused by both
        return False


@needs_runtime
@settings(max_examples=settings.default.max_examples * 4)
@given(data=st.data(), names=st.lists(st.sampled_from(sorted(CHANGES)), max_size=3, unique=True))
def test_the_runtime_agrees_on_what_is_refused(data, names):
    call = {**GOOD, **{name: data.draw(CHANGES[name], label=name) for name in names}}
    assume(not is_free(call))
    attributes = {name: value for name, value in call.items() if len(name) > 1}
    arrays = {name: np.zeros(call[name], np.float32) for name in "XWB" if name in call}
    asked = Call(call["X"], call["W"], "B" in call, attributes)
    object.__setattr__(asked, "operands", lambda: list(arrays.values()))
    theirs = refuses(asked.runtime)
    ours = refuses(lambda: trace(jdeconv.onnx.conv_transpose, {**arrays, **attributes}))
    assert bool(ours) == bool(theirs), f"{call}\nONNX Runtime: {theirs}\njdeconv: {ours}"
    assert ours is None or isinstance(ours, (ValueError, TypeError))


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER"])
def test_output_shape_may_be_symbolic(auto_pad):
    """Exported once, it gives what int sizes give."""
    n, h = jax.export.symbolic_shape("n, h", constraints=["h >= 2"])
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 7)).astype(np.float32)
    w = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    f = jax.jit(
        lambda x: jdeconv.onnx.conv_transpose(x, w, strides=2, output_shape=(x.shape[2] * 2 + 1, 12), auto_pad=auto_pad)
    )
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((n, 4, h, 7), "float32"))
    assert str(exported.out_avals[0].shape) == "(n, 3, 2*h + 1, 12)"
    np.testing.assert_allclose(exported.call(x), f(x), rtol=1e-5, atol=1e-5)
