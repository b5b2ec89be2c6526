"""`to_lax`: no operator is left at any depth, under any transformation, inside or around; values and gradients stay."""

import functools
import gc
import re

import chex
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from cases import cases
from hypothesis import given
from jax import export, lax
from places import PLACES, P, W, X, loss, mesh, own_vjp, up

import jdeconv
from jdeconv import to_lax
from jdeconv._formulations import METHODS

NOT_DIFFERENTIABLE = {"while_loop", "custom_vmap", "a ref"}  # in reverse; references not under `checkpoint`
EAGER = {"plain", "jit in jit", "scan", "custom_vjp", "grad"}  # else each operation is compiled
NOT_MAPPED = {"linear_call", "shard_map", "shard_map of a gradient", "cut, filled or empty in shard_map"}


def programs(jaxpr):
    """The program and all programs in it, at any depth."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if isinstance(inner, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr):
                    yield from programs(getattr(inner, "jaxpr", inner))


def operators(function, *arguments):
    """How many operators the function's program has, told by equation name and by the text alike."""
    jaxpr = jax.make_jaxpr(function)(*arguments)
    names = [str(equation.primitive) for inner in programs(jaxpr.jaxpr) for equation in inner.eqns]
    found = names.count("transposed_convolution")
    assert bool(found) == ("transposed_convolution[" in str(jaxpr))
    return found


def close(found, wanted):
    chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
    chex.assert_trees_all_close(found, wanted, rtol=2e-4, atol=2e-4)


def summed(function):
    return lambda *arguments: sum((leaf**2).sum() for leaf in jax.tree.leaves(function(*arguments)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("place", PLACES)
def test_no_operator_is_left(place):
    function = PLACES[place]
    replaced = to_lax(function)
    if place != "custom_vjp whose rule alone has it":
        assert operators(function, X, W)
    assert operators(replaced, X, W) == 0
    jax.extend.core.check_jaxpr(jax.make_jaxpr(replaced)(X, W).jaxpr)
    lowered = jax.jit(replaced).lower(X, W)
    assert "custom_call" not in lowered.as_text()
    wanted = jax.jit(function)(X, W)
    close(lowered.compile()(X, W), wanted)
    if place in EAGER:
        close(replaced(X, W), wanted)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("place", [place for place in PLACES if place not in NOT_DIFFERENTIABLE])
def test_no_operator_is_left_in_derivatives_taken_outside(place):
    function = summed(PLACES[place])
    wanted = jax.jit(jax.grad(function, (0, 1)))(X, W)
    outside, inside = jax.grad(to_lax(function), (0, 1)), to_lax(jax.grad(function, (0, 1)))
    assert operators(outside, X, W) == operators(inside, X, W) == 0
    close(jax.jit(outside)(X, W), wanted)
    close(jax.jit(inside)(X, W), wanted)
    assert operators(jax.grad(jax.checkpoint(jax.jit(to_lax(function))), (0, 1)), X, W) == 0
    assert operators(to_lax(jax.grad(to_lax(function), (0, 1))), X, W) == 0


FORWARD = [place for place in PLACES if "custom_vjp" not in place]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("place", FORWARD)
def test_no_operator_is_left_in_forward_derivatives(place):
    function = PLACES[place]
    forward = lambda f: lambda x, w: jax.jvp(f, (x, w), (2 * x, w))  # noqa: E731
    assert operators(forward(to_lax(function)), X, W) == 0
    close(jax.jit(forward(to_lax(function)))(X, W), jax.jit(forward(function))(X, W))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("place", [place for place in PLACES if place not in NOT_MAPPED])
def test_no_operator_is_left_where_mapped_outside(place):
    function = PLACES[place]
    xs = jnp.stack([X, X + 1, 2 * X])
    mapped = jax.vmap(to_lax(function), (0, None))
    assert operators(mapped, xs, W) == 0
    close(jax.jit(mapped)(xs, W), jax.jit(jax.vmap(function, (0, None)))(xs, W))


@given(case=cases(empty=True))
def test_equals_the_definition_whatever_the_geometry(case):
    x, w, y = case.arrays()
    function = case.function()

    def all_three(x, w, y):
        out, pull = jax.vjp(function, x, w)
        return (out, *pull(y)) if case.dtype != "int32" else (out,)

    with case.x64():
        found = jax.jit(to_lax(all_three))(case.to_format(x), w, case.to_format(y))
        assert operators(to_lax(all_three), case.to_format(x), w, case.to_format(y)) == 0
    case.check([*map(case.from_format, found[:2]), *map(np.asarray, found[2:])])


@given(case=cases(dtypes=("float64",)))
def test_derivatives_by_jaxs_own_rules_whatever_the_geometry(case):
    case.check(case.run(function=to_lax(case.function())))


@pytest.mark.parametrize("method", METHODS)
def test_whatever_the_method_it_is_one_convolution_of_lax_in_the_layout_that_tools_know(method):
    x, w = np.ones((2, 4, 6, 8), np.float32), np.ones((4, 4, 4, 8), np.float32)
    call = lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method=method)  # noqa: E731
    jaxpr = jax.make_jaxpr(to_lax(call))(x, w)
    (conv,) = (e for inner in programs(jaxpr.jaxpr) for e in inner.eqns if e.primitive.name == "conv_general_dilated")
    numbers = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NHWC", "HWIO", "NHWC"))
    assert conv.params["dimension_numbers"] == numbers
    assert conv.params["lhs_dilation"] == (2, 2)


def test_what_has_no_operator_stays_the_same_object():
    plain, inner = jax.jit(lambda x: jnp.tanh(x)), jax.jit(lambda x, w: up(x, w))

    def function(x, w):
        return plain(x), inner(x, w)

    def jits(f):
        return [e.params["jaxpr"] for e in jax.make_jaxpr(f)(X, W).eqns if "jaxpr" in e.params]

    (old, with_operator), (kept, changed), (again, same) = map(jits, (function, to_lax(function), to_lax(function)))
    assert old is kept is again
    assert with_operator is not changed
    assert changed is same  # so JAX's caches of compiled programs find it


def test_what_is_known_of_programs_is_forgotten_with_them():
    from jdeconv import _to_lax

    gc.collect()
    before = len(_to_lax._known)
    for _ in range(3):
        to_lax(jax.jit(lambda x, w: own_vjp(x, w)))(X, W)
    jax.clear_caches()
    gc.collect()
    assert len(_to_lax._known) <= before + 1


def test_names_scopes_and_donation_stay():
    @functools.partial(jax.jit, donate_argnums=0)
    def decoder(x, w):
        with jax.named_scope("first"):
            return up(x, w)

    with jax.named_scope("outer"):
        replaced = jax.jit(lambda x, w: to_lax(decoder)(x, w))
    (call,) = jax.make_jaxpr(to_lax(decoder))(X, W).eqns
    assert call.params["name"] == "decoder"
    assert call.params["donated_invars"] == (True, False)
    text = replaced.lower(X, W).as_text(debug_info=True)
    assert "first/conv1d_transpose/conv_general_dilated" in text
    assert to_lax(decoder).__name__ == "decoder"


def test_arguments_and_results_of_any_kind():
    def function(pair, *, scale, strides, note=None):
        y = jdeconv.conv1d_transpose(pair["x"], pair["w"], None, strides)
        return {"y": y * scale, "n": y.shape[1], "note": note, "none": None, "numpy": np.float64(2), "f": len}

    pair, options = {"x": jnp.asarray(X), "w": W}, dict(scale=2.0, strides=2, note="text")
    found, wanted = to_lax(function)(pair, **options), function(pair, **options)
    close(found.pop("y"), wanted.pop("y"))
    assert found == wanted
    # Numbers of an array, which inside `jit` would be traced.
    sizes = np.array([4, 9, 2])
    assert to_lax(jdeconv.conv1d_transpose)(X, W, sizes, 2).shape == (4, 9, 2)
    weak = to_lax(lambda x: (x * 2.0, up(X, W) * x))(jnp.asarray(1.0))
    assert [jax.typeof(y).weak_type for y in weak] == [True, False]


def test_effects_happen_once_and_in_their_order():
    seen = []

    def function(x, w):
        jax.debug.callback(lambda: seen.append("before"), ordered=True)
        y = up(x, w)
        jax.debug.callback(lambda y: seen.append(y.shape), y, ordered=True)
        return y

    for call in (to_lax(function), jax.jit(to_lax(function))):
        seen.clear()
        call(X, W)
        jax.effects_barrier()
        assert seen == ["before", (4, 10, 2)]


def test_axis_names_of_an_outer_vmap():
    function = lambda x, w: lax.psum(up(x, w), "examples")  # noqa: E731
    found, wanted = (jax.vmap(f, (0, None), axis_name="examples")(X[:, None], W) for f in (to_lax(function), function))
    close(found, wanted)


def test_a_mesh_with_explicit_axes():
    with jax.set_mesh(mesh(2, kind=jax.sharding.AxisType.Explicit)):
        x, w = jax.reshard(X, P("a")), jax.reshard(W, P())
        function = lambda x, w: (up(x, w), jax.grad(loss, (0, 1))(x, w))  # noqa: E731
        assert operators(to_lax(function), x, w) == 0
        found, wanted = jax.jit(to_lax(function))(x, w), jax.jit(function)(x, w)
        close(found, wanted)
        assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, wanted)
        close(jax.grad(to_lax(loss), (0, 1))(x, w), wanted[1])


