"""oneDNN's calls: every proven class against float64, and what is refused."""

import functools
import itertools
import math
import random

import jax
import numpy as np
import pytest
from hypothesis import settings
from jax import lax
from onednn_sample import SAMPLE, calls, needs_onednn, ours, sample

import jdeconv
from jdeconv._engine import evidence, onednn

CHANNELS = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 32, 33, 48, 64]


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


# The sweep. Operands come as transposes or slices of parameters, which XLA must bring into the calls' layout.


def disguised(random, x):
    """A parameter, and a function that makes x of it within the program."""
    return random.choice(
        [
            (x, lambda v: v),
            (x.T.copy(), lambda v: v.T),
            (np.pad(x, 1), lambda v: v[(slice(1, -1),) * x.ndim]),
            (x[::-1].copy(), lambda v: v[::-1]),
        ]
    )


def draw_convolution(random, kind, dtype):
    rank = random.choice([1, 2, 2, 2, 3])
    longest = {1: 40, 2: 13, 3: 7}[rank]
    some = lambda word, values: [random.choice(values if word in kind else [1]) for _ in range(rank)]  # noqa: E731
    strides, dilation = some("strided", [1, 2, 3, 5]), some("dilated", [1, 2, 3])
    # A window as large as the image is what a kernel gradient has.
    taps = [random.choice([1, 2, 3, 4, random.randint(1, longest if rank < 3 else 5)]) for _ in range(rank)]
    sizes, padding = [], []
    for extent in ((k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)):
        # In bfloat16 all windows reach into the image.
        most = extent + 2 if dtype == "float32" else extent - 1
        pads = random.randint(0, most), random.randint(0, most)
        padding.append(random.choice([pads, (0, 0)]))
        least = max(1, extent - sum(padding[-1])) if dtype == "float32" else extent
        sizes.append(random.choice([least, random.randint(least, least + longest)]))
    groups = random.choice([2, 3, 8, 21]) if "grouped" in kind else 1
    i, o = ([1, 2, 3, 4, 8] if groups > 1 else CHANNELS for _ in range(2))
    i, o = random.choice(i[1:] if groups > 1 else i), random.choice(o)
    spatial = "DHW"[3 - rank :]
    kernel = random.choice([f"{spatial}IO", f"{spatial}OI", f"I{spatial}O"])
    order = {"I": i, "O": o * groups, **dict(zip(spatial, taps, strict=True))}
    images = random.choice([f"N{spatial}C", f"C{spatial}N"])
    order |= {"N": random.choice([1, 2, 5]), "C": i * groups}
    window = tuple(map(order.get, kernel))
    order |= dict(zip(spatial, sizes, strict=True))
    return (tuple(map(order.get, images)), window), dict(
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=(images, kernel, random.choice([f"N{spatial}C", f"{spatial}NC"])),
        feature_group_count=groups,
    )


def convolution(x, w, window_strides, padding, rhs_dilation, dimension_numbers, feature_group_count):
    """The definition, by loops over taps and groups, and the number of terms."""
    images, kernel, out = dimension_numbers
    spatial = "".join(c for c in kernel if c not in "IO")
    x = x.transpose([images.index(c) for c in f"N{spatial}C"])
    w = w.transpose([kernel.index(c) for c in f"{spatial}IO"])
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    sizes = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(x.shape[1:-1], w.shape, rhs_dilation, window_strides, strict=False)
    ]
    y = np.zeros((x.shape[0], *sizes, w.shape[-1]))
    i, o = w.shape[-2], w.shape[-1] // feature_group_count
    for tap in itertools.product(*map(range, w.shape[:-2])):
        starts = [t * d for t, d in zip(tap, rhs_dilation, strict=True)]
        window = tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, sizes, window_strides, strict=True))
        for g in range(feature_group_count):
            y[..., g * o : (g + 1) * o] += x[:, *window, g * i : (g + 1) * i] @ w[tap][:, g * o : (g + 1) * o]
    return y.transpose([f"N{spatial}C".index(c) for c in out]), math.prod(w.shape[:-1])


def check(draws, call, reference, dtype):
    """All draws in one program; each within the bound that follows from its terms."""
    rng, randoms = np.random.default_rng(1), random.Random(2)
    operands = [tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes) for shapes, _ in draws]
    hidden = [tuple(disguised(randoms, x) for x in pair) for pair in operands]

    @jax.jit
    def program(parameters):
        return [
            call(*(reveal(v) for v, (_, reveal) in zip(pair, how, strict=True)), **arguments)
            for pair, how, (_, arguments) in zip(parameters, hidden, draws, strict=True)
        ]

    results = program([tuple(stored for stored, _ in pair) for pair in hidden])
    exact, rounding = float(jax.numpy.finfo("float32").eps), float(jax.numpy.finfo(dtype).eps)
    for (shapes, arguments), pair, result in zip(draws, operands, results, strict=True):
        pair = [x.astype(np.float64) for x in pair]
        expected, terms = reference(*pair, **arguments)
        bound = (terms + 1) * exact * reference(*map(abs, pair), **arguments)[0]
        if result.dtype == "bfloat16":  # of products that are exact in float32; the sum alone is rounded
            bound += rounding / 2 * abs(expected)
        assert result.shape == expected.shape
        assert (abs(np.asarray(result, np.float64) - expected) <= bound).all(), (shapes, arguments)


@needs_onednn
@pytest.mark.parametrize(
    ("dtype", "kind"), [pytest.param(*c, marks=needs_bfloat16 if c[0] == "bfloat16" else ()) for c in PROVEN]
)
def test_convolutions_equal_the_definition(dtype, kind):
    randoms = random.Random(f"{kind} {dtype}")
    for _ in range(math.ceil(settings().max_examples / 10)):
        draws = [draw_convolution(randoms, kind, dtype) for _ in range(10)]
        for shapes, arguments in draws:
            operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
            assert onednn.refuses_conv(*operands, **arguments) in (None, *UNSAFE)
        check(draws, onednn.conv, convolution, dtype)
        if dtype != "float32":
            check(draws, functools.partial(onednn.conv, preferred_element_type="float32"), convolution, dtype)


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
