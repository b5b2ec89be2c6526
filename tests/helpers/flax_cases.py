"""Random configurations of Flax's ConvTranspose, which linen and nnx share."""

import dataclasses

import jax
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st


@dataclasses.dataclass(frozen=True)
class Layer:
    shape: tuple
    features: int
    options: dict

    @property
    def x(self):
        return np.random.default_rng(0).standard_normal(self.shape).astype(np.float32)

    @property
    def narrow(self):
        """Whether anything is rounded to bfloat16."""
        return "bfloat16" in (self.options["dtype"], self.options["param_dtype"])

    @property
    def kernel_shape(self):
        channels = (self.shape[-1], self.features)
        return (*self.options["kernel_size"], *(channels[::-1] if self.options["transpose_kernel"] else channels))


@st.composite
def layers(draw):
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    most = {1: 6, 2: 4, 3: 3}[rank]
    batch = draw(st.sampled_from([(), (2,), (2, 3), (1, 2, 1)]))
    c_in, features = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel_size, dilation = each(1, most), draw(st.sampled_from([None, 1, each(1, 2)]))
    pads = st.sampled_from(
        [0, 1, 3, each(0, 3), tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(rank))]
    )
    options = dict(
        kernel_size=kernel_size,
        strides=draw(st.sampled_from([None, 2, each(1, 3)])),
        padding=draw(st.one_of(st.sampled_from(["SAME", "VALID", "CIRCULAR"]), pads)),
        kernel_dilation=dilation,
        use_bias=draw(st.booleans()),
        dtype=draw(st.sampled_from([None, None, "float32", "bfloat16"])),
        param_dtype=draw(st.sampled_from(["float32", "float32", "bfloat16"])),
        precision=draw(st.sampled_from([None, "highest"])),
        transpose_kernel=draw(st.booleans()),
        preferred_element_type=draw(st.sampled_from([None, None, "float32"])),
    )
    strides = options["strides"] if isinstance(options["strides"], tuple) else (options["strides"] or 1,) * rank
    unpadded = options["padding"] == 0 or (isinstance(options["padding"], tuple) and not np.all(options["padding"]))
    # XLA aborts over some of Flax's own gradients, where such a dimension stands beside a kernel larger than its input.
    assume(not (unpadded and any(steps == (2, 2) for steps in zip(kernel_size, strides, strict=True))))
    layer = Layer((*batch, *each(1, most), c_in), features, options)
    if draw(st.booleans()):
        options["mask"] = (np.random.default_rng(1).random(layer.kernel_shape) < 0.5).astype(np.float32)
    return layer


def tolerance(dtype):
    """Room for float32 sums of at most 200 products of order 1. In bfloat16 each side is rounded twice, by 2**-8 of
    parts of order 1, which a circular output adds up and to which a bias is added.
    """
    return dict(rtol=1e-4, atol=1e-4) if dtype == np.float32 else dict(rtol=4 * 2.0**-8, atol=4 * 2.0**-8)


def same(ours, theirs):
    """The same structure, shapes, dtypes and numbers."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))
