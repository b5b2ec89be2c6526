"""`autotune` finds every operator of a program, runs nothing of it, and chooses nothing that is wrong."""

import builtins
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P, lax
from jax.sharding import AxisType, NamedSharding
from peers import needs, peer
from places import PLACES, mesh
from places import W as SMALL_W
from places import X as SMALL_X
from test_to_lax import operators
from tunings import BLOCKS, LAX, TAPS, W, X, entry

import jdeconv
from jdeconv import Tuning, _autotune, _timing, autotune
from jdeconv._formulations import METHODS
from jdeconv._operator.found import operations_in

linen = peer("flax.linen")
NO_OPERATOR = {"custom_vjp whose rule alone has it"}


def up(x, w):
    return jdeconv.conv2d_transpose(x, w, None, 2)


def loss(w, x):
    return (up(x, w) ** 2).sum()


def found_in(f, *args, **kwargs):
    return operations_in(_autotune._program(f, args, kwargs))


def results(found):
    return sorted(operation.problem.result for operation in found.operations)


@pytest.fixture
def few(monkeypatch):
    """Three candidates at most, so that tuning takes a second."""
    whole = _timing.candidates
    monkeypatch.setattr(_timing, "candidates", lambda *given: whole(*given)[:3])


# What is found.


@pytest.mark.parametrize("place", PLACES)
def test_finds_operators_in(place):
    """As many distinct operations at most as there are operators in the text of the program, and one at least."""
    count = operators(PLACES[place], SMALL_X, SMALL_W)
    found = found_in(PLACES[place], SMALL_X, SMALL_W)
    assert (place in NO_OPERATOR) == (not found.operations)
    assert len(found.operations) <= count
    assert not found.left_out


def test_finds_what_each_transformation_makes_of_it():
    x, w = jnp.asarray(X), jnp.asarray(W)
    assert results(found_in(up, x, w)) == ["output"]
    assert results(found_in(jax.jit(jax.grad(loss)), w, x)) == ["kernel", "output"]
    assert results(found_in(jax.grad(loss, (0, 1)), w, x)) == ["input", "kernel", "output"]
    (mapped,) = found_in(jax.vmap(up, (0, None)), x[:, None], w).operations
    assert (mapped.problem.batch, mapped.problem.groups) == (2, 1)
    (both,) = found_in(jax.vmap(up), jnp.stack([x] * 3), jnp.stack([w] * 3)).operations
    assert (both.problem.batch, both.problem.groups) == (2, 3)
    scanned = lambda x, w: lax.scan(lambda c, row: (c, up(row[None], w)), 0, x)  # noqa: E731
    assert [operation.problem.batch for operation in found_in(scanned, x, w).operations] == [1]
    ordinary = lambda x: jdeconv.lax.conv_general_dilated(x, jnp.ones((4, 8, 3, 3)), (2, 2), "SAME")  # noqa: E731
    assert results(found_in(jax.grad(lambda x: ordinary(x).sum()), x.transpose(0, 3, 1, 2))) == ["input", "output"]


def test_types_and_precision_tell_operations_apart():
    def several(x, w):
        half = x.astype("bfloat16"), w.astype("bfloat16")
        return [
            up(x, w),
            up(x, w),
            jdeconv.conv2d_transpose(x, w, None, 2, precision="highest"),
            up(*half),
            jdeconv.conv2d_transpose(*half, None, 2, preferred_element_type="float32"),
        ]

    found = {(each.operands, each.dtype, each.precision) for each in found_in(several, X, W).operations}
    assert found == {
        ("float32", "float32", "default"),
        ("float32", "float32", "highest"),
        ("bfloat16", "bfloat16", "default"),
        ("bfloat16", "float32", "default"),
    }


def test_shapes_do_for_arrays_and_the_rest_arrives_as_it_is():
    def f(trees, *, strides, also=None):
        assert strides == 2
        assert also is builtins
        return jdeconv.conv2d_transpose(trees["x"], trees["w"], None, strides), "a string"

    shapes = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in (("x", X), ("w", W))}
    assert results(found_in(f, shapes, strides=2, also=builtins)) == ["output"]


