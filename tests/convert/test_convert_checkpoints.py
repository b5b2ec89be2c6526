"""Whole checkpoints: leaves that are no layer's, depthwise kernels, PReLUs and SavedModels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converting import drawn, refused
from peers import needs, peer

from jdeconv import convert

tf, keras, torch = peer("tensorflow"), peer("keras"), peer("torch")
flax, equinox, haiku = peer("flax"), peer("equinox"), peer("haiku")


# Leaves that are no layer's.

LIKE = {"up": {"kernel": np.zeros((2, 2, 4, 3), np.float32), "bias": np.zeros(3, np.float32)}}
STATE = {"net.up.weight": drawn(4, 3, 2, 2), "net.up.bias": drawn(3), "net.gain": drawn(5), "n_averaged": np.array(7)}
WITH_GAIN = {"up": LIKE["up"], "gain": np.zeros(5, np.float32)}


def test_leaves_are_ignored():
    found = convert.tree(STATE, LIKE, ignore=["n_averaged", "*/gain"])
    np.testing.assert_array_equal(found["up"]["bias"], STATE["net.up.bias"])


@pytest.mark.parametrize("copy", [{"net/gain": "gain"}, {"net.gain": "gain"}, ["*gain"], ("net/gain",)])
def test_leaves_are_copied(copy):
    found = convert.tree(STATE, WITH_GAIN, ignore=["n_averaged"], copy=copy)
    np.testing.assert_array_equal(found["gain"], STATE["net.gain"])
    np.testing.assert_array_equal(found["up"]["kernel"], convert.kernel(STATE["net.up.weight"], "torch", "flax"))


def test_a_leaf_of_a_layer_is_copied():
    """What would move otherwise stays as it is; its layer's other leaves are converted."""
    tree, like = (
        {"a.weight": drawn(3, 3), "a.bias": drawn(3)},
        {"a": {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}},
    )
    found = convert.tree(tree, like, copy=["a/b*"])
    np.testing.assert_array_equal(found["a"]["kernel"], tree["a.weight"].T)
    np.testing.assert_array_equal(found["a"]["bias"], tree["a.bias"])
    found = convert.tree(tree, like, copy={"a/weight": "a/kernel"})
    np.testing.assert_array_equal(found["a"]["kernel"], tree["a.weight"])
    assert isinstance(found["a"]["kernel"], jax.Array)