def test_exported_with_symbolic_sizes():
    b, n = export.symbolic_shape("b, n")
    types = jax.ShapeDtypeStruct((b, n, 3), "float32"), jax.ShapeDtypeStruct(W.shape, W.dtype)
    function = lambda x, w: (up(x, w), *jax.grad(loss, (0, 1))(x, w))  # noqa: E731
    exported = export.export(jax.jit(to_lax(function)))(*types)
    assert set(re.findall(r"custom_call @(\w+)", exported.mlir_module())) <= {"shape_assertion"}
    again = export.deserialize(exported.serialize())
    close(tuple(again.call(X, W)), function(X, W))


@pytest.mark.parametrize("context", [jax.disable_jit, lambda: jax.debug_nans(True), lambda: jax.enable_x64(True)])
def test_modes_of_jax(context):
    with context():
        x, w = (jnp.asarray(array, float) for array in (X, W))
        close(to_lax(up)(x, w), up(x, w))
        close(jax.grad(to_lax(loss), 1)(x, w), jax.grad(loss, 1)(x, w))


def test_flops_are_counted():
    """XLA counts none for oneDNN's calls."""
    x, w = np.ones((4, 16, 16, 64), np.float32), np.ones((4, 4, 32, 64), np.float32)
    function = lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2)  # noqa: E731
    flops = jax.jit(to_lax(function)).lower(x, w).compile().cost_analysis()["flops"]
    assert flops == pytest.approx(2 * 4 * 32 * 32 * 2 * 2 * 64 * 32, rel=0.1)
