"""Whole ONNX models: nodes say what the initialisers are, whatever their names, from both of PyTorch's exporters."""

import io
import re

import jax.numpy as jnp
import numpy as np
import pytest
from peers import needs, peer

from jdeconv import convert

torch, flax, onnx, runtime = peer("torch"), peer("flax"), peer("onnx"), peer("onnxruntime")
PEERS = needs(torch and flax and onnx and runtime, "PyTorch, Flax, ONNX or ONNX Runtime")


def older(**options):
    from golden.pytorch_onnx import example, network

    file = io.BytesIO()
    torch.onnx.export(network(), example(), file, dynamo=False, output_names=["y"], **options)
    return onnx.load_from_string(file.getvalue())


def older_unfolded():
    return older(do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE)


def newer():
    from golden.pytorch_onnx import DYNAMO

    return onnx.load(DYNAMO)


def without_names():
    """The model with every initialiser renamed, as graph optimisers do; layers are called by the nodes' scopes."""
    model = newer()
    names = {tensor.name: f"val_{1000 + n}" for n, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


EXPORTS = {
    "older": older,
    "older, nothing folded": older_unfolded,
    "newer": newer,
    "newer, without names": without_names,
}


FOLDED = {"older": (True, False), "older, nothing folded": (False, False)}  # the older exporter: no norm after `up`


def flax_network(folded):
    """With the norms that an exporter did not fold into the convolution, or into the transposed one, before them."""
    from flax import nnx

    rngs = nnx.Rngs(0)

    class Block(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(4, 4, (3, 3), use_bias=folded[0], rngs=rngs)
            self.act = Slopes()
            if not folded[0]:
                self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            x = self.conv(x)
            return self.act(x if folded[0] else self.norm(x, use_running_average=True))

    class Slopes(nnx.Module):
        def __init__(self):
            self.negative_slope = nnx.Param(jnp.zeros(4))

        def __call__(self, x):
            return jnp.where(x < 0, self.negative_slope[...] * x, x)

    class Network(nnx.Module):
        def __init__(self):
            up = [nnx.ConvTranspose(4, 4, (4, 4), (2, 2), rngs=rngs)]
            self.body = nnx.List([Block(), nnx.List(up if folded[1] else [*up, nnx.BatchNorm(4, rngs=rngs)])])
            self.deconv = nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=rngs)
            self.conv2d = ConvTranspose(4, 4, (2, 2), (2, 2), feature_group_count=2, rngs=rngs)
            self.groups = nnx.GroupNorm(4, 2, epsilon=1e-5, rngs=rngs)
            self.query, self.head = nnx.Linear(4, 4, use_bias=False, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
            self.last, self.words = nnx.Linear(4, 4, rngs=rngs), nnx.Embed(7, 4, rngs=rngs)

        def __call__(self, x, words):
            x = self.body[0](x)
            for n, layer in enumerate(self.body[1]):
                x = layer(x, use_running_average=True) if n else layer(x)
            y = self.groups(self.conv2d(self.deconv(x)))
            y = self.head(jnp.tanh(self.query(y.reshape(len(y), -1, 4))))
            return self.last(y.mean(1)) * self.words(words)

    from jdeconv.nnx import ConvTranspose

    return Network()


def outputs(model, x, words):
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(inputs, (x, words), strict=True)))[0]


def layers_of_scopes(name):
    """What the newer exporter notes at a convolution that a norm was folded into is the norm's scope."""
    return {"body/0/norm": "body/0/conv", "body/1/1": "body/1/0"}.get(name)


@PEERS
@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore:Converting a tensor")
def test_the_same_outputs(export):
    from golden.pytorch_onnx import example

    model = EXPORTS[export]()
    x, words = (tensor.numpy() for tensor in example())
    like = flax_network(FOLDED.get(export, (True, True)))
    names = layers_of_scopes if "without names" in export else None
    found = convert.tree(model, like, "onnx", "flax", names=names)
    wanted = outputs(model, x, words)
    np.testing.assert_allclose(found(jnp.moveaxis(x, 1, -1), words), wanted, atol=1e-5)
    assert abs(wanted).min() > 1e-3


