"""Kernels converted between libraries: each library's own layer, given its layout, has the same output."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import needs, peer
from refusals import refusals

from jdeconv import convert, output_sizes
from jdeconv.convert._kernel_layouts import KERNEL_LAYOUTS

tf, keras, torch = peer("tensorflow"), peer("keras"), peer("torch")
onnx, runtime = peer("onnx"), peer("onnxruntime")
linen, equinox, haiku = peer("flax.linen"), peer("equinox"), peer("haiku")


def tensorflow_layer(x, w, stride, groups):
    size = output_sizes(x.shape[1:-1], w.shape[:-2], stride, "VALID").default
    shape = (x.shape[0], *size, w.shape[-2] * groups)

    @tf.function(jit_compile=groups > 1, autograph=False)
    def run(x, w):
        return tf.nn.conv_transpose(x, w, shape, stride, "VALID")

    return run(x, w).numpy()


def keras_layer(x, w, stride, groups):
    rank = x.ndim - 2
    layer = getattr(keras.layers, f"Conv{rank}DTranspose")(w.shape[-2], w.shape[:rank], stride, use_bias=False)
    layer.build(x.shape)
    layer.set_weights([w])
    return keras.ops.convert_to_numpy(layer(x))


def torch_layer(x, w, stride, groups):
    rank = x.ndim - 2
    layer = getattr(torch.nn, f"ConvTranspose{rank}d")
    layer = layer(w.shape[0], w.shape[1] * groups, w.shape[2:], stride, groups=groups, bias=False)
    layer.load_state_dict({"weight": torch.tensor(w)})
    return layer(torch.tensor(x).movedim(-1, 1)).movedim(1, -1).detach().numpy()


def onnx_layer(x, w, stride, groups):
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[stride] * (x.ndim - 2), group=groups)
    info = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", x.shape), ("w", w.shape), ("y", None))]
    graph = onnx.helper.make_graph([node], "g", info[:2], info[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.moveaxis(session.run(None, {"x": x, "w": w})[0], 1, -1)


def flax_layer(x, w, stride, groups):
    return _flax(x, w, w.shape[-1], stride, transpose_kernel=False)


def flax_transposed_layer(x, w, stride, groups):
    return _flax(x, w, w.shape[-2], stride, transpose_kernel=True)


def _flax(x, w, features, stride, transpose_kernel):
    options = dict(strides=(stride,) * (x.ndim - 2), padding="VALID", use_bias=False, transpose_kernel=transpose_kernel)
    return linen.ConvTranspose(features, w.shape[:-2], **options).apply({"params": {"kernel": w}}, x)


def equinox_layer(x, w, stride, groups):
    rank, key = x.ndim - 2, jax.random.key(0)
    channels = (w.shape[1] * groups, w.shape[0])
    layer = equinox.nn.ConvTranspose(rank, *channels, w.shape[2:], stride, groups=groups, use_bias=False, key=key)
    layer = equinox.tree_at(lambda layer: layer.weight, layer, jnp.asarray(w))
    return jax.jit(lambda x: jnp.moveaxis(jax.vmap(layer)(jnp.moveaxis(x, -1, 1)), 1, -1))(x)


def haiku_layer(x, w, stride, groups):
    rank = x.ndim - 2

    def net(x):
        layer = getattr(haiku, f"Conv{rank}DTranspose")
        return layer(w.shape[-2], w.shape[:rank], stride, padding="VALID", with_bias=False, name="up")(x)

    return haiku.without_apply_rng(haiku.transform(net)).apply({"up": {"w": jnp.asarray(w)}}, x)


def grouped_lax(order):
    """A grouped convolution by lax, for layouts of layers that have no groups."""

    def run(x, w, stride, groups):
        rank = x.ndim - 2
        spatial = "DHW"[3 - rank :]
        pads = [(size - 1, size - 1) for size in w.shape[:rank]]
        return jax.lax.conv_general_dilated(
            jnp.asarray(x), jnp.asarray(w), (1,) * rank, pads, (stride,) * rank, feature_group_count=groups,
            dimension_numbers=(f"N{spatial}C", order[3 - rank :], f"N{spatial}C"),
        )  # fmt: skip

    return run


LAYERS = {
    "tf": (tf, tensorflow_layer, tensorflow_layer),
    "keras": (keras, keras_layer, tensorflow_layer),
    "torch": (torch, torch_layer, torch_layer),
    "onnx": (onnx and runtime, onnx_layer, onnx_layer),
    "flax": (linen, flax_layer, grouped_lax("DHWIO")),
    "flax_transposed": (linen, flax_transposed_layer, tensorflow_layer),
    "equinox": (equinox, equinox_layer, equinox_layer),
    "haiku": (haiku, haiku_layer, grouped_lax("DHWOI")),
}


@st.composite
def problems(draw):
    """x channels last, w in PyTorch's layout, stride, groups."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sizes = [draw(st.integers(1, 4)) for _ in range(rank)]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    i, o = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = rng.standard_normal((2, *(draw(st.integers(1, 3)) for _ in range(rank)), groups * i), np.float32)
    return x, rng.standard_normal((groups * i, o, *sizes), np.float32), draw(st.integers(1, 3)), groups