def test_what_is_left_out_is_named():
    n, h = jax.export.symbolic_shape("n, h")
    symbolic = found_in(up, jax.ShapeDtypeStruct((n, h, 6, 8), "float32"), W)
    assert symbolic.operations == ()
    assert symbolic.left_out == ("output n, hx6 to 2*hx12, 8 to 6, k 3x3, s 2x2, float32: symbolic sizes",)
    asked = found_in(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method="gemm"), X, W)
    assert (asked.operations, len(asked.left_out)) == ((), 1)
    assert asked.left_out[0].endswith(": method='gemm' was asked for")
    empty = found_in(up, X[:0], W)
    assert (empty.operations, empty.left_out) == ((), ())


def split_programs():
    auto = mesh(2)
    rows = NamedSharding(auto, P("a"))
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=rows)
    explicit = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=NamedSharding(mesh(2, kind=AxisType.Explicit), P("a")))
    constant = jax.device_put(X, rows)
    yield "an argument", up, shape
    yield "an array", up, constant
    yield "explicit axes", up, explicit
    yield "a constant", lambda x: up(constant, W), None
    yield "jit's shardings", jax.jit(up, in_shardings=(rows, None)), X
    yield "a constraint", lambda x, w: up(lax.with_sharding_constraint(x, rows), w), X
    partly = dict(mesh=mesh(2, 2), axis_names={"a"}, in_specs=(P("a"), P()), out_specs=P("a"))
    yield "shard_map over one axis of two", jax.shard_map(up, **partly), X


@pytest.mark.parametrize("number", range(7))
def test_what_xla_splits_over_devices_is_left_out(number):
    name, f, x = list(split_programs())[number]
    found = found_in(f, *((x, W) if x is not None else (X,)))
    assert found.operations == (), name
    assert [text.rpartition(": ")[2] for text in found.left_out] == ["XLA splits the program over devices"], name


def test_inside_shard_map_each_device_has_its_own():
    rows = jax.shard_map(up, mesh=mesh(2), in_specs=(P("a"), P()), out_specs=P("a"))
    (operation,) = found_in(rows, X, W).operations
    assert operation.problem.batch == 1


@needs(linen, "Flax")
def test_under_patch_an_unedited_model_is_found(few):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(8, (3, 3), strides=2)(x))
            return linen.ConvTranspose(3, (4, 4), strides=(2, 2))(x)

    net, x = Net(), jnp.ones((1, 8, 8, 3))
    weights = net.init(jax.random.key(0), x)
    step = jax.jit(jax.grad(lambda weights, x: (net.apply(weights, x) ** 2).mean()))
    assert len(autotune(step, weights, x, progress=False)) == 0
    want = step(weights, x)
    with jdeconv.patch():
        found = autotune(step, weights, jax.ShapeDtypeStruct(x.shape, x.dtype), budget_s=5, progress=False)
        assert len(found) == 5  # two forward, two kernel gradients, one gradient between the layers
        with found:
            ours = step(weights, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, want)


# What runs.


