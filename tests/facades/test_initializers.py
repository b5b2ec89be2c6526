"""Up-sampling kernels against interpolation and pixel shuffling by others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import needs, peer
from refusals import refusals

import jdeconv
from jdeconv import convert, initializers

tf, torch, skimage = peer("tensorflow"), peer("torch"), peer("skimage.transform")

METHODS = {"linear": (initializers.bilinear, 1), "cubic": (initializers.bicubic, 2)}


def enlarged(x, kernel, strides, groups):
    sizes = tuple(n * s for n, s in zip(x.shape[1:-1], strides, strict=True))
    return jdeconv.conv_transpose(x, kernel, (x.shape[0], *sizes, x.shape[-1]), strides)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
@settings(max_examples=max(settings.default.max_examples // 5, 4))
def test_the_interior_is_what_resizing_gives(method, data):
    make, reach = METHODS[method]
    strides = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2), label="strides"))
    sizes = [2 * reach * s - s % 2 + 2 * data.draw(st.integers(0, 1), label="wider") for s in strides]
    channels = data.draw(st.integers(1, 3), label="channels")
    groups = data.draw(st.sampled_from([1, channels]), label="groups")
    x = np.random.default_rng(0).standard_normal((2, *(6,) * len(strides), channels), np.float32)
    kernel = make(strides, groups=groups)(None, (*sizes, channels // groups, channels))
    found = np.asarray(enlarged(x, kernel, strides, groups))
    wanted = np.asarray(jax.image.resize(x, found.shape, method))
    inside = (slice(None), *(slice(reach * s, -reach * s) for s in strides))
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-5)
    assert found[inside].size


@needs(torch, "PyTorch")
@pytest.mark.parametrize(("method", "reach"), [("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize("stride", [2, 3])
def test_pytorchs_layout_and_interpolation(method, reach, stride):
    """PyTorch's own layer and its own interpolation, whose cubic has another slope."""
    init, slope = getattr(initializers, method), {"a": -0.75} if method == "bicubic" else {}
    size = 2 * reach * stride - stride % 2
    weight = torch.tensor(np.asarray(init(stride, layout="torch", **slope)(None, (2, 2, size, size))))
    x = torch.randn(1, 2, 6, 6)
    found = torch.nn.functional.conv_transpose2d(x, weight, stride=stride, padding=(size - stride) // 2)
    wanted = torch.nn.functional.interpolate(x, scale_factor=stride, mode=method)
    edge = reach * stride
    inside = (..., slice(edge, -edge), slice(edge, -edge))
    np.testing.assert_allclose(found[inside].numpy(), wanted[inside].numpy(), atol=1e-5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("layout", ["tf", "torch", "flax", "equinox", "haiku"])
@pytest.mark.parametrize("make", [initializers.bilinear, initializers.bicubic, initializers.icnr])
def test_layouts(make, layout):
    kernel = np.asarray(make(2, groups=2)(jax.random.key(0), (8, 8, 3, 6)))
    shape = convert.kernel(kernel, "tf", layout, 2).shape
    found = make(2, layout=layout, groups=2)(jax.random.key(0), shape, jnp.float32)
    np.testing.assert_array_equal(convert.kernel(found, layout, "tf", 2), kernel)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("stride", "blocks", "rank", "groups"), [(2, 1, 2, 1), (2, 3, 1, 2), (3, 2, 2, 2), (1, 2, 1, 1)]
)
def test_icnr_gives_nearest_neighbours_of_the_smaller_kernels_output(stride, blocks, rank, groups):
    x = np.random.default_rng(0).standard_normal((1, *(3,) * rank, 2 * groups), np.float32)
    drawn = []

    def draw(key, shape, dtype):
        drawn.append(jax.random.normal(key, shape, dtype))
        return drawn[0]

    init = initializers.icnr(stride, draw, groups=groups)
    kernel = init(jax.random.key(1), (*(blocks * stride,) * rank, 3, 2 * groups))
    found = jdeconv.conv_transpose(x, kernel, (1, *((2 + blocks) * stride,) * rank, 3 * groups), stride, "VALID")
    spatial = "HW"[:rank]
    small = jax.lax.conv_general_dilated(
        x, drawn[0], (1,) * rank, [(blocks - 1,) * 2] * rank, feature_group_count=groups,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    )  # fmt: skip
    np.testing.assert_allclose(found, jax.image.resize(small, found.shape, "nearest"), atol=1e-5)


def shuffled(y, shuffle):
    if shuffle == "pixel_shuffle":
        y = torch.tensor(np.moveaxis(np.asarray(y), -1, 1).copy())
        return np.moveaxis(torch.nn.functional.pixel_shuffle(y, 2).numpy(), 1, -1)
    return tf.nn.depth_to_space(np.asarray(y), 2).numpy()


@pytest.mark.parametrize(("shuffle", "module"), [("depth_to_space", tf), ("pixel_shuffle", torch)])
def test_icnr_before_a_shuffle_gives_nearest_neighbours(shuffle, module):
    if module is None:
        pytest.skip("who shuffles is not installed")
    x = np.random.default_rng(0).standard_normal((1, 5, 5, 3), np.float32)
    kernel = initializers.icnr(2, shuffle=shuffle)(jax.random.key(0), (3, 3, 3, 8))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    large = shuffled(y, shuffle)
    assert large.shape == (1, 10, 10, 2)
    np.testing.assert_array_equal(large, large[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2))
    assert len(np.unique(large)) == 50


def test_icnr_before_a_shuffle_in_pytorchs_layout():
    key = jax.random.key(0)
    found = initializers.icnr(2, layout="torch", shuffle="pixel_shuffle")(key, (8, 3, 5, 5))
    wanted = initializers.icnr(2, shuffle="pixel_shuffle")(key, (5, 5, 3, 8))
    np.testing.assert_array_equal(found, wanted.transpose(3, 2, 0, 1))


def test_dtypes_and_strides_of_each_dimension():
    assert initializers.bilinear((2, 1))(None, (4, 1, 1, 1), jnp.bfloat16).dtype == jnp.bfloat16
    assert initializers.icnr((2, 1))(jax.random.key(0), (4, 3, 2, 2), jnp.float16).dtype == jnp.float16


REFUSED = {
    "too small": (
        lambda: initializers.bilinear(2)(None, (3, 4, 1, 1)),
        "shape=(3, 4, 1, 1): bilinear, kernel size 3; expected 4, 6 and so on, for stride 2. Change the layer's sizes.",
    ),
    "bicubic": (
        lambda: initializers.bicubic(3)(None, (9, 1, 1)),
        "shape=(9, 1, 1): bicubic, kernel size 9; expected 11, 13 and so on, for stride 3. Change the layer's sizes.",
    ),
    "channels": (
        lambda: initializers.bilinear(2)(None, (4, 1, 3)),
        "shape=(4, 1, 3): bilinear, 3 input and 1 output channels; expected as many, for groups=1. "
        "Change the layer's sizes.",
    ),
    "strides": (
        lambda: initializers.bilinear((2, 2))(None, (4, 3, 3)),
        "strides=(2, 2): length 2; expected an int or a sequence of length 1. "
        "Give one int for all spatial dimensions, or one for each.",
    ),
    "icnr": (
        lambda: initializers.icnr(2)(jax.random.key(0), (4, 3, 1, 1)),
        "shape=(4, 3, 1, 1): icnr, kernel sizes (4, 3); expected multiples of strides=(2, 2). "
        "Change the layer's sizes.",
    ),
    "icnr's channels": (
        lambda: initializers.icnr(2, shuffle="pixel_shuffle")(jax.random.key(0), (3, 3, 2, 6)),
        "shape=(3, 3, 2, 6): icnr, 6 output channels; expected a multiple of 4. Change the layer's sizes.",
    ),
    "shuffle": (
        lambda: initializers.icnr(2, shuffle="tf"),
        "shuffle='tf': unknown; expected None, 'depth_to_space' or 'pixel_shuffle'. "
        "Use None for a transposed convolution.",
    ),
}


test_refusals = refusals(REFUSED)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("init", "shape"),
    [(initializers.bilinear(2), (4, 4, 2, 2)), (initializers.bicubic(2), (8, 8, 2, 2)),
     (initializers.icnr(2), (4, 4, 2, 2)), (initializers.icnr(2, shuffle="pixel_shuffle"), (4, 3, 2, 8))],
)  # fmt: skip
def test_out_sharding_is_that_of_jax_own(init, shape):
    mesh = jax.make_mesh((2, 2), ("a", "b"), (jax.sharding.AxisType.Explicit,) * 2)
    key, split = jax.random.key(0), jax.P("a", None, None, "b")
    with jax.set_mesh(mesh):
        wanted = jax.typeof(jax.nn.initializers.he_normal()(key, shape, jnp.float32, out_sharding=split))
        for found in (init(key, shape, out_sharding=split), jax.jit(lambda: init(key, shape, out_sharding=split))()):
            assert jax.typeof(found) == wanted
            np.testing.assert_array_equal(found, init(key, shape, jnp.float32, None))