@PEERS
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_folded_norm_is_said_to_be_folded():
    with pytest.raises(ValueError, match=r"none is for like's layer 'body/.*do_constant_folding=False, .*PRESERVE"):
        convert.tree(newer(), flax_network((False, False)), "onnx", "flax")
    from flax import nnx

    like = {"0": nnx.Conv(2, 2, (3, 3), use_bias=False, rngs=nnx.Rngs(0))}
    model = graph([node("Conv", "x", "0.weight", "val_3")], {"0.weight": drawn(2, 2, 3, 3), "val_3": drawn(2)})
    with pytest.raises(ValueError, match=r"has weight and bias; expected weight, as like's '0'. If a norm was folded"):
        convert.tree(model, like, "onnx", "flax")


def drawn(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def node(kind, *inputs, name="", output="y", **attributes):
    return onnx.helper.make_node(kind, list(inputs), [output], name=name, **attributes)


def graph(nodes, constants):
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tensors))


ONNX = needs(onnx, "ONNX")


@ONNX
@pytest.mark.parametrize(("kind", "transposed"), [("Conv", False), ("ConvTranspose", True)])
def test_the_node_says_whether_a_kernel_is_transposed(kind, transposed):
    w = drawn(3, 3, 2, 2)
    model = graph([node(kind, "x", "onnx::Conv_7", name="/net/net.0/deconv/Conv")], {"onnx::Conv_7": w})
    like = {"0": {"deconv": {"kernel": np.zeros((2, 2, 3, 3), np.float32)}}}
    found = convert.tree(model, like, "onnx", "flax", names={"net/0/deconv": "0/deconv"})["0"]["deconv"]["kernel"]
    wanted = convert.kernel(w, "onnx", "flax") if transposed else np.moveaxis(w, (0, 1), (-1, -2))
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ValueError, match=r"^transposed=.*: layer 'net/0/deconv' is conv.*, as its class or node says"):
        convert.tree(model, like, "onnx", "flax", transposed=not transposed)


@ONNX
def test_the_nodes_groups_must_be_those_of_the_shapes():
    model = graph([node("ConvTranspose", "x", "up.weight", group=2)], {"up.weight": drawn(4, 3, 2, 2)})
    like = lambda i, o: {"up": {"kernel": np.zeros((2, 2, i, o), np.float32)}}  # noqa: E731
    convert.tree(model, like(2, 6), "onnx", "flax")
    with pytest.raises(ValueError, match="expected a kernel of 2 groups, as the node of 'up' says"):
        convert.tree(model, like(4, 3), "onnx", "flax")


PRODUCTS = {
    "Gemm": (lambda: [node("Gemm", "x", "w", "b")], (3, 4), 1),
    "Gemm, transposed": (lambda: [node("Gemm", "x", "w", "b", transB=1)], (4, 3), 1),
    "Gemm, scaled": (lambda: [node("Gemm", "x", "w", "b", alpha=2.0, beta=2.0)], (3, 4), 2),
    "MatMul": (lambda: [node("MatMul", "x", "w", output="z"), node("Add", "b", "z")], (3, 4), 1),
    "MatMul, a transposed weight": (
        lambda: [
            node("Transpose", "w", output="t", perm=[1, 0]),
            node("MatMul", "x", "t", output="z"),
            node("Add", "z", "b"),
        ],
        (4, 3),
        1,
    ),
}


@ONNX
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("names", [("head.weight", "head.bias"), ("val_1", "head.bias"), ("onnx::MatMul_1", "val_2")])
def test_products(name, names):
    make, shape, scale = PRODUCTS[name]
    w, b, rename = drawn(*shape), drawn(4), dict(zip("wb", names, strict=True))
    nodes = make()
    for each in nodes:
        each.input[:] = [rename.get(name, name) for name in each.input]
        each.name = f"/head/{each.op_type}"
    like = {"head": {"kernel": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)}}
    found = convert.tree(graph(nodes, {names[0]: w, names[1]: b}), like, "onnx", "flax")["head"]
    np.testing.assert_array_equal(found["kernel"], scale * (w if shape == (3, 4) else w.T))
    np.testing.assert_array_equal(found["bias"], scale * b)


