"""Whole models: one small network in each library, whose parameters go to every other one with the same outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import needs, peer
from refusals import refusals

from jdeconv import convert

tf, keras, torch = peer("tensorflow"), peer("keras"), peer("torch")
onnx, runtime = peer("onnx"), peer("onnxruntime")
flax, equinox, haiku = peer("flax"), peer("equinox"), peer("haiku")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 4), np.float32)

# The network: up (transposed, 4 to 6 channels, kernel 4x3, stride 2, no padding), norm (with statistics of a batch),
# conv (6 to 5 channels, kernel 3), the mean over pixels, head (dense, 5 to 3).


def drawn(tree):
    """Random values; positive, since some are variances."""
    draw = lambda leaf: RNG.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)  # noqa: E731
    return jax.tree.map(draw, tree)


def torch_network():
    nn = torch.nn
    layers = nn.ModuleDict(
        {"up": nn.ConvTranspose2d(4, 6, (4, 3), 2), "norm": nn.BatchNorm2d(6), "conv": nn.Conv2d(6, 5, 3)}
        | {"head": nn.Linear(5, 3)}
    )
    model = nn.ModuleDict({"net": layers}).eval()

    def run(tree, x):
        model.load_state_dict(tree)
        y = layers["conv"](layers["norm"](layers["up"](torch.tensor(x).movedim(-1, 1))))
        return layers["head"](y.mean((2, 3))).detach().numpy()

    state = {name: torch.tensor(drawn(leaf.numpy())) for name, leaf in model.state_dict().items()}
    return state, run


def onnx_network():
    make = onnx.helper.make_node
    nodes = [
        make("ConvTranspose", ["x", "up.weight", "up.bias"], ["a"], strides=[2, 2]),
        make(
            "BatchNormalization",
            ["a", *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var"))],
            ["b"],
        ),
        make("Conv", ["b", "conv.weight", "conv.bias"], ["c"]),
        make("GlobalAveragePool", ["c"], ["d"]),
        make("Flatten", ["d"], ["e"]),
        make("Gemm", ["e", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    shapes = {"up.weight": (4, 6, 4, 3), "up.bias": 6, "conv.weight": (5, 6, 3, 3), "conv.bias": 5}
    shapes |= {f"norm.{name}": 6 for name in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"head.weight": (3, 5), "head.bias": 3}

    def run(tree, x):
        x = np.moveaxis(x, -1, 1).copy()
        info = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", x.shape), ("y", (2, 3)))]
        constants = [onnx.numpy_helper.from_array(array, name) for name, array in tree.items()]
        graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:], constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})[0]

    return {name: drawn(np.empty(shape, np.float32)) for name, shape in shapes.items()}, run


def keras_network():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(X.shape[1:]),
            layers.Conv2DTranspose(6, (4, 3), 2, name="up"),
            layers.BatchNormalization(epsilon=1e-5, name="norm"),
            layers.Conv2D(5, 3, name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ]
    )

    def run(tree, x):
        for variable in model.weights:
            variable.assign(tree[variable.path])
        return keras.ops.convert_to_numpy(model(x))

    return {v.path: drawn(np.asarray(v)) for v in model.weights}, run


def tensorflow_network():
    shapes = {"up/kernel:0": (4, 3, 6, 4), "up/bias:0": 6, "conv/kernel:0": (3, 3, 6, 5), "conv/bias:0": 5}
    shapes |= {f"norm/{name}:0": 6 for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    shapes |= {"head/kernel:0": (5, 3), "head/bias:0": 3}

    def run(tree, x):
        w = {name: tf.constant(value) for name, value in tree.items()}
        y = tf.nn.conv2d_transpose(x, w["up/kernel:0"], (2, 8, 9, 6), 2, "VALID") + w["up/bias:0"]
        names = ("moving_mean", "moving_variance", "beta", "gamma")
        y = tf.nn.batch_normalization(y, *(w[f"norm/{name}:0"] for name in names), 1e-5)
        y = tf.reduce_mean(tf.nn.conv2d(y, w["conv/kernel:0"], 1, "VALID") + w["conv/bias:0"], (1, 2))
        return (y @ w["head/kernel:0"] + w["head/bias:0"]).numpy()

    return {name: drawn(np.empty(shape, np.float32)) for name, shape in shapes.items()}, run


def linen_network(transpose_kernel=False):
    nn = flax.linen

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            options = dict(padding="VALID", transpose_kernel=transpose_kernel)
            x = nn.ConvTranspose(6, (4, 3), (2, 2), **options, name="up")(x)
            x = nn.BatchNorm(use_running_average=True, name="norm")(x)
            x = nn.Conv(5, (3, 3), padding="VALID", name="conv")(x)
            return nn.Dense(3, name="head")(x.mean((1, 2)))

    model = Network()
    return drawn(model.init(jax.random.key(0), X)), model.apply


def nnx_network():
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            up = nnx.ConvTranspose(4, 6, (4, 3), strides=(2, 2), padding="VALID", rngs=rngs)
            norm, conv = nnx.BatchNorm(6, rngs=rngs), nnx.Conv(6, 5, (3, 3), padding="VALID", rngs=rngs)
            self.net = nnx.Dict(up=up, norm=norm, conv=conv, head=nnx.Linear(5, 3, rngs=rngs))

        def __call__(self, x):
            net = self.net
            y = net["conv"](net["norm"](net["up"](x), use_running_average=True))
            return net["head"](y.mean((1, 2)))

    return drawn(Network(nnx.Rngs(0))), lambda model, x: model(x)


def nnx_state():
    from flax import nnx

    model, run = nnx_network()

    def run_state(state, x):
        nnx.update(model, state)
        return run(model, x)

    return nnx.state(model), run_state


def equinox_network(mode="batch"):
    nn, keys = equinox.nn, jax.random.split(jax.random.key(0), 3)

    class Network(equinox.Module):
        up: nn.ConvTranspose2d = nn.ConvTranspose2d(4, 6, (4, 3), 2, key=keys[0])
        norm: nn.BatchNorm = nn.BatchNorm(6, "batch", mode=mode)
        conv: nn.Conv2d = nn.Conv2d(6, 5, 3, key=keys[1])
        head: nn.Linear = nn.Linear(5, 3, key=keys[2])

    def run(tree, x):
        model, state = tree

        def one(x):
            y, _ = model.norm(model.up(x), state, inference=True)
            return model.head(model.conv(y).mean((1, 2)))

        return jax.vmap(one, axis_name="batch")(jnp.moveaxis(x, -1, 1))

    model, state = nn.make_with_state(Network)()
    arrays, rest = equinox.partition(model, equinox.is_array)
    index = model.norm.batch_state_index if mode == "batch" else model.norm.ema_state_index
    return (equinox.combine(drawn(arrays), rest), state.set(index, drawn(state.get(index)))), run


def haiku_network():
    def network(x, is_training):
        x = haiku.Conv2DTranspose(6, (4, 3), 2, padding="VALID", name="up")(x)
        x = haiku.BatchNorm(True, True, 0.9, name="norm")(x, is_training)
        x = haiku.Conv2D(5, 3, padding="VALID", name="conv")(x)
        return haiku.Linear(3, name="head")(x.mean((1, 2)))

    model = haiku.without_apply_rng(haiku.transform_with_state(network))
    return drawn(model.init(jax.random.key(0), X, True)), lambda tree, x: model.apply(*tree, x, False)[0]


NETWORKS = {  # of which library, what it needs, and how it is made
    "torch": ("torch", torch, torch_network),
    "onnx": ("onnx", onnx and runtime, onnx_network),
    "keras": ("keras", keras, keras_network),
    "tf": ("tf", tf, tensorflow_network),
    "linen": ("flax", flax, linen_network),
    "linen, transpose_kernel": ("flax_transposed", flax, lambda: linen_network(transpose_kernel=True)),
    "nnx": ("flax", flax, nnx_network),
    "nnx.state": ("flax", flax, nnx_state),
    "equinox, batch": ("equinox", equinox, equinox_network),
    "equinox, ema": ("equinox", equinox, lambda: equinox_network("ema")),
    "haiku": ("haiku", haiku, haiku_network),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Haiku, Keras and TensorFlow themselves
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_outputs_in_every_other_library(name):
    source, module, make = NETWORKS[name]
    if module is None:
        pytest.skip(f"{source} is not installed")
    tree, run = make()
    wanted = np.asarray(run(tree, X))
    for other, (target, needed, make_other) in NETWORKS.items():
        if needed is None:
            continue
        like, run_other = make_other()
        before = np.asarray(run_other(like, X))
        found = convert.tree(tree, like, source, target, transposed=["*up"])
        assert jax.tree.structure(found) == jax.tree.structure(like)
        found = np.asarray(run_other(found, X))
        room = 8 * np.finfo("float32").eps * abs(wanted).max()  # sums of both signs cancel
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=room, err_msg=f"{name} to {other}")
        assert abs(before - wanted).max() > 0.1


def trained_haiku_norm(tree, x):
    model = haiku.without_apply_rng(
        haiku.transform_with_state(lambda x: haiku.BatchNorm(True, True, 0.9, name="norm")(x, is_training=True))
    )
    found = convert.tree(tree, model.init(jax.random.key(0), x), "torch", "haiku")
    _, state = model.apply(*found, x)
    return state["norm/~/mean_ema"]["average"].ravel()


def trained_equinox_norm(mode):
    def run(tree, x):
        make = lambda: equinox.nn.Sequential([equinox.nn.BatchNorm(3, "batch", momentum=0.9, mode=mode)])  # noqa: E731
        like = equinox.nn.make_with_state(make)()
        model, state = convert.tree(tree, like, "torch", "equinox", names={"norm": "layers/0"})
        _, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
        norm = model.layers[0]
        return state.get(norm.batch_state_index if mode == "batch" else norm.ema_state_index)[0]

    return run


@pytest.mark.parametrize(
    ("module", "train"),
    [(haiku, trained_haiku_norm), (equinox, trained_equinox_norm("batch")), (equinox, trained_equinox_norm("ema"))],
    ids=["haiku", "equinox, batch", "equinox, ema"],
)
def test_running_averages_go_on_from_what_was_converted(module, train):
    if module is None:
        pytest.skip("the library is not installed")
    x = RNG.standard_normal((8, 3), np.float32)
    names = ("weight", "bias", "running_mean", "running_var")
    tree = {f"norm.{name}": drawn(np.empty(3, np.float32)) for name in names}
    wanted = 0.9 * tree["norm.running_mean"] + 0.1 * x.mean(axis=0)
    np.testing.assert_allclose(train(tree, x), wanted, rtol=1e-5)


def layer(kernel, bias=None):
    leaves = {"weight": np.zeros(kernel, np.float32)}
    return leaves if bias is None else leaves | {"bias": np.zeros(bias, np.float32)}


def flat(**layers):
    return {f"{name}.{leaf}": value for name, leaves in layers.items() for leaf, value in leaves.items()}


def test_groups_are_as_the_shapes_say():
    w = np.arange(4 * 3 * 2 * 2.0).reshape(4, 3, 2, 2)
    for target, shape in {"flax": (2, 2, 2, 6), "equinox": (6, 2, 2, 2), "haiku": (2, 2, 6, 2)}.items():
        leaf = {"equinox": "weight", "haiku": "w"}.get(target, "kernel")
        found = convert.tree({"up.weight": w}, {"up": {leaf: np.zeros(shape)}}, "torch", target, transposed=True)
        np.testing.assert_array_equal(found["up"][leaf], convert.kernel(w, "torch", target, 2))
        back = convert.tree(found, {"up.weight": np.zeros(w.shape)}, target, "torch", transposed=True)
        np.testing.assert_array_equal(back["up.weight"], w)


def test_names_by_mapping_and_by_function():
    tree = flat(a=layer((3, 2)), b=layer((3, 2))) | {"a.weight": np.ones((3, 2), np.float32)}
    like = {"encoder": {"dense": {"kernel": np.zeros((2, 3))}}, "decoder": {"dense": {"kernel": np.zeros((2, 3))}}}
    names = {"a": "encoder/dense", "b": "decoder.dense"}
    for given in (names, names.get):
        found = convert.tree(tree, like, "torch", "flax", names=given)
        assert (found["encoder"]["dense"]["kernel"] == 1).all()
        assert (found["decoder"]["dense"]["kernel"] == 0).all()


def test_leaves_have_the_types_of_like():
    tree = {"up.weight": np.ones((3, 2), np.float64)}
    for leaf in (jax.ShapeDtypeStruct((2, 3), "bfloat16"), jnp.zeros((2, 3), "bfloat16")):
        found = convert.tree(tree, {"up": {"kernel": leaf}})["up"]["kernel"]
        assert isinstance(found, jax.Array)
        assert found.dtype == "bfloat16"
    found = convert.tree(tree, {"up": {"kernel": np.zeros((2, 3), np.float16)}})["up"]["kernel"]
    assert (type(found), found.dtype) == (np.ndarray, np.float16)


@needs(torch, "PyTorch")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_come_back_as_tensors(dtype):
    tensor = torch.randn(2, 3, dtype=getattr(torch, dtype))
    there = convert.tree({"a.weight": tensor}, {"a": {"kernel": jnp.zeros((3, 2), dtype)}})
    back = convert.tree(there, {"a.weight": torch.zeros_like(tensor)}, "flax", "torch")
    assert back["a.weight"].dtype == tensor.dtype
    assert torch.equal(back["a.weight"], tensor)


def test_tables_of_embeddings_are_not_turned():
    table = np.arange(6.0).reshape(3, 2)
    found = convert.tree({"words.weight": table}, {"words": {"embedding": np.zeros((3, 2))}})
    np.testing.assert_array_equal(found["words"]["embedding"], table)


UP, LIKE = flat(up=layer((4, 3, 2, 2))), {"up": {"kernel": np.zeros((2, 2, 4, 3), np.float32)}}
REFUSED = {
    "source unknown": (
        lambda: convert.tree(UP, LIKE, "pytorch"),
        "source='pytorch': unknown; expected 'tf', 'keras', 'torch', 'onnx', 'flax', 'flax_transposed', 'equinox' or "
        "'haiku'. Name the library whose layer reads the kernel.",
    ),
    "leaf unknown": (
        lambda: convert.tree({"lstm.weight_ih_l0": np.zeros((4, 4))}, LIKE),
        "tree={'lstm/weight_ih_l0': ...}: not a leaf of torch's convolutions, dense layers, norms, embeddings and "
        "PReLUs; expected a layer's 'weight', 'bias', 'running_mean' or 'running_var'. Leave it out: "
        "ignore=['lstm/weight_ih_l0']; or fill a leaf of like as it is: copy={'lstm/weight_ih_l0': 'leaf of like'}.",
    ),
    "transposed or not": (
        lambda: convert.tree(flat(up=layer((3, 3, 2, 2))), {"up": {"kernel": np.zeros((2, 2, 3, 3))}}),
        "transposed=None: shapes and classes don't say whether 'up' is a transposed convolution, and a name is no "
        "evidence; expected True, False, or patterns of the names of those that are. "
        "Pass transposed=True if all are, False if none is, or a list such as transposed=['up'].",
    ),
    "a pattern of nothing": (
        lambda: convert.tree(UP, LIKE, transposed=["down*"]),
        "transposed=['down*']: 'down*' matches no convolution of tree; expected patterns of 'up'. "
        "Names are paths joined by '/'.",
    ),
    "shapes": (
        lambda: convert.tree(UP, LIKE, transposed=False),
        "tree=float32[4, 3, 2, 2]: its conv weight doesn't fit like's layer 'up'; expected what becomes [2, 2, 4, 3], "
        "not [2, 2, 3, 4]. Check names, transposed, source and target.",
    ),
    "ranks": (
        lambda: convert.tree(UP, {"up": {"kernel": np.zeros((2, 4, 3))}}, transposed=True),
        "tree=float32[4, 3, 2, 2]: its conv_transpose weight doesn't fit like's layer 'up'; expected what becomes "
        "[2, 4, 3], not [4, 3, 2, 2]. Check names, transposed, source and target.",
    ),
    "groups that do not divide": (
        lambda: convert.tree(UP, {"up": {"kernel": np.zeros((2, 2, 3, 5))}}, transposed=True),
        "tree=float32[4, 3, 2, 2]: its conv_transpose weight doesn't fit like's layer 'up'; expected what becomes "
        "[2, 2, 3, 5], not [2, 2, 4, 3]. Check names, transposed, source and target.",
    ),
    "kinds": (
        lambda: convert.tree(flat(up=layer((4, 3))), LIKE),
        "tree=layer 'up': dense or embedding with weight, but like's 'up' is conv or conv_transpose with weight; "
        "expected layers of one kind. Check names.",
    ),
    "a bias that nobody takes": (
        lambda: convert.tree(flat(up=layer((4, 3, 2, 2), 3)), LIKE, transposed=True),
        "tree=layer 'up': has weight and bias; expected weight, as like's 'up'. "
        "Make the models alike (use_bias, affine, state).",
    ),
    "a layer that nobody takes": (
        lambda: convert.tree(UP | flat(out=layer((4, 3))), LIKE, transposed=True),
        "names={'out': 'out'}: like has no layer 'out'; expected 'up'. "
        "Say in names which layer of tree is which of like, or leave the layer out: ignore=['out/*'].",
    ),
    "a layer that nobody gives": (
        lambda: convert.tree(UP, LIKE | {"out": {"kernel": np.zeros((4, 3))}}, transposed=True),
        "tree=layers 'up': none is for like's layer 'out'; expected one for each. "
        "Add it to tree, name it in names, or fill its leaves with copy.",
    ),
    "a name that tree lacks": (
        lambda: convert.tree(UP, LIKE, names={"down": "up"}),
        "names={'down': 'up'}: tree has no layer 'down'; expected 'up'. "
        "Say in names which layer of tree is which of like.",
    ),
    "two for one": (
        lambda: convert.tree(flat(a=layer((4, 3)), b=layer((4, 3))), LIKE, names={"a": "up", "b": "up"}),
        "names={'b': 'up'}: layer 'a' goes there too; expected one for each. Name another.",
    ),
}


test_refusals = refusals(REFUSED)
