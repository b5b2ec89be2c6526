"""Numerical health: what is not finite, error beside lax's, float64, overflow, the same bits each time.

That an infinite pixel spoils the outputs that its taps reach, and no others, is in test_formulations.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import RUN_HERE, Case, cases, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jdeconv
from jdeconv import _settings
from jdeconv._operator import lowering

EVERY = ["auto", *RUN_HERE]
ENGINES = {"oneDNN": ("cpu", True), "XLA": ("cpu", False), "GPU": ("gpu", False)}  # a GPU's programs, run here


def can(method, case):
    return method == "auto" or not refuses(method, case)


def all_three(f):
    """y and both gradients, as one program."""

    def compute(x, w, y):
        out, pull = jax.vjp(f, x, w)
        return (out, *pull(y))

    return jax.jit(compute)


def by_lax(case):
    """The lhs-dilated convolution, with JAX's own derivatives."""
    rank, geometry = case.rank, case.geometry
    spatial = "DHW"[3 - rank :]

    def f(x, w):
        w = w.reshape(*w.shape[:-1], case.groups, case.group_inputs)
        w = jnp.moveaxis(w, -2, rank).reshape(*case.kernel, -1, case.group_inputs)
        return lax.conv_general_dilated(
            x, jnp.flip(w, range(rank)), (1,) * rank, geometry.outer, case.strides, case.dilations,
            (f"N{spatial}C", f"{spatial}OI", f"N{spatial}C"), case.groups,
        )  # fmt: skip

    return f


# What is not finite in a kernel, or in the sums over all positions that are its gradient


def joined(case, tap=None, output=None):
    """The outputs that a tap joins to positions of the input, or the taps of an output, beyond the input's ends too."""
    dims = zip(case.kernel, case.out_sizes, case.strides, case.dilations, case.geometry.low, strict=True)
    masks = []
    for dim, (k, out, s, d, low) in enumerate(dims):
        t, q = (np.arange(k), output[dim]) if tap is None else (tap[dim], np.arange(out))
        masks.append((q + low - t * d) % s == 0)
    return functools.reduce(np.logical_and.outer, masks)