def definition(x, w, stride, groups):
    """In float64, from PyTorch's layout, by loops over positions and taps: everything that taps reach."""
    n, *sizes, channels = x.shape
    _, o, *kernel = w.shape
    y = np.zeros((n, *((size - 1) * stride + k for size, k in zip(sizes, kernel, strict=True)), groups, o))
    x = x.reshape(n, *sizes, groups, -1).astype(float)
    w = w.reshape(groups, channels // groups, o, *kernel)
    for p in np.ndindex(*sizes):
        for t in np.ndindex(*kernel):
            q = tuple(a * stride + b for a, b in zip(p, t, strict=True))
            y[(slice(None), *q)] += np.einsum("ngi,gio->ngo", x[(slice(None), *p)], w[(..., *t)])
    return y.reshape(*y.shape[:-2], groups * o)


@pytest.mark.parametrize("layout", KERNEL_LAYOUTS)
def test_each_librarys_layer_computes_the_same(layout):
    module, layer, grouped = LAYERS[layout]
    if module is None or (grouped is tensorflow_layer and tf is None):
        pytest.skip(f"what runs {layout!r} is not installed")

    @given(problem=problems())
    @settings(max_examples=max(settings.default.max_examples // 4, 5))
    def check(problem):
        x, w, stride, groups = problem
        converted = convert.kernel(w, "torch", layout, groups)
        found = np.asarray((layer if groups == 1 else grouped)(x, converted, stride, groups))
        wanted = definition(x, w, stride, groups)
        # Keras's and Flax's VALID add zeros after the last tap where the stride exceeds the kernel.
        inside = found[tuple(map(slice, wanted.shape))]
        np.testing.assert_allclose(inside, wanted, rtol=1e-5, atol=1e-5)
        assert np.count_nonzero(found) == np.count_nonzero(inside)

    check()


@given(problem=problems(), source=st.sampled_from(list(KERNEL_LAYOUTS)), target=st.sampled_from(list(KERNEL_LAYOUTS)))
def test_every_pair_agrees_and_round_trips_are_exact(problem, source, target):
    _, w, _, groups = problem
    first, second = (convert.kernel(w, "torch", layout, groups) for layout in (source, target))
    np.testing.assert_array_equal(convert.kernel(first, source, target, groups), second)
    np.testing.assert_array_equal(convert.kernel(second, target, "torch", groups), w)


def test_numpy_stays_numpy_and_jax_stays_jax():
    w = np.arange(24, dtype=np.int16).reshape(2, 3, 2, 2)
    found = convert.kernel(w, "torch", "flax")
    assert (type(found), found.dtype, found.flags.c_contiguous) == (np.ndarray, w.dtype, True)
    assert not np.shares_memory(convert.kernel(w, "torch", "onnx"), w)
    traced = jax.jit(lambda w: convert.kernel(w, "torch", "flax"))(w)
    for array in (traced, convert.kernel(jnp.asarray(w), "torch", "flax")):
        assert isinstance(array, jax.Array)
        np.testing.assert_array_equal(array, found)
    assert convert.kernel(w.astype(ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16


@needs(torch, "PyTorch")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_torch_tensors_that_require_gradients(dtype):
    weight = torch.nn.Parameter(torch.randn(2, 3, 4, 4, dtype=getattr(torch, dtype)))
    found = convert.kernel(weight, "torch", "tf")
    assert found.dtype.name == dtype
    np.testing.assert_array_equal(found.astype(float), weight.detach().double().permute(2, 3, 1, 0).numpy())


@needs(tf, "TensorFlow")
def test_tensorflow_and_keras_variables():
    w = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
    for variable in (tf.Variable(w), tf.constant(w), keras.Variable(w)):
        np.testing.assert_array_equal(convert.kernel(variable, "tf", "torch"), w.transpose(3, 2, 0, 1))


@needs(linen, "Flax")
def test_flax_variables():
    from flax import nnx

    w = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
    found = convert.kernel(nnx.Param(jnp.asarray(w)), "flax_transposed", "torch")
    assert isinstance(found, jax.Array)
    np.testing.assert_array_equal(found, w.transpose(3, 2, 0, 1))


W = np.zeros((4, 3, 2, 2), np.float32)
NAMES = "'tf', 'keras', 'torch', 'onnx', 'flax', 'flax_transposed', 'equinox' or 'haiku'"
REFUSED = {
    "source": (
        lambda: convert.kernel(W, "pytorch"),
        f"ValueError: source='pytorch': unknown; expected {NAMES}. Name the library whose layer reads the kernel.",
    ),
    "target": (
        lambda: convert.kernel(W, target=None),
        f"ValueError: target=None: unknown; expected {NAMES}. Name the library whose layer reads the kernel.",
    ),
    "kernel of a dense layer": (
        lambda: convert.kernel(W[0, 0]),
        "ValueError: kernel=float32[2, 2]: 2 dimensions; expected 3 or more: spatial ones and two of channels. "
        "Give the kernel of a transposed convolution; other layers' are converted by `tree`.",
    ),
    "kernel no array": (
        lambda: convert.kernel("up.weight"),
        "TypeError: kernel='up.weight': not an array; expected an array of numbers. "
        "Pass an array of NumPy, JAX or PyTorch.",
    ),
    "groups that do not divide": (
        lambda: convert.kernel(W, groups=3),
        "ValueError: groups=3: does not divide 4 channels; expected a divisor of them, kernel=float32[4, 3, 2, 2] "
        "being laid out as 'torch'. Check groups, and whose layout it is.",
    ),
    "no groups": (
        lambda: convert.kernel(W, groups=0),
        "ValueError: groups=0: not a count; expected an int from 1. Use 1 for no groups.",
    ),
    "half a group": (
        lambda: convert.kernel(W, groups=0.5),
        "TypeError: groups=0.5: not a count; expected an int from 1. Use 1 for no groups.",
    ),
}


test_refusals = refusals(REFUSED)
