"""oneDNN's calls: every proven class against float64, and what is refused."""

import math
import random

import jax
import numpy as np
import pytest
from hypothesis import settings
from jax import lax
from onednn_sample import SAMPLE, calls, needs_onednn, ours, sample
from proof import draws, worker

import jdeconv
from jdeconv._engine import evidence, onednn

UNSAFE = (
    "a single position in a strided dimension",
    "a stride beyond the kernel",
    "a window that may lie beyond the image",
    "few input channels in long rows",
    "a window that is the image",
    "an image of one column",
)
PROVEN = sorted({(row["dtype"], row["class"]) for row in evidence.rows()})
needs_bfloat16 = pytest.mark.skipif(not onednn.computes_in("bfloat16"), reason="a processor without bfloat16")


# The sweep, in this process; `proof` runs it between guard pages.


@needs_onednn
@pytest.mark.parametrize(
    ("dtype", "kind"), [pytest.param(*c, marks=needs_bfloat16 if c[0] == "bfloat16" else ()) for c in PROVEN]
)
def test_convolutions_equal_the_definition(dtype, kind):
    def refuses(call):
        why = worker.reason(call)
        assert why in (None, "one input channel a group", *UNSAFE) or why.startswith(worker.NEVER)
        return why is not None

    count = 10 * math.ceil(settings().max_examples / 10)
    for program in draws.programs(random.Random(f"{kind} {dtype}"), kind, dtype, count, 2, refuses):
        assert worker.run(program) == []


# What is refused is `lax`'s own call.


@pytest.mark.parametrize(
    ("shapes", "arguments", "reason"),
    [
        (((1, 5, 5, 2), (3, 3, 2, 4)), dict(padding="SAME"), "padding='SAME'"),
        (((1, 9, 9, 2), (3, 3, 2, 4)), dict(padding=((0, -1), (0, 0))), "padding="),
        (((1, 5, 5, 2), (3, 3, 2, 4)), dict(lhs_dilation=(2, 1)), "lhs_dilation=(2, 1)"),
        (((2, 5, 5, 2), (3, 3, 2, 4)), dict(batch_group_count=2), "batch_group_count=2"),
        (((0, 5, 5, 2), (3, 3, 2, 4)), {}, "(0, 5, 5, 2)"),
        (((1, 5, 5, 2), (3, 3, 1, 4)), dict(feature_group_count=2), "one input channel a group"),
        (((2, 5, 1, 1), (5, 7, 1, 3)), dict(padding=((2, 2), (3, 3))), UNSAFE[0]),
        # By AVX-512 it writes 428 bytes beyond an array of 200752, and the heap is corrupt (jaxlib 0.10.2, 0.12.0.1).
        (((2, 357, 158, 1), (1, 7, 1, 16)), dict(window_strides=(4, 2), padding=((0, 0), (2, 3))), UNSAFE[1]),
        (((1, 9, 9, 2), (2, 2, 2, 4)), dict(window_strides=(4, 2), rhs_dilation=(2, 1)), UNSAFE[1]),
        # Wrong numbers (jaxlib 0.11.0 to 0.12.0.1).
        (((3, 9, 13, 32), (9, 13, 32, 1)), dict(window_strides=(1, 1), padding=((0, 0), (0, 0))), UNSAFE[4]),
        # Reads beyond the image (jaxlib 0.11.0 to 0.12.0.1).
        (((2, 52, 1, 200), (29, 1, 200, 16)), dict(window_strides=(1, 1), padding=((0, 1), (0, 0))), UNSAFE[5]),
        pytest.param(
            ((1, 2, 5, 2), (3, 3, 2, 4)), dict(padding=((0, 0), (0, 0))), "result of (1, 0, ", marks=needs_onednn
        ),
        (((1, 5, 5, 2), (3, 3, 2, 4)), dict(preferred_element_type="float64"), "float32 and float64"),
        (((1, 5, 5, 2), (3, 3, 2, 4)), dict(precision=lax.DotAlgorithmPreset.F32_F32_F32), "precision="),
    ],
)
def test_refused_convolutions_are_those_of_lax(shapes, arguments, reason):
    operands = [np.ones(shape, np.float32) for shape in shapes]
    arguments = SAMPLE | arguments
    assert reason in onednn.refuses_conv(*operands, **arguments)
    if "precision" not in arguments:  # which lax refuses, too
        with jax.enable_x64(True):
            assert not calls(lambda *a: onednn.conv(*a, **arguments), *operands)
            expected = lax.conv_general_dilated(*operands, **arguments)
            np.testing.assert_array_equal(onednn.conv(*operands, **arguments), expected)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_unproven_types_are_left_to_lax(dtype):
    with jax.enable_x64(True):
        x, w = sample(dtype)
        assert "unproven" in onednn.refuses_conv(x, w, **SAMPLE)
        assert not calls(ours, x, w)