REFUSED = {
    "neither": (
        dict(),
        "tree={'n_averaged': ...}: not a leaf of torch's convolutions, dense layers, norms, embeddings and PReLUs; "
        "expected a layer's 'weight', 'bias', 'running_mean' or 'running_var'. Leave it out: ignore=['n_averaged']; "
        "or fill a leaf of like as it is: copy={'n_averaged': 'leaf of like'}.",
    ),
    "a leaf of like that nothing fills": (
        dict(like=WITH_GAIN, ignore=["n_averaged", "*gain"]),
        "like={'gain': ...}: not a leaf of flax's convolutions, dense layers, norms, embeddings and PReLUs; expected "
        "a layer's 'kernel', 'scale', 'embedding', 'negative_slope', 'bias', 'mean' or 'var'. "
        "Fill it with a leaf of tree as it is: copy={'leaf of tree': 'gain'}.",
    ),
    "a layer of like that nothing fills": (
        dict(like={**LIKE, "out": LIKE["up"]}, ignore=["n_averaged", "*gain"]),
        "tree=layers 'net/up': none is for like's layer 'out'; expected one for each. "
        "Add it to tree, name it in names, or fill its leaves with copy.",
    ),
    "a pattern of nothing": (
        dict(ignore=["n_averaged", "lstm/*"]),
        "ignore=['n_averaged', 'lstm/*']: 'lstm/*' matches no leaf of tree; expected patterns of 'n_averaged', "
        "'net/gain', 'net/up/bias' or 'net/up/weight'. "
        "Names are paths joined by '/', such as 'layer/weight'; 'layer/*' matches a layer's leaves.",
    ),
    "a copy of nothing": (
        dict(copy=["lstm/*"]),
        "copy=['lstm/*']: 'lstm/*' matches no leaf of tree; expected patterns of 'n_averaged', "
        "'net/gain', 'net/up/bias' or 'net/up/weight'. "
        "Names are paths joined by '/', such as 'layer/weight'; 'layer/*' matches a layer's leaves.",
    ),
    "a copy to nowhere": (
        dict(copy=["net/gain"]),
        "copy={'net/gain': 'net/gain'}: like has no leaf 'net/gain'; expected 'up/bias' or 'up/kernel'. "
        "Use {'leaf of tree': 'leaf of like'}, paths joined by '/'.",
    ),
    "a copy of what is ignored": (
        dict(ignore=["n_averaged"], copy={"n_averaged": "up/bias"}),
        "copy={'n_averaged': 'up/bias'}: tree has no leaf 'n_averaged'; expected 'net/gain', 'net/up/bias' or "
        "'net/up/weight'. Use {'leaf of tree': 'leaf of like'}, paths joined by '/'.",
    ),
    "two copies to one": (
        dict(like=WITH_GAIN, copy={"net/gain": "gain", "net/up/bias": "gain"}),
        "copy={'net/up/bias': 'gain'}: leaf 'net/gain' goes there too; expected one for each. Name another.",
    ),
    "a copy of another shape": (
        dict(ignore=["n_averaged", "*bias"], copy={"net/gain": "up/bias"}),
        "copy={'net/gain': 'up/bias'}: float32[5] doesn't fit like's [3]; expected equal shapes. "
        "Convert this leaf yourself, and give the result in tree.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    options, message = REFUSED[name]
    refused(message, STATE, **{"like": LIKE, **options})


def test_haikus_pair_as_a_dict():
    both = ({"net/~/norm": {"scale": drawn(1, 1, 1, 3), "offset": drawn(1, 1, 1, 3)}}, {})
    both[1].update({f"net/~/norm/~/{s}_ema": {"average": drawn(1, 1, 1, 3)} for s in ("mean", "var")})
    like = {f"norm.{name}": np.zeros(3, np.float32) for name in ("weight", "bias", "running_mean", "running_var")}
    found = convert.tree({"params": both[0], "state": both[1]}, like, "haiku", "torch")
    np.testing.assert_array_equal(found["norm.running_var"], both[1]["net/~/norm/~/var_ema"]["average"].ravel())


# Depthwise kernels and PReLUs.


def keras_model(multiplier):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.DepthwiseConv2D(3, depth_multiplier=multiplier, name="deep"),
            layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal", name="act"),
            layers.Conv2D(2, 1, name="out"),
        ]
    )
    for variable in model.weights:
        variable.assign(drawn(*variable.shape))
    return model, {variable.path: variable for variable in model.weights}


