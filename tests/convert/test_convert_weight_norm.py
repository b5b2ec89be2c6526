"""Weights computed from others: PyTorch's weight norm is fused; the rest is refused, and the mend works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converting import drawn, refused
from peers import needs, peer

from jdeconv import convert

torch, flax, equinox = peer("torch"), peer("flax"), peer("equinox")


def torch_layers():
    nn = torch.nn
    return {
        "conv": (nn.Conv2d(4, 6, 3, groups=2), (6, 2, 3, 3)),
        "up": (nn.ConvTranspose2d(4, 6, (3, 2)), (4, 6, 3, 2)),
        "head": (nn.Linear(4, 3), (3, 4)),
    }


@needs(torch, "PyTorch")
@pytest.mark.parametrize("layer", ["conv", "up", "head"])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("spelling", ["weight_g", "parametrizations"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_is_fused(layer, dim, spelling):
    utils = torch.nn.utils
    module, _ = torch_layers()[layer]
    module = (utils.weight_norm if spelling == "weight_g" else utils.parametrizations.weight_norm)(module, dim=dim)
    with torch.no_grad():  # not what normalising the weight just gave
        for name, parameter in module.named_parameters():
            if name.endswith(("_g", "original0")):
                parameter.mul_(torch.rand(parameter.shape) + 0.5)
    tree = {f"net.{layer}.{name}": tensor for name, tensor in module.state_dict().items()}
    assert any(spelling in name for name in tree)
    if spelling == "weight_g":
        utils.remove_weight_norm(module)
    else:
        utils.parametrize.remove_parametrizations(module, "weight")
    plain = {f"{layer}.{name}": tensor for name, tensor in module.state_dict().items()}
    found = convert.tree(tree, plain, "torch", "onnx")
    for name, tensor in plain.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-6, atol=1e-7)


@needs(torch, "PyTorch")
@needs(flax, "Flax")
def test_a_vocoder_with_weight_norm_has_the_same_output():
    nn, norm = torch.nn, torch.nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.ConvTranspose1d(4, 4, 4, 2, 1)), norm(nn.Conv1d(4, 4, 3)))
    from flax import nnx

    rngs = nnx.Rngs(0)
    like = nnx.List([nnx.ConvTranspose(4, 4, 4, 2, rngs=rngs), nnx.Conv(4, 4, 3, padding="VALID", rngs=rngs)])
    found = convert.tree(model.state_dict(), like)
    x = drawn(2, 4, 7)
    wanted = model(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(jnp.moveaxis(found[1](found[0](jnp.moveaxis(x, 1, -1))), -1, 1), wanted, atol=1e-5)


def test_weight_norm_keeps_types_and_traces():
    g, v = drawn(3, 1), drawn(3, 4)
    wanted = g * v / np.linalg.norm(v, axis=1, keepdims=True)
    like = {"a": {"kernel": jnp.zeros((4, 3), jnp.float32)}}
    for numbers in (np.asarray, jnp.asarray):
        tree = {"a.weight_g": numbers(g), "a.weight_v": numbers(v)}
        np.testing.assert_allclose(convert.tree(tree, like)["a"]["kernel"], wanted.T, rtol=1e-6)
    traced = jax.jit(lambda tree: convert.tree(tree, like))(tree)
    np.testing.assert_allclose(traced["a"]["kernel"], wanted.T, rtol=1e-6)
    half = {name: value.astype("bfloat16") for name, value in tree.items()}
    np.testing.assert_allclose(convert.tree(half, like)["a"]["kernel"], wanted.T, rtol=2e-2)


CALL = (
    "{what}, which computes the weight from other leaves; expected weights as layers use them, or PyTorch's weight "
    "norm in tree. Call {call} in PyTorch, for each such module of the model in eval mode, and give the new state_dict."
)
REMOVE = "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
LIKE = {"up": {"kernel": np.zeros((2, 2, 4, 3), np.float32), "bias": np.zeros(3, np.float32)}}


def parametrized(make):
    module = make(torch.nn.ConvTranspose2d(4, 3, 2)).eval()
    return module, {f"up.{name}": tensor for name, tensor in module.state_dict().items()}


def half_weight():
    class Half(torch.nn.Module):
        def forward(self, weight):
            return weight / 2

    return lambda module: torch.nn.utils.parametrize.register_parametrization(module, "weight", Half())


OTHERS = {
    "spectral norm, new": (
        lambda: torch.nn.utils.parametrizations.spectral_norm,
        "up/parametrizations/weight/0/_u",
        "spectral norm",
        REMOVE,
        lambda module: torch.nn.utils.parametrize.remove_parametrizations(module, "weight"),
    ),
    "spectral norm, old": (
        lambda: torch.nn.utils.spectral_norm,
        "up/weight_orig",
        "spectral norm",
        "torch.nn.utils.remove_spectral_norm(module, 'weight')",
        lambda module: torch.nn.utils.remove_spectral_norm(module, "weight"),
    ),
    "pruned": (
        lambda: lambda module: __import__("torch.nn.utils.prune").nn.utils.prune.l1_unstructured(module, "weight", 0.5),
        "up/weight_orig",
        "a pruned weight",
        "torch.nn.utils.prune.remove(module, 'weight')",
        lambda module: torch.nn.utils.prune.remove(module, "weight"),
    ),
    "of one's own": (
        half_weight,
        "up/parametrizations/weight/original",
        "a parametrization",
        REMOVE,
        lambda module: torch.nn.utils.parametrize.remove_parametrizations(module, "weight"),
    ),
}


@needs(torch, "PyTorch")
@pytest.mark.parametrize("name", OTHERS)
def test_other_parametrizations_are_refused_and_the_mend_works(name):
    make, path, what, call, mend = OTHERS[name]
    module, tree = parametrized(make())
    refused(f"tree={{{path!r}: ...}}: {CALL.format(what=what, call=call)}", tree, LIKE)
    x = torch.randn(1, 4, 3, 3)
    wanted = module(x).detach()
    mend(module)
    found = convert.tree({f"up.{name}": tensor for name, tensor in module.state_dict().items()}, LIKE)
    plain = convert.tree(found, {"up.weight": torch.zeros(4, 3, 2, 2), "up.bias": torch.zeros(3)}, "flax", "torch")
    again = torch.nn.functional.conv_transpose2d(x, plain["up.weight"], plain["up.bias"])
    np.testing.assert_allclose(again, wanted, atol=1e-5)


@needs(torch, "PyTorch")
def test_weight_norm_in_like_is_refused():
    _, like = parametrized(torch.nn.utils.parametrizations.weight_norm)
    path = "up/parametrizations/weight/original0"
    refused(f"like={{{path!r}: ...}}: {CALL.format(what='weight norm', call=REMOVE)}", LIKE, like, "flax", "torch")


def test_half_of_weight_norm():
    refused(
        "tree=layer 'up': has a part of weight norm's two tensors, or a weight beside them; expected weight_g and "
        "weight_v, or original0 and original1. Give the whole state_dict.",
        {"up.weight_v": drawn(4, 3, 2, 2), "up.bias": drawn(3)},
        LIKE,
    )


def test_two_tensors_that_are_not_weight_norm():
    """A parametrization of one's own may have two tensors as well: low rank, say."""
    refused(
        "tree=layer 'up': weight norm's magnitude has shape [4, 2], its direction [2, 3]; expected a magnitude with "
        f"sizes of 1 but for one axis. {CALL.format(what='', call=REMOVE).partition('. ')[2]}",
        {f"up.parametrizations.weight.original{n}": drawn(*shape) for n, shape in enumerate(((4, 2), (2, 3)))},
        {"up": {"kernel": np.zeros((3, 4))}},
    )