@ONNX
def test_a_parameter_that_is_added_is_no_bias():
    nodes = [
        node("MatMul", "x", "head.weight", name="/head/MatMul", output="z"),
        node("Add", "z", "offset", name="/Add"),
    ]
    model = graph(nodes, {"head.weight": drawn(4, 4), "offset": drawn(4)})
    like = {"head": {"kernel": np.zeros((4, 4), np.float32)}, "shift": np.zeros(4, np.float32)}
    with pytest.raises(ValueError, match=re.escape("tree={'offset': ...}: not a leaf of onnx's")):
        convert.tree(model, like, "onnx", "flax")
    found = convert.tree(model, like, "onnx", "flax", copy={"offset": "shift"})
    np.testing.assert_array_equal(found["shift"], drawn(4))


@ONNX
def test_one_layer_used_twice_and_one_weight_of_two_layers():
    w, table = drawn(4, 4), drawn(7, 4)
    nodes = [
        node("Gemm", "x", "head.weight", transB=1, name="/head/Gemm", output="a"),
        node("MatMul", "q", "onnx::MatMul_9", name="/head/MatMul", output="b"),
        node("Gather", "words.weight", "i", name="/words/Gather", output="c"),
        node("Gemm", "c", "words.weight", transB=1, name="/out/Gemm", output="d"),
        node("MatMul", "c", "onnx::MatMul_11", name="/both/MatMul", output="e"),
        node("MatMul", "c", "onnx::MatMul_12", name="/both/MatMul_1", output="f"),
    ]
    constants = {"head.weight": w, "onnx::MatMul_9": w.T.copy(), "words.weight": table}
    constants |= {"onnx::MatMul_11": w, "onnx::MatMul_12": 2 * w}
    square = lambda: {"kernel": np.zeros((4, 4), np.float32)}  # noqa: E731
    like = {"head": square(), "words": {"embedding": np.zeros((7, 4), np.float32)}}
    like |= {"out": {"kernel": np.zeros((4, 7), np.float32)}, "both": {"MatMul": square(), "MatMul_1": square()}}
    found = convert.tree(graph(nodes, constants), like, "onnx", "flax")
    np.testing.assert_array_equal(found["head"]["kernel"], w.T)
    np.testing.assert_array_equal(found["words"]["embedding"], table)
    np.testing.assert_array_equal(found["out"]["kernel"], table.T)
    np.testing.assert_array_equal(found["both"]["MatMul_1"]["kernel"], 2 * w)


@ONNX
def test_settings_are_skipped_and_parameters_are_not():
    constants = {"up.weight": drawn(2, 3, 2, 2), "val_4": np.array([1, -1]), "val_5": np.float32([1, 1, 2, 2])}
    constants |= {"onnx::Mul_6": np.float32(0.5)}
    nodes = [
        node("ConvTranspose", "x", "up.weight", output="a"),
        node("Reshape", "a", "val_4", output="b"),
        node("Resize", "b", "", "val_5", output="c"),
        node("Mul", "c", "onnx::Mul_6", output="d"),
        node("Mul", "d", "onnx::Mul_7", output="e"),
    ]
    like = {"up": {"kernel": np.zeros((2, 2, 2, 3), np.float32)}}
    found = convert.tree(graph(nodes[:-1], constants), like, "onnx", "flax")
    np.testing.assert_array_equal(found["up"]["kernel"], convert.kernel(constants["up.weight"], "onnx", "flax"))
    constants["onnx::Mul_7"] = drawn(3, 1, 1)
    model = graph(nodes, constants)
    with pytest.raises(ValueError, match=re.escape("tree={'onnx::Mul_7': ...}: not a leaf of onnx's")):
        convert.tree(model, like, "onnx", "flax")
    convert.tree(model, like, "onnx", "flax", ignore=["onnx::Mul_*"])


@ONNX
def test_a_model_is_no_like():
    model = graph([node("Conv", "x", "conv.weight")], {"conv.weight": drawn(2, 3, 2, 2)})
    with pytest.raises(TypeError, match=r"^like=.*: no arrays with names"):
        convert.tree({"conv": {"kernel": drawn(2, 2, 3, 2)}}, model, "flax", "onnx")


def test_a_dict_of_initialisers_without_names():
    tree = {"up.weight": drawn(2, 3, 2, 2), "onnx::Conv_7": drawn(3, 3, 2, 2)}
    like = {"up": {"kernel": np.zeros((2, 2, 2, 3), np.float32)}}
    with pytest.raises(ValueError, match=r"^tree=\{'onnx::Conv_7': .* Give the whole onnx.ModelProto, whose nodes say"):
        convert.tree(tree, like, "onnx", "flax")