def torch_model(multiplier):
    nn, channels = torch.nn, 3 * multiplier
    layers = {"deep": nn.Conv2d(3, channels, 3, groups=3), "act": nn.PReLU(channels), "out": nn.Conv2d(channels, 2, 1)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def depthwise_models(multiplier):
    """Each library's model, and how it runs on channels last."""
    channels, key = 3 * multiplier, jax.random.key(0)
    found = {}
    if torch is not None:
        model = torch_model(multiplier)

        def run_torch(tree, x):
            model.load_state_dict(tree)
            return model(torch.tensor(x).movedim(-1, 1)).movedim(1, -1).detach().numpy()

        found["torch"] = model.state_dict(), run_torch
    if equinox is not None:
        nn = equinox.nn
        layers = {
            "deep": nn.Conv2d(3, channels, 3, groups=3, key=key),
            "act": nn.PReLU(jnp.zeros((channels, 1, 1))),
            "out": nn.Conv2d(channels, 2, 1, key=key),
        }

        def run_equinox(layers, x):
            run = jax.vmap(lambda x: layers["out"](layers["act"](layers["deep"](x))))
            return jnp.moveaxis(run(jnp.moveaxis(x, -1, 1)), 1, -1)

        found["equinox"] = layers, run_equinox
    if flax is not None:
        nn = flax.linen

        class Slopes(nn.Module):
            @nn.compact
            def __call__(self, x):
                return jnp.where(x < 0, self.param("negative_slope", nn.initializers.ones, x.shape[-1:]) * x, x)

        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.Conv(channels, (3, 3), padding="VALID", feature_group_count=3, name="deep")(x)
                return nn.Conv(2, (1, 1), name="out")(Slopes(name="act")(x))

        found["flax"] = Net().init(key, jnp.zeros((1, 6, 6, 3))), Net().apply
    return found


@needs(keras, "Keras")
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_depthwise_kernels_and_slopes_of_keras(multiplier):
    model, tree = keras_model(multiplier)
    x = drawn(2, 6, 6, 3)
    wanted = keras.ops.convert_to_numpy(model(x))
    for library, (like, run) in depthwise_models(multiplier).items():
        found = convert.tree(tree, like, "keras", library, transposed=False)
        np.testing.assert_allclose(run(found, x), wanted, atol=1e-5, err_msg=library)
        back = convert.tree(found, tree, library, "keras", transposed=False)
        for path, variable in tree.items():
            np.testing.assert_array_equal(back[path], variable, err_msg=f"{library} {path}")


@needs(haiku, "Haiku")
@needs(keras, "Keras")
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_depthwise_kernels_of_haiku(multiplier):
    layer = keras.layers.DepthwiseConv2D(3, depth_multiplier=multiplier, name="deep")
    x = drawn(2, 6, 6, 3)
    wanted = keras.ops.convert_to_numpy(layer(x))
    net = haiku.without_apply_rng(
        haiku.transform(lambda x: haiku.DepthwiseConv2D(multiplier, 3, padding="VALID", name="deep")(x))
    )
    tree = {variable.path: variable for variable in layer.weights}
    found = convert.tree(tree, net.init(jax.random.key(0), x), "keras", "haiku")
    np.testing.assert_allclose(net.apply(found, x), wanted, atol=1e-5)


SLOPES = {  # source, leaf and shape; target, leaf and shape; what is found
    "one, of Flax": ("torch", "weight", (1,), "flax", "negative_slope", ()),
    "one, of Flax back": ("flax", "negative_slope", (), "torch", "weight", (1,)),
    "one, of Keras": ("torch", "weight", (1,), "keras", "alpha", (1, 1, 1)),
    "of channels": ("keras", "alpha", (1, 1, 5), "torch", "weight", (5,)),
    "of channels back": ("torch", "weight", (5,), "keras", "alpha", (1, 1, 5)),
    "of channels, first": ("keras", "alpha", (1, 1, 5), "equinox", "negative_slope", (5, 1, 1)),
    "of features": ("keras", "alpha", (5,), "flax", "negative_slope", (5,)),
    "of elements": ("keras", "alpha", (2, 3, 5), "equinox", "negative_slope", (5, 2, 3)),
    "of elements, alike": ("keras", "alpha", (2, 3, 5), "tf", "alpha", (2, 3, 5)),
    "of PyTorch and ONNX": ("torch", "weight", (5,), "onnx", "weight", (5,)),
}


@pytest.mark.parametrize("name", SLOPES)
def test_slopes(name):
    source, leaf, shape, target, other, wanted = SLOPES[name]
    array = drawn(*shape)
    found = convert.tree({"act": {leaf: array}}, {"act": {other: np.zeros(wanted, np.float32)}}, source, target)
    moved = np.moveaxis(array, -1, 0) if name == "of elements" else array
    np.testing.assert_array_equal(found["act"][other], moved.reshape(wanted))


@pytest.mark.parametrize(
    ("shape", "wanted"), [((4, 1, 1), (4,)), ((1, 1, 4), (1,)), ((3, 3, 4), (4,)), ((2, 2, 1), (4,))]
)
def test_slopes_that_do_not_fit(shape, wanted):
    refused(
        f"tree=float32{list(shape)}: its prelu weight doesn't fit like's layer 'act'; expected what becomes "
        f"{list(wanted)}, not {list(shape)}. "
        "Give both as many slopes (num_parameters, shared_axes, the shape of init_alpha).",
        {"act": {"alpha": drawn(*shape)}},
        {"act": {"weight": np.zeros(wanted, np.float32)}},
        "keras",
        "torch",
    )


@needs(flax, "Flax")
@needs(torch, "PyTorch")
def test_prelus_of_flax_have_the_same_output():
    from flax import nnx

    x, module = drawn(2, 3), torch.nn.PReLU()
    wanted = module(torch.tensor(x)).detach().numpy()
    tree = {f"act.{name}": tensor for name, tensor in module.state_dict().items()}
    np.testing.assert_allclose(convert.tree(tree, {"act": nnx.PReLU(0.1)})["act"](x), wanted)
    linen = flax.linen.PReLU()
    found = convert.tree(module.state_dict(), linen.init(jax.random.key(0), x))
    np.testing.assert_allclose(linen.apply(found, x), wanted)


# TensorFlow's objects.


def test_variables_of_optimizers_are_skipped():
    tree = {"net/up/kernel:0": drawn(2, 2, 3, 4), "net/up/bias:0": drawn(3)}
    slots = ("Adam", "Adam_1", "Momentum")
    tree |= {f"net/up/kernel/{slot}:0": drawn(2, 2, 3, 4) for slot in slots}
    tree |= {name: np.array(1.0) for name in ("adam/iteration", "beta1_power:0", "global_step:0", "Adam/iter:0")}
    tree |= {"adam/net_up_kernel_momentum": drawn(2, 2, 3, 4), "Adam/m/net/up/kernel:0": drawn(2, 2, 3, 4)}
    tree |= {"training/Adam/net/up/kernel/m:0": drawn(2, 2, 3, 4)}
    found = convert.tree(tree, LIKE, "tf", "flax")
    np.testing.assert_array_equal(found["up"]["kernel"], convert.kernel(tree["net/up/kernel:0"], "tf", "flax"))


@needs(tf, "TensorFlow")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_saved_module_with_names_that_repeat(tmp_path):
    class Layer(tf.Module):
        def __init__(self, n):
            super().__init__()
            self.kernel = tf.Variable(drawn(n, 3), name="kernel")
            self.bias = tf.Variable(drawn(3), name="bias")

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.heads = [Layer(3), Layer(3)], {"a": Layer(2)}

        @tf.function(input_signature=[tf.TensorSpec((None, 3))], autograph=False)
        def __call__(self, x):
            for layer in self.layers:
                x = x @ layer.kernel + layer.bias
            return x

    net = Net()
    tf.saved_model.save(net, tmp_path)
    like = {name: {"kernel": jnp.zeros((n, 3)), "bias": jnp.zeros(3)} for name, n in (("a", 3), ("b", 3), ("c", 2))}
    names = {"layers/0": "a", "layers/1": "b", "heads/a": "c"}
    for model in (net, tf.saved_model.load(tmp_path)):
        found = convert.tree(model, like, "tf", "flax", names=names)
        x = drawn(2, 3)
        y = (x @ found["a"]["kernel"] + found["a"]["bias"]) @ found["b"]["kernel"] + found["b"]["bias"]
        np.testing.assert_allclose(y, net(x), atol=1e-5)
        np.testing.assert_array_equal(found["c"]["kernel"], net.heads["a"].kernel)


@needs(tf, "TensorFlow")
@needs(keras, "Keras")
@pytest.mark.skipif(keras is not None and keras.backend.backend() != "tensorflow", reason="Keras runs on another")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("how", ["export", "saved with its optimizer"])
def test_a_saved_keras_model(tmp_path, how):
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2DTranspose(2, 3, name="up")])
    model.compile("adam", "mse")
    model.fit(drawn(2, 4, 4, 3), drawn(2, 6, 6, 2), verbose=0)
    if how == "export":
        model.export(tmp_path, verbose=False)
    else:
        tf.saved_model.save(model, tmp_path)
    like = {"up": {"kernel": np.zeros((3, 3, 3, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    found = convert.tree(tf.saved_model.load(tmp_path), like, "tf", "flax")
    kernel, bias = model.get_weights()
    np.testing.assert_array_equal(found["up"]["kernel"], convert.kernel(kernel, "tf", "flax"))
    np.testing.assert_array_equal(found["up"]["bias"], bias)