def test_nothing_of_the_function_runs(few):
    calls = []

    def f(x, w):
        jax.debug.callback(lambda value: calls.append(value), x.sum())
        jax.debug.print("{}", x.sum())
        y = up(x, w)
        return jax.pure_callback(lambda y: calls.append(y) or y, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    found = autotune(f, jax.ShapeDtypeStruct(X.shape, X.dtype), W, budget_s=2, progress=False)
    jax.effects_barrier()
    assert len(found) == 1
    assert calls == []


def test_every_candidate_has_a_time_or_a_reason():
    (one,) = autotune(up, X, W, budget_s=30, progress=False).entries
    assert one.timings[0].choice.method == "lax"
    assert {one.default, one.best} <= {timing.choice for timing in one.timings}
    assert all(timing.ms or timing.reason for timing in one.timings)
    assert sum(timing.ms is not None for timing in one.timings) >= 3
    times = [timing.ms for timing in one.timings if timing.ms is not None]
    assert one.ms(one.best) <= _timing.NOISE * min(times)


def test_lax_and_the_default_are_timed_whatever_the_budget():
    found = autotune(jax.grad(loss, (0, 1)), W, X, budget_s=1e-9, progress=False)
    for each in found.entries:
        timed = {timing.choice for timing in each.timings if timing.ms is not None}
        assert timed == {each.timings[0].choice, each.default}
        assert {timing.reason for timing in each.timings if timing.ms is None} <= {"the budget was spent"}


@pytest.mark.parametrize("wrong", ["a thousandth more", "a row late", "undefined", "the wrong sign", "an error"])
def test_a_wrong_candidate_is_reported_and_not_chosen(monkeypatch, wrong):
    """Beside 'lax', which is right."""
    variants = METHODS["taps"].VARIANTS["output"]
    right = variants["windows"]

    def spoilt(x, w, geometry, engine):
        if wrong == "an error":
            raise FloatingPointError("no such luck")
        y = right(x, w, geometry, engine)
        return {
            "a thousandth more": y * 1.001,
            "a row late": jnp.roll(y, 1, 1),
            "undefined": y.at[0, 0, 0, 0, 0].set(jnp.nan),
            "the wrong sign": -y,
        }[wrong]

    monkeypatch.setitem(variants, "windows", spoilt)
    monkeypatch.setattr(_timing, "candidates", lambda *_: (LAX, TAPS))
    if wrong == "an error":
        found = autotune(up, X, W, progress=False)
        reason = "refused: FloatingPointError: no such luck"
    else:
        with pytest.warns(
            UserWarning, match="taps: windows for output 2, 5x6 to 10x12, .*: wrong: it differs from lax"
        ):
            found = autotune(up, X, W, progress=False)
        reason = "wrong: it differs from lax"
    (one,) = found.entries
    assert one.best != TAPS
    (timing,) = [timing for timing in one.timings if timing.choice == TAPS]
    assert timing.ms is None
    assert timing.reason.startswith(reason)
    assert reason in str(found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "complex64", "float64"])
def test_right_candidates_pass_in_every_type(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, w = jax.ShapeDtypeStruct((2, 9, 7, 3), dtype), jax.ShapeDtypeStruct((4, 4, 5, 3), dtype)
        gradient = jax.grad(lambda w, x: up(x, w).real.sum())
        f = (lambda w, x: up(x, w)) if dtype == "int32" else gradient
        found = autotune(f, w, x, budget_s=3, progress=False)
    reasons = {timing.reason for each in found.entries for timing in each.timings if timing.reason}
    assert not [reason for reason in reasons if reason.startswith(("wrong", "refused"))]
    assert len(found) >= 1


def test_equal_times_leave_lax_or_else_the_default():
    def trials(**seconds):
        return [_timing._Trial(choices[name], samples=[value]) for name, value in seconds.items()]

    choices = dict(lax=entry().default, default=BLOCKS, other=TAPS)
    best = lambda **seconds: _timing._best(trials(**seconds), choices["lax"], choices["default"])  # noqa: E731
    assert best(lax=1.02, default=1.01, other=1.0) == choices["lax"]
    assert best(lax=1.05, default=1.02, other=1.0) == choices["default"]
    assert best(lax=1.05, default=1.04, other=1.0) == choices["other"]
    assert best(default=1.2) == choices["default"]
    assert best() == choices["default"]


def test_a_bar_is_shown_where_tqdm_is(few, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    autotune(up, X, W, budget_s=1)
    assert "autotune: 100%" in capsys.readouterr().err
    autotune(up, X, W, budget_s=1, progress=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert len(autotune(up, X, W, budget_s=1)) == 1
    assert capsys.readouterr().err == ""


def test_what_was_measured_is_used_after_saving_and_loading(few, tmp_path):
    step = jax.jit(jax.grad(loss, (0, 1)))
    found = autotune(step, jax.ShapeDtypeStruct(W.shape, W.dtype), X, budget_s=5, progress=False)
    found.save(tmp_path / "a.json")
    want = step(W, X)
    with Tuning.load(tmp_path / "a.json"):
        choices = [each.choices["cpu"] for each in jdeconv.explain(X, W, strides=2).passes]
        ours = step(W, X)
    bests = {each.operation.problem.result: each.best for each in found.entries}
    for result, choice in zip(("output", "input", "kernel"), choices, strict=True):
        assert (choice.method, choice.variant) == (bests[result].method, bests[result].variant)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, want)
