"""Whether a convolution is transposed: classes and shapes say it, a name alone never."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converting import drawn
from hypothesis import given
from hypothesis import strategies as st
from peers import needs, peer, refuses

from jdeconv import convert

torch, flax, equinox = peer("torch"), peer("flax"), peer("equinox")
NAMES = ("deconv1", "Conv_0", "conv2d", "ConvTranspose_0", "conv2_d_transpose", "layer")


def moved(w, name, shape, source="torch", target="flax", **options):
    """The kernel of the only layer."""
    old, new = (("weight", "kernel"), ("kernel", "weight"))[source != "torch"]
    found = convert.tree({name: {old: w}}, {name: {new: np.zeros(shape, w.dtype)}}, source, target, **options)
    return found[name][new]


def as_convolution(w):
    """The state converted from PyTorch to Flax."""
    return np.moveaxis(w, (0, 1), (-1, -2))


@pytest.mark.parametrize("name", NAMES)
def test_shapes_decide_where_one_reading_fits_whatever_the_name(name):
    w = drawn(4, 3, 2, 2)
    np.testing.assert_array_equal(moved(w, name, (2, 2, 3, 4)), as_convolution(w))
    np.testing.assert_array_equal(moved(w, name, (2, 2, 4, 3)), convert.kernel(w, "torch", "flax"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 2, 3, 3), (6, 1, 3, 3), (3, 3, 1, 1), (2, 2, 3)])
def test_a_name_alone_decides_nothing_where_both_fit(name, shape):
    """As many channels out as in, and one group for each: the readings differ in the order of channels or by a flip."""
    w, like = drawn(*shape), (*shape[2:], shape[1], shape[0])
    with pytest.raises(ValueError, match=r"^transposed=None: shapes and classes don't say whether "):
        moved(w, name, like)
    np.testing.assert_array_equal(moved(w, name, like, transposed=False), as_convolution(w))
    groups = shape[0] // like[-2]
    np.testing.assert_array_equal(moved(w, name, like, transposed=[name]), convert.kernel(w, "torch", "flax", groups))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("source", "target", "shape", "wanted"),
    [
        ("tf", "keras", (2, 2, 3, 3), (2, 2, 3, 3)),
        ("torch", "onnx", (3, 3, 2, 2), (3, 3, 2, 2)),
        ("torch", "tf", (6, 1, 2, 2), (2, 2, 1, 6)),
        ("torch", "flax", (4, 1, 1, 1), (1, 1, 1, 4)),
        ("torch", "flax_transposed", (6, 1, 2, 2), (2, 2, 1, 6)),
    ],
)
def test_no_question_where_both_readings_give_the_same(name, source, target, shape, wanted):
    leaf = {"torch": "weight", "onnx": "weight"}
    w = drawn(*shape)
    like = {name: {leaf.get(target, "kernel"): np.zeros(wanted, np.float32)}}
    found = convert.tree({name: {leaf.get(source, "kernel"): w}}, like, source, target)
    np.testing.assert_array_equal(
        found[name][leaf.get(target, "kernel")].ravel(),
        as_convolution(w).ravel() if (source == "torch" and target not in leaf) else w.ravel(),
    )


def test_the_question_proposes_the_answer():
    """By names for the layer in question, by shapes for the rest: the proposed list is complete."""
    tree = {"net": {name: {"weight": drawn(4, 4, 3, 3)} for name in ("up_deconv", "mid")}}
    tree["net"]["out"] = {"weight": drawn(4, 1, 3, 3)}
    like = {name: {"kernel": np.zeros((3, 3, 4, 4))} for name in ("up_deconv", "mid")}
    like["out"] = {"kernel": np.zeros((3, 3, 4, 1))}
    message = (
        "transposed=None: shapes and classes don't say which of 'net/mid' and 'net/up_deconv' are transposed "
        "convolutions, and a name is no evidence; expected True, False, or patterns of the names of those that are. "
        "If names and shapes are right, pass transposed=['net/out', 'net/up_deconv']."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convert.tree(tree, like)
    found = convert.tree(tree, like, transposed=["net/out", "net/up_deconv"])
    for name in like:
        w = tree["net"][name]["weight"]
        wanted = as_convolution(w) if name == "mid" else convert.kernel(w, "torch", "flax")
        np.testing.assert_array_equal(found[name]["kernel"], wanted)


def test_the_question_names_a_few_of_many():
    tree = {f"layer{n}": {"weight": drawn(2, 2, 3, 3)} for n in range(5)}
    like = {name: {"kernel": np.zeros((3, 3, 2, 2))} for name in tree}
    with pytest.raises(
        ValueError, match="don't say which of 'layer0', 'layer1' and 3 more are transposed convolutions"
    ):
        convert.tree(tree, like)


def test_a_list_must_agree_with_shapes():
    with pytest.raises(ValueError, match=re.escape("its conv weight doesn't fit like's layer 'up'")):
        moved(drawn(4, 3, 2, 2), "up", (2, 2, 4, 3), transposed=False)


# Every pair of libraries: the right kernel, or a question.

AXES = {  # of an ordinary and of a transposed kernel: spatial *, groups, inputs and outputs of a group; and flips
    "tf": ("* i go", "* o gi", False),
    "keras": ("* i go", "* o gi", False),
    "torch": ("go i *", "gi o *", False),
    "onnx": ("go i *", "gi o *", False),
    "flax": ("* i go", "* i go", True),
    "flax_transposed": ("* i go", "* o gi", False),
    "equinox": ("go i *", "go i *", True),
    "haiku": ("* i go", "* go i", True),
}


def laid_out(w, library, transposed, depthwise):
    """A kernel [*k, g, i, o], whose taps are those of the transposed (or ordinary) convolution itself."""
    ordinary, other, flipped = AXES[library]
    axes = other if transposed else "* go i" if depthwise and library in ("tf", "keras") else ordinary
    if transposed and flipped:
        w = np.flip(w, range(w.ndim - 3))
    if axes == "* go i" and depthwise:
        return w.reshape(*w.shape[:-3], w.shape[-3], w.shape[-1])  # [*k, in, multiplier]
    spatial = "hw"[: w.ndim - 3]
    order = axes.replace("*", spatial).replace(" ", "")
    apart = w.transpose([(spatial + "gio").index(letter) for letter in order])
    sizes = dict(zip(spatial + "gio", w.shape, strict=True))
    shape = []
    for axis in axes.split():
        shape += [sizes[letter] for letter in spatial] if axis == "*" else [int(np.prod([sizes[n] for n in axis]))]
    return apart.reshape(shape)


@st.composite
def kernels(draw):
    groups, i, o = (draw(st.sampled_from(sizes)) for sizes in ((1, 1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)))
    return (draw(st.integers(1, 3)),) * draw(st.integers(1, 2)) + (groups, i, o)


@given(
    shape=kernels(),
    source=st.sampled_from(list(AXES)),
    target=st.sampled_from(list(AXES)),
    transposed=st.booleans(),
    depthwise=st.booleans(),
)
def test_the_right_kernel_or_a_question(shape, source, target, transposed, depthwise):
    depthwise = depthwise and not transposed and shape[-2] == 1
    w = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    leaf = {"torch": "weight", "onnx": "weight", "equinox": "weight", "haiku": "w"}
    old, new = (laid_out(w, library, transposed, depthwise) for library in (source, target))
    tree, like = {"deconv": {leaf.get(source, "kernel"): old}}, {"deconv": {leaf.get(target, "kernel"): 0 * new}}
    question = refuses(lambda: convert.tree(tree, like, source, target))
    assert question is None or str(question).startswith("transposed=None: shapes and classes don't say")
    found = convert.tree(tree, like, source, target, transposed=None if question is None else transposed)
    np.testing.assert_array_equal(found["deconv"][leaf.get(target, "kernel")], new)


# Classes.


def nnx_model(names):
    from flax import nnx

    class Conv(nnx.Module):  # a user's own class, with a framework's name
        def __init__(self, rngs):
            setattr(self, names[0], nnx.ConvTranspose(4, 4, (3, 3), padding="VALID", rngs=rngs))
            setattr(self, names[1], nnx.Conv(4, 4, (3, 3), padding="VALID", rngs=rngs))
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            x = getattr(self, names[1])(getattr(self, names[0])(x))
            return self.norm(x, use_running_average=True)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.block = Conv(rngs)

    model = Net(nnx.Rngs(0))
    return model, lambda model, x: jnp.moveaxis(model.block(jnp.moveaxis(x, 1, -1)), -1, 1)


def equinox_model(names, subclass=False):
    nn, keys = equinox.nn, jax.random.split(jax.random.key(0))

    if subclass:  # a layer that holds another

        class Base(nn.ConvTranspose2d):
            norm: nn.BatchNorm

            def __init__(self):
                super().__init__(4, 4, 3, key=keys[0])
                self.norm = nn.BatchNorm(4, "batch", mode="batch")

        class Net(equinox.Module):
            block: Base

        def run(model, state, x):
            return model.block.norm(model.block(x), state, inference=True)[0]

        model, state = nn.make_with_state(lambda: Net(Base()))()
    else:

        class Conv(equinox.Module):
            layers: dict
            norm: nn.BatchNorm

            def __init__(self):
                self.layers = {
                    names[0]: nn.ConvTranspose2d(4, 4, 3, key=keys[0]),
                    names[1]: nn.Conv2d(4, 4, 3, key=keys[1]),
                }
                self.norm = nn.BatchNorm(4, "batch", mode="batch")

        class Net(equinox.Module):
            block: Conv

        def run(model, state, x):
            y = model.block.layers[names[1]](model.block.layers[names[0]](x))
            return model.block.norm(y, state, inference=True)[0]

        model, state = nn.make_with_state(lambda: Net(Conv()))()
    return (model, state), lambda tree, x: jax.vmap(lambda x: run(*tree, x), axis_name="batch")(x)


def torch_model(names):
    nn = torch.nn
    block = nn.Sequential()
    block.add_module(names[0], nn.ConvTranspose2d(4, 4, 3))
    block.add_module(names[1], nn.Conv2d(4, 4, 3))
    block.add_module("norm", nn.BatchNorm2d(4))
    model = nn.ModuleDict({"block": block}).eval()
    for buffer in (block.norm.running_mean, block.norm.running_var):
        buffer.copy_(torch.rand(4) + 0.5)
    return model


@needs(torch, "PyTorch")
@pytest.mark.parametrize("names", [("up", "down"), ("conv2d", "deconv")], ids=["plain names", "misleading names"])
@pytest.mark.parametrize("library", ["flax", "equinox"])
def test_the_class_decides_and_a_users_class_hides_nothing(library, names):
    if {"flax": flax, "equinox": equinox}[library] is None:
        pytest.skip(f"{library} is not installed")
    like, run = nnx_model(names) if library == "flax" else equinox_model(names)
    model, x = torch_model(names), drawn(2, 4, 5, 6)
    inside = {name: f"block/layers/{name}" for name in names} if library == "equinox" else {}
    found = convert.tree(
        model.state_dict(), like, "torch", library, names=lambda name: inside.get(name.rpartition("/")[2])
    )
    wanted = model["block"](torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(run(found, x), wanted, atol=1e-4)
    back = convert.tree(
        found, model.state_dict(), library, "torch", names=lambda name: name.replace("block/layers/", "block/")
    )
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(back[name], tensor)


@needs(equinox, "Equinox")
@needs(torch, "PyTorch")
def test_a_layer_that_holds_a_norm():
    like, run = equinox_model(None, subclass=True)
    nn = torch.nn
    up, norm = nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4).eval()
    norm.running_mean.copy_(torch.rand(4))
    tree = {f"block.{n}": t for n, t in up.state_dict().items()}
    tree |= {f"block.norm.{n}": t for n, t in norm.state_dict().items()}
    x = drawn(2, 4, 5, 6)
    wanted = norm(up(torch.tensor(x))).detach().numpy()
    np.testing.assert_allclose(run(convert.tree(tree, like, "torch", "equinox"), x), wanted, atol=1e-4)


@needs(flax, "Flax")
@needs(equinox, "Equinox")
def test_classes_that_disagree():
    from flax import nnx

    tree = {"up": equinox.nn.Conv2d(4, 4, 3, use_bias=False, key=jax.random.key(0))}
    like = {"up": nnx.ConvTranspose(4, 4, (3, 3), use_bias=False, rngs=nnx.Rngs(0))}
    message = (
        "tree=layer 'up': conv with weight, but like's 'up' is conv_transpose with weight; expected layers of one "
        "kind. Check names."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convert.tree(tree, like, "equinox", "flax")


@needs(flax, "Flax")
@pytest.mark.parametrize(("transposed", "refused"), [(True, True), (["up"], True), (False, False), (["out"], False)])
def test_transposed_may_not_contradict_a_class(transposed, refused):
    from flax import nnx

    like = {name: nnx.Conv(4, 4, (3, 3), use_bias=False, rngs=nnx.Rngs(0)) for name in ("up", "out")}
    like["out"] = {"kernel": np.zeros((3, 3, 4, 4), np.float32)}
    tree = {name: {"weight": drawn(4, 4, 3, 3)} for name in like}
    if refused:
        with pytest.raises(ValueError, match=r"layer 'up' is conv, as its class or node says"):
            convert.tree(tree, like, transposed=transposed)
    else:
        found = convert.tree(tree, like, transposed=transposed)
        np.testing.assert_array_equal(found["up"].kernel[...], as_convolution(tree["up"]["weight"]))


@needs(flax, "Flax")
def test_our_layers_are_known_by_their_base():
    from flax import nnx

    from jdeconv.nnx import ConvTranspose

    w = drawn(4, 4, 3, 3)
    like = {"conv": ConvTranspose(4, 4, (3, 3), use_bias=False, rngs=nnx.Rngs(0))}
    found = convert.tree({"conv": {"weight": w}}, like)
    np.testing.assert_array_equal(found["conv"].kernel[...], convert.kernel(w, "torch", "flax"))


@needs(flax, "Flax")
@pytest.mark.parametrize("transpose_kernel", [True, False])
def test_a_layer_knows_its_layout(transpose_kernel):
    from flax import nnx

    w = drawn(4, 4, 3, 3)
    like = {"up": nnx.ConvTranspose(4, 4, (3, 3), use_bias=False, transpose_kernel=transpose_kernel, rngs=nnx.Rngs(0))}
    right, wrong = ("flax_transposed", "flax") if transpose_kernel else ("flax", "flax_transposed")
    found = convert.tree({"up": {"weight": w}}, like, "torch", right)
    np.testing.assert_array_equal(found["up"].kernel[...], convert.kernel(w, "torch", right))
    for arguments, name in ((({"up": {"weight": w}}, like, "torch", wrong), "target"), ((like, {}, wrong), "source")):
        with pytest.raises(ValueError, match=f"^{name}='{wrong}': layer 'up' was made with transpose_kernel="):
            convert.tree(*arguments)


# The root.


def test_a_single_layer_at_the_root():
    w, b = drawn(4, 3, 2, 2), drawn(3)
    like = {"params": {"kernel": np.zeros((2, 2, 4, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    found = convert.tree({"weight": w, "bias": b}, like)["params"]
    np.testing.assert_array_equal(found["kernel"], convert.kernel(w, "torch", "flax"))
    np.testing.assert_array_equal(found["bias"], b)
    inner = convert.tree({"weight": w, "bias": b}, {"params": {"up": like["params"]}}, names={"": "up"})
    np.testing.assert_array_equal(inner["params"]["up"]["kernel"], found["kernel"])
    back = convert.tree(inner, {"weight": 0 * w, "bias": 0 * b}, "flax", "torch", names={"up": ""})
    np.testing.assert_array_equal(back["weight"], w)


def test_a_single_layer_at_the_root_that_may_be_either():
    w, like = drawn(3, 3, 2, 2), {"kernel": np.zeros((2, 2, 3, 3), np.float32)}
    with pytest.raises(ValueError, match=re.escape("such as transposed=[''].")):
        convert.tree({"weight": w}, like)
    for transposed in (True, [""], ["*"]):
        found = convert.tree({"weight": w}, like, transposed=transposed)["kernel"]
        np.testing.assert_array_equal(found, convert.kernel(w, "torch", "flax"))


@needs(equinox, "Equinox")
@needs(flax, "Flax")
def test_a_module_that_is_one_layer():
    from flax import nnx

    up = equinox.nn.ConvTranspose2d(4, 4, 3, key=jax.random.key(0))
    found = convert.tree(up, nnx.ConvTranspose(4, 4, (3, 3), rngs=nnx.Rngs(0)), "equinox", "flax")
    np.testing.assert_array_equal(found.kernel[...], convert.kernel(up.weight, "equinox", "flax"))


def test_two_leaves_of_one_name():
    with pytest.raises(ValueError, match=r"^tree=\{'a/weight': ...\}: two leaves have this name"):
        convert.tree({"a.weight": np.zeros((2, 3)), "a/weight": np.zeros((2, 3))}, {"a": {"kernel": np.zeros((3, 2))}})