def spoilt(case, role, where, shape, result, phases):
    """The most that one element which is not finite may spoil of a result of that shape, all phases or its own."""
    most = np.zeros(shape, bool)
    rank, i, o = case.rank, case.group_inputs, case.group_outputs
    if role == "w":
        tap, (out, channel) = where[:rank], where[rank:]
        if result == "y":
            most[..., channel // i * o + out] = phases or joined(case, tap=tap)
        else:
            most[..., channel] = True
    elif role == "x":
        most[..., where[-1]] = True
    else:
        group, out = divmod(where[-1], o)
        most[..., out, group * i : (group + 1) * i] = phases or joined(case, output=where[1:-1])[..., None]
    return most


# For a GPU two differ; lax's grouped kernel gradient is a batch_group_count there, in which XLA CPU smears over groups.
@pytest.mark.parametrize(("method", "engine"), [*((m, e) for m in EVERY for e in ("oneDNN", "XLA")), ("gemm", "GPU")])
@settings(max_examples=max(settings.default.max_examples // 2, 4))
@given(
    case=cases(dtypes=("float32", "bfloat16"), most_groups=2, sizes={1: (6, 5), 2: (4, 4), 3: (2, 3)}),
    value=st.sampled_from([np.inf, np.nan]),
)
def test_what_is_not_finite_spoils_no_other_channel_and_no_other_phase(method, engine, case, value):
    """In these sums it may spoil what it joins beyond an image's ends too, where zeros stand; those of lax, which puts
    zeros between positions, other phases too."""
    if not can(method, case):
        return
    platform, onednn = ENGINES[engine]
    whole = dict(zip("xwy", ((np.abs(array.astype("float64")) + 1) for array in case.arrays()), strict=True))
    compute = lowering._compute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "_compute", lambda _, __, *a, **more: compute(platform, onednn, *a, **more))
        program = all_three(dataclasses.replace(case, channels_first=False).function(method))
        for role, results in {"w": "yx", "x": "w", "y": "w"}.items():
            operands, spots = dict(whole), dict(whole)
            spots[role] = np.zeros(whole[role].shape)
            where = tuple((case.seed + 7 * axis) % size for axis, size in enumerate(spots[role].shape))
            operands[role] = whole[role].copy()
            operands[role][where], spots[role][where] = value, 1
            y, x, w = program(*(operands[name].astype(jnp.dtype(case.dtype)) for name in "xwy"))
            least = {
                "y": oracle.transpose_conv(case, spots["x"], spots["w"]),
                "x": oracle.input_grad(case, spots["w"], spots["y"]),
                "w": oracle.kernel_grad(case, spots["x"], spots["y"]),
            }
            for result in results:
                found = ~np.isfinite(np.asarray({"y": y, "x": x, "w": w}[result], "float64"))
                most = spoilt(case, role, where, found.shape, result, phases=method in ("auto", "lax"))
                assert not ((least[result] != 0) & ~found).any(), (case, role, result)
                assert not (found & ~most).any(), (case, role, result)


# Error


SAMPLES = {
    "k 4, s 2": Case(2, (9, 9), (4, 4), (2, 2), (1, 1), "SAME", (18, 18), 1, 16, 12),
    "k 3, s 2, dilated": Case(2, (8, 9), (3, 3), (2, 2), (2, 3), "SAME", (16, 18), 1, 12, 8),
    "k 2, s 2": Case(4, (16, 16), (2, 2), (2, 2), (1, 1), "VALID", (32, 32), 1, 24, 4),
    "groups": Case(2, (12, 12), (3, 3), (2, 2), (1, 1), "SAME", (24, 24), 3, 8, 4),
}
DRAWS = {"of both signs": np.random.Generator.standard_normal, "positive": np.random.Generator.random}


@functools.cache
def sample(name, dtype):
    """For each way to draw them: operands, what the oracle makes of them, and lax's errors."""
    case, rng, program = SAMPLES[name], np.random.default_rng(5), all_three(by_lax(SAMPLES[name]))
    found = {}
    for way, draw in DRAWS.items():
        x, w, y = operands = [draw(rng, array.shape).astype(jnp.dtype(dtype)) for array in case.arrays()]
        wanted = oracle.transpose_conv(case, x, w), oracle.input_grad(case, w, y), oracle.kernel_grad(case, x, y)
        found[way] = operands, wanted, errors(program(*operands), wanted)
    return found


def root_mean_square(v):
    return np.sqrt(np.mean(np.asarray(v, "float64") ** 2))


def errors(found, wanted):
    return [root_mean_square(np.asarray(got, "float64") - want) for got, want in zip(found, wanted, strict=True)]


@pytest.mark.sampled(13)
@pytest.mark.parametrize(
    ("dtype", "onednn"),
    [("float16", True), ("bfloat16", True), ("float32", True), ("float32", False), ("float64", True)],
)
@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("name", SAMPLES)
def test_error_beside_that_of_lax_and_the_same_bits_each_time(name, method, dtype, onednn):
    """The error is at most twice lax's, or one rounding; in wide floats at most that of sums made term by term, as
    oneDNN's are.
    """
    case = SAMPLES[name]
    if not can(method, case):
        return
    by_term = dtype in ("float32", "float64")  # narrower floats are summed in float32
    with jax.enable_x64(dtype == "float64"), _settings.onednn(onednn):
        program = all_three(case.function(method))
        for operands, wanted, by_lax in sample(name, dtype).values():
            found, again = program(*operands), program(*operands)
            assert [v.dtype for v in found] == [dtype] * 3
            for ours, theirs, want, terms in zip(errors(found, wanted), by_lax, wanted, case.terms, strict=True):
                # A rounding is off by half of eps at most. Of a sum of n terms there are n, each off by that over
                # sqrt(3) in the mean, at partial sums whose mean square is at most half that of the sum.
                rounding = float(jnp.finfo(dtype).eps) / 2 * root_mean_square(want)
                straight = rounding * np.sqrt(terms / 2 / 3) if by_term else 0
                assert ours <= max(2 * theirs, rounding, straight), (ours / theirs, ours / rounding, terms)
            for one, other in zip(found, again, strict=True):
                np.testing.assert_array_equal(*(np.asarray(v).view(np.uint8) for v in (one, other)))


@pytest.mark.parametrize("method", EVERY)
def test_a_program_compiled_again_gives_the_same_bits(method):
    """The arrays are large enough for several threads."""
    case = Case(4, (32, 32), (4, 4), (2, 2), (1, 1), "SAME", (64, 64), 1, 16, 4)
    if not can(method, case):
        return
    one, other = (all_three(case.function(method))(*case.arrays()) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("method", EVERY)
def test_float16_sums_may_pass_its_largest_number_on_their_way(method):
    """Terms of 80000, of both signs: each alone would be infinite in float16."""
    x = np.full((1, 4, 4, 2), 20000, np.float16) * np.array([1, -1], np.float16)
    w, y = np.full((4, 4, 1, 2), 4, np.float16), np.ones((1, 8, 8, 1), np.float16)
    case = Case(1, (4, 4), (4, 4), (2, 2), (1, 1), "SAME", (8, 8), 1, 2, 1, dtype="float16")
    if not can(method, case):
        return
    out, _, _ = all_three(case.function(method))(x, w, y)
    np.testing.assert_array_equal(out, 0)
    out, _, _ = all_three(case.function(method))(*(v.at[..., 1].set(0) for v in map(jnp.asarray, (x, w))), y)
    np.testing.assert_array_equal(np.isinf(out), True)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("method", EVERY)
def test_nothing_of_a_float64_program_is_narrower(method, name):
    case = SAMPLES[name]
    if not can(method, case):
        return
    with jax.enable_x64(True):
        shapes = [jax.ShapeDtypeStruct(v.shape, "float64") for v in case.arrays()]
        text = all_three(case.function(method)).lower(*shapes).as_text()
    assert "f64" in text
    assert not any(narrow in text for narrow in ("f32", "f16"))


# Overflow


@pytest.mark.parametrize("method", EVERY)
@given(case=cases(dtypes=("int32",)))
def test_integers_overflow_as_those_of_xla_do(method, case):
    if not can(method, case):
        return
    rng = np.random.default_rng(case.seed)
    x, w = (rng.integers(-(2**31), 2**31, v.shape).astype(np.int32) for v in case.arrays()[:2])
    (found,) = case.run(method, operands=(x, w, None))
    with np.errstate(over="ignore"):  # NumPy's int64 wraps too, and its last 32 bits are those of the exact sum
        wanted = oracle.transpose_conv(case, x, w).astype(np.int32)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32"])
def test_narrow_integers_overflow_as_those_of_lax_do(dtype):
    """By lax's signature, which takes these types."""
    rng, info = np.random.default_rng(0), np.iinfo(dtype)
    x, w = (rng.integers(info.min, info.max, shape, dtype, endpoint=True) for shape in ((2, 5, 4, 3), (3, 3, 3, 4)))
    ours, theirs = (f(x, w, (2, 2), "SAME") for f in (jdeconv.lax.conv_transpose, lax.conv_transpose))
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, theirs)