@needs_onednn
@needs_bfloat16
@pytest.mark.parametrize(
    ("shapes", "arguments", "reason"),
    [
        # Segmentation fault, NaN (jaxlib 0.10.2).
        (((1, 8, 3, 1), (3, 2, 1, 5)), dict(window_strides=(1, 1), padding=((0, 0), (3, 4))), UNSAFE[2]),
        (((9, 1, 3, 3), (2, 2, 3, 48)), dict(window_strides=(1, 1), padding=((2, 2), (0, 0))), UNSAFE[2]),
        # Wrong numbers (jaxlib 0.10.2).
        (((1, 3, 24, 8), (3, 12, 8, 17)), dict(padding=((0, 0), (9, 4))), UNSAFE[3]),
        (((1, 3, 40, 1), (3, 32, 1, 17)), dict(padding=((0, 0), (0, 0))), UNSAFE[3]),  # two channels, one of zeros
        (((1, 4, 600, 32), (1, 400, 32, 64)), dict(padding=((0, 0), (0, 0))), "products of 32 in a row"),
        (((1, 9, 9, 4), (3, 3, 2, 4)), dict(feature_group_count=2), "a grouped strided convolution in bfloat16"),
        (((1, 9, 9, 4), (3, 3, 4, 4)), dict(preferred_element_type="float16"), "unproven"),
    ],
)
def test_what_bfloat16_is_not_asked_for(shapes, arguments, reason):
    operands = [np.ones(shape, "bfloat16") for shape in shapes]
    assert reason in onednn.refuses_conv(*operands, **(SAMPLE | arguments))


@needs_onednn
@needs_bfloat16
@pytest.mark.parametrize("channels", [1, 3, 17, 33])
def test_bfloat16_keeps_what_is_infinite_in_its_place(channels):
    """AVX-512 multiplies pairs of channels, of which a position's last must not have the next one's first as other."""
    x, w = np.ones((2, 4, 6, channels), "bfloat16"), np.ones((1, 1, channels, 48), "bfloat16")
    infinite = np.zeros(x.shape[:3], bool)
    infinite[0, 1, 2] = infinite[1, 0, 0] = True
    x[infinite] = np.inf
    given = dict(window_strides=(1, 1), padding=((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert calls(lambda *a: onednn.conv(*a, **given), x, w) == 1
    y = np.asarray(onednn.conv(x, w, **given), "float32")
    np.testing.assert_array_equal(y, np.broadcast_to(np.where(infinite, np.inf, channels)[..., None], y.shape))


@needs_onednn
@needs_bfloat16
@pytest.mark.parametrize("groups", [1, 2])
def test_bfloat16_is_not_widened(groups):
    """Two groups of many channels, a call each, are not widened either."""
    x, w = (np.ones(shape, "bfloat16") for shape in ((2, 7, 9, 64), (3, 2, 32, 64)))
    f = lambda x, w: jdeconv.conv2d_transpose(x, w, (2, 14, 18, 32 * groups), 2, method="lax")  # noqa: E731
    grads = jax.grad(lambda x, w: f(x, w).sum(), (0, 1))
    text = jax.jit(grads).lower(x, w).compile().as_text()
    found = [line for line in text.splitlines() if '"__onednn$convolution"' in line]
    assert ["bf16" in line for line in found] == [True] * 2 * groups
