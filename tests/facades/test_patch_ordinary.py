"""Unedited models with ordinary convolutions under jdeconv.patch: values, gradients, types and what is routed."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from peers import needs, peer
from quick import jit

import jdeconv

linen, nnx, haiku, equinox = peer("flax.linen"), peer("flax.nnx"), peer("haiku"), peer("equinox")
keras = peer("keras")


def images(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def step(apply):
    """Gradients of a loss by variables and input, and what `apply` returns, of which the first array is the output."""

    def loss(variables, x):
        found = apply(variables, x)
        return (jax.tree.leaves(found)[0].astype("float32") ** 2).sum(), found

    return lambda variables, x: jax.grad(loss, (0, 1), has_aux=True, allow_int=True)(variables, x)


def convolutions(f, *operands):
    """How many of jdeconv's operators and how many of lax's convolutions the program has, at any depth."""
    text = str(jax.make_jaxpr(lambda *operands: f(*operands))(*operands))
    return text.count("transposed_convolution["), text.count("conv_general_dilated[")


def same(found, wanted, room):
    """Structure and types; numbers within `room` of the largest of each array, or of a hundredth of the largest of all.

    The gradient of a bias before a normalisation is nothing but rounding.
    """
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    pairs = [*zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)]
    assert [(got.shape, got.dtype) for got, _ in pairs] == [(want.shape, want.dtype) for _, want in pairs]
    numbers = [np.asarray(pair, "float64") for pair in pairs if pair[0].dtype != jax.dtypes.float0]
    largest = [np.abs(want).max(initial=0) for _, want in numbers]
    for (got, want), scale in zip(numbers, largest, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=room * max(scale, max(largest) / 100))


def initial(model, x):
    """The variables of a model of Linen or Haiku, in one program."""
    return jit(lambda x: model.init(jax.random.key(0), x))(x)


def check(apply, variables, x, routed=1, transposed=0, by_lax=0, room=1e-4):
    """The model with and without patch: `routed` and `transposed` calls are the operator's, `by_lax` stay lax's."""
    f = step(apply)
    operators, of_lax = convolutions(apply, variables, x)
    assert (operators, of_lax) == (0, routed + transposed + by_lax)
    wanted = jit(lambda *operands: f(*operands))(variables, x)
    with jdeconv.patch():
        assert convolutions(apply, variables, x) == (routed + transposed, by_lax)
        same(jit(lambda *operands: f(*operands))(variables, x), wanted, room)
    with jdeconv.patch(only="transposed"):
        assert convolutions(apply, variables, x) == (transposed, routed + by_lax)
    assert convolutions(apply, variables, x) == (0, of_lax)


# Linen

LINEN = {
    "dense": ((2, 8, 7, 3), 4, (3, 3), {}),
    "1x1": ((2, 8, 7, 3), 4, (1, 1), {}),
    "strided": ((2, 8, 7, 3), 4, (3, 3), dict(strides=(2, 3))),
    "patches": ((2, 8, 8, 3), 4, (4, 4), dict(strides=4, padding="VALID")),
    "grouped": ((2, 8, 7, 4), 6, (3, 3), dict(feature_group_count=2, strides=2)),
    "depthwise": ((2, 8, 7, 4), 8, (5, 5), dict(feature_group_count=4)),
    "dilated": ((2, 8, 7, 3), 4, (3, 3), dict(kernel_dilation=(2, 1))),
    "causal": ((2, 9, 3), 4, (3,), dict(padding="CAUSAL", kernel_dilation=2)),
    "circular": ((2, 8, 7, 3), 4, (3, 3), dict(padding="CIRCULAR")),
    "reflecting": ((2, 8, 7, 3), 4, (3, 3), dict(padding="REFLECT", strides=2)),
    "pairs": ((2, 8, 7, 3), 4, (3, 3), dict(padding=((2, 0), (0, 1)), use_bias=False)),
    "masked": ((2, 8, 7, 3), 4, (3, 3), dict(mask=images(3, 3, 3, 4) > 0)),
    "no batch": ((8, 7, 3), 4, (3, 3), {}),
    "two batches": ((2, 3, 8, 7, 3), 4, (3, 3), dict(strides=2)),
    "volumes": ((2, 5, 4, 6, 3), 4, (3, 3, 2), dict(strides=(1, 2, 2))),
    "mixed precision": ((2, 8, 7, 3), 4, (3, 3), dict(dtype="bfloat16")),
    "bfloat16": ((2, 8, 7, 3), 4, (3, 3), dict(dtype="bfloat16", param_dtype="bfloat16")),
    "bfloat16 summed in float32": ((2, 8, 7, 3), 4, (3, 3), dict(dtype="bfloat16", preferred_element_type="float32")),
    "complex": ((2, 8, 7, 3), 4, (3, 3), dict(dtype="complex64", param_dtype="complex64")),
    "precision": ((2, 8, 7, 3), 4, (3, 3), dict(precision="highest")),
}  # fmt: skip


def room_for(options):
    """float32 sums of at most some hundred products; in bfloat16 each side is rounded twice."""
    return 4 * 2.0**-8 if "bfloat16" in str(options) else 1e-4


@needs(linen, "flax")
@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", LINEN)
def test_linen_layers(name):
    shape, features, kernel, options = LINEN[name]
    known = linen.Conv.__dataclass_fields__
    model = linen.Conv(features, kernel, **{key: value for key, value in options.items() if key in known})
    x = images(*shape)
    if options.get("dtype") == "complex64":
        return check_complex(model.apply, initial(model, x), x)
    check(model.apply, initial(model, x), x, room=room_for(options))


def check_complex(apply, variables, x):
    wanted = jit(lambda *operands: apply(*operands))(variables, x)
    with jdeconv.patch():
        assert convolutions(apply, variables, x) == (1, 0)
        same(jit(lambda *operands: apply(*operands))(variables, x).real, wanted.real, 1e-4)


@needs(linen, "flax")
def test_linen_input_dilation_is_transposed():
    x = images(2, 8, 7, 3)
    model = linen.Conv(4, (3, 3), padding=((2, 1), (1, 2)), input_dilation=2)
    check(model.apply, initial(model, x), x, routed=0, transposed=1)


@needs(linen, "flax")
@pytest.mark.sampled(0)
def test_linen_local_layers_are_lax():
    x = images(2, 8, 7, 3)
    model = linen.ConvLocal(4, (3, 3), padding="VALID")
    check(model.apply, initial(model, x), x, routed=0, by_lax=1)


def linen_network():
    """An inverted bottleneck, as of MobileNet and ConvNeXt, rematerialised; and back up."""

    class Block(linen.Module):
        features: int

        @linen.compact
        def __call__(self, x):
            y = linen.Conv(12, (1, 1), use_bias=False)(x)
            y = linen.relu(linen.BatchNorm(use_running_average=False)(y))
            y = linen.Conv(12, (3, 3), strides=2, feature_group_count=12, use_bias=False)(y)
            y = linen.gelu(linen.LayerNorm()(y))
            return linen.Conv(self.features, (1, 1))(y)

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(6, (2, 2), strides=2)(x)
            x = linen.remat(Block)(8)(x)
            x = linen.Conv(8, (3, 3), padding="CIRCULAR", feature_group_count=2)(x) + x
            x = linen.max_pool(x, (2, 2))
            return linen.ConvTranspose(3, (4, 4), (2, 2))(x)

    return Network()


@needs(linen, "flax")
@pytest.mark.sampled(0)
def test_a_linen_network_with_statistics_and_remat():
    model, x = linen_network(), images(2, 16, 12, 3)
    variables = initial(model, x)

    def apply(variables, x):
        return model.apply(variables, x, mutable=["batch_stats"])

    check(apply, variables, x, routed=5, transposed=1)


@needs(linen, "flax")
@pytest.mark.sampled(0)
def test_a_routed_network_is_exported_and_split():
    """With its gradients, for any batch, and over devices as without patch."""
    model = linen.Sequential(
        [linen.Conv(4, (3, 3), strides=2), linen.relu, linen.Conv(4, (3, 3), feature_group_count=4)]
    )
    x = images(8, 8, 8, 3)
    variables = initial(model, x)
    f, (b,) = step(model.apply), jax.export.symbolic_shape("b")
    wanted = jax.jit(lambda *operands: f(*operands))(variables, x)
    with jdeconv.patch():
        assert convolutions(f, variables, x) == (6, 0)
        exported = jax.export.export(jax.jit(lambda *operands: f(*operands)))(
            variables, jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype)
        )
    same(jax.export.deserialize(exported.serialize()).call(variables, x), wanted, 1e-4)
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        xs = jax.device_put(x, jax.P("data"))
        kind = jax.eval_shape(model.apply, variables, xs)  # lax's own gradients ask for an out_sharding here
        with jdeconv.patch():
            found = jax.jit(lambda *operands: f(*operands))(variables, xs)
        assert jax.typeof(found[1]).sharding == kind.sharding
        same(found, wanted, 1e-4)


# nnx


def check_nnx(model, x, routed=1, **options):
    graph, state = nnx.split(model)

    def apply(state, x):
        merged = nnx.merge(graph, state)
        return merged(x), nnx.state(merged)

    check(apply, state, x, routed=routed, **options)


# Its layers make the calls that Linen's do.
NNX = ("strided", "depthwise", "dilated", "causal", "circular", "masked", "two batches", "bfloat16 summed in float32")


@needs(nnx, "flax")
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NNX)
def test_nnx_layers(name):
    shape, features, kernel, options = LINEN[name]
    check_nnx(
        nnx.Conv(shape[-1], features, kernel, rngs=nnx.Rngs(0), **options), images(*shape), room=room_for(options)
    )


@needs(nnx, "flax")
@pytest.mark.sampled(0)
def test_an_nnx_network_with_statistics():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.second = nnx.Conv(8, 8, (3, 3), feature_group_count=8, padding="CIRCULAR", rngs=rngs)
            self.up = nnx.ConvTranspose(8, 3, (4, 4), strides=2, rngs=rngs)

        def __call__(self, x):
            return self.up(nnx.relu(self.second(self.norm(self.first(x)))))

    check_nnx(Network(nnx.Rngs(0)), images(2, 8, 8, 3), routed=2, transposed=1)


@needs(nnx, "flax")
def test_an_nnx_layer_made_under_the_patch_and_one_with_its_own_function():
    def halved(*arguments, **options):
        return lax.conv_general_dilated(*arguments, **options) / 2

    x = images(2, 8, 8, 3)
    with jdeconv.patch():
        made = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
    check_nnx(made, x)
    own = nnx.Conv(3, 4, (3, 3), conv_general_dilated=halved, rngs=nnx.Rngs(0))
    with jdeconv.patch():
        assert convolutions(own, x) == (1, 0)
        np.testing.assert_allclose(own(x), made(x) / 2, rtol=1e-4, atol=1e-4)


# Equinox

EQUINOX = {
    "dense": ((3, 8, 7), dict(kernel_size=3, padding=1)),
    "strided": ((3, 8, 7), dict(kernel_size=(3, 2), stride=(2, 1), padding=((1, 0), (0, 1)))),
    "depthwise": ((4, 8, 7), dict(kernel_size=5, padding=2, groups=4)),
    "grouped": ((4, 8, 7), dict(kernel_size=3, groups=2, padding="SAME", stride=2)),
    "dilated": ((3, 8, 7), dict(kernel_size=3, dilation=2, use_bias=False)),
    "circular": ((3, 8, 7), dict(kernel_size=3, padding=1, padding_mode="CIRCULAR")),
    "replicating": ((3, 8, 7), dict(kernel_size=3, padding="SAME_LOWER", padding_mode="REPLICATE")),
    "sequences": ((3, 9), dict(kernel_size=3, padding=((2, 0),), dilation=1)),
    "volumes": ((3, 5, 4, 6), dict(kernel_size=2, stride=2)),
    "bfloat16": ((3, 8, 7), dict(kernel_size=3, dtype=jnp.bfloat16)),
}


@needs(equinox, "equinox")
@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", EQUINOX)
def test_equinox_layers(name):
    shape, options = EQUINOX[name]
    model = equinox.nn.Conv(len(shape) - 1, shape[0], 4, key=jax.random.key(0), **options)
    weights, rest = equinox.partition(model, equinox.is_array)
    x = images(2, *shape, dtype=options.get("dtype", np.float32))
    check(lambda weights, x: jax.vmap(equinox.combine(weights, rest))(x), weights, x, room=room_for(str(x.dtype)))


# Haiku

HAIKU = {
    "dense": lambda x: haiku.Conv2D(4, 3)(x),
    "strided": lambda x: haiku.Conv2D(4, 3, stride=2, padding="VALID")(x),
    "grouped": lambda x: haiku.Conv2D(4, 3, feature_group_count=2)(x),
    "dilated": lambda x: haiku.Conv2D(4, 3, rate=2)(x),
    "masked": lambda x: haiku.Conv2D(4, 3, mask=(images(3, 3, 4, 4) > 0).astype("float32"))(x),
    "channels first": lambda x: haiku.Conv2D(4, 3, data_format="NCHW")(x),
    "causal": lambda x: haiku.Conv1D(4, 3, rate=2, padding=haiku.pad.causal)(x[:, 0]),
    "depthwise": lambda x: haiku.DepthwiseConv2D(2, 3, stride=2, padding="SAME")(x),
    "volumes": lambda x: haiku.Conv3D(4, 2, stride=(1, 2, 2))(x[:, None]),
}


@needs(haiku, "haiku")
@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", HAIKU)
def test_haiku_layers(name):
    model, x = haiku.without_apply_rng(haiku.transform(HAIKU[name])), images(2, 8, 7, 4)
    check(model.apply, initial(model, x), x)


# Keras, which reads its backend once


@needs(keras, "keras")
@pytest.mark.sampled(0)
def test_a_keras_network_on_jax():
    child = pathlib.Path(__file__).parents[1] / "helpers" / "keras_patch_child.py"
    environment = dict(os.environ, KERAS_BACKEND="jax", TF_CPP_MIN_LOG_LEVEL="3")
    run = subprocess.run([sys.executable, child], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer["convolutions"] == {"plain": [0, 8], "patched": [8, 0], "transposed": [1, 7]}
    assert answer["types equal"]
    assert answer["largest error"] < 1e-4