def wrapped(library, name):
    key = jax.random.key(0)
    if library == "linen":
        nn = flax.linen
        layer = getattr(nn, name)(nn.Conv(4, (3, 3), name="conv"))
        options = {"update_stats": False} if name == "SpectralNorm" else {}
        return layer.init(key, jnp.ones((1, 5, 5, 3)), **options)
    if library == "nnx":
        from flax import nnx

        rngs = nnx.Rngs(0)
        return {"net": getattr(nnx, name)(nnx.Conv(3, 4, (3, 3), rngs=rngs), rngs=rngs)}
    nn = equinox.nn
    conv = nn.Conv2d(3, 4, 3, key=key)
    if name == "WeightNorm":
        return {"net": nn.WeightNorm(conv)}
    return nn.make_with_state(lambda: nn.Sequential([nn.SpectralNorm(conv, "weight", key=key)]))()


@pytest.mark.parametrize("name", ["WeightNorm", "SpectralNorm"])
@pytest.mark.parametrize("library", ["linen", "nnx", "equinox"])
def test_wrappers_of_flax_and_equinox_are_named(library, name):
    if {"equinox": equinox}.get(library, flax) is None:
        pytest.skip(f"{library} is not installed")
    tree = wrapped(library, name)
    source = "equinox" if library == "equinox" else "flax"
    for arguments in (
        (tree, {"a.weight": drawn(3, 2)}, source, "torch"),
        ({"a.weight": drawn(3, 2)}, tree, "torch", source),
    ):
        with pytest.raises(
            ValueError, match=rf": {source.title()}'s {name}, which computes the weight .*without {name}"
        ):
            convert.tree(*arguments)
