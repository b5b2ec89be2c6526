"""The primitive under every transformation, against the same transformation of a sum written tap by tap."""

import collections
import functools
import itertools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, cases
from hypothesis import given, settings
from jax import export
from jax.test_util import check_grads

import jdeconv
from jdeconv._geometry import build
from jdeconv._operator import lowering
from jdeconv._operator.primitive import LETTERS, solve, transposed_convolution_p

CASE = Case(2, (3, 4), (3, 2), (2, 3), (1, 1), "SAME", (5, 11), group_inputs=2, group_outputs=3, dtype="float64")
GROUPED = Case(2, (3, 4), (3, 2), (2, 1), (1, 2), "VALID", (8, 6), 2, 2, 1, dtype="float64")


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def by_taps(x, w, case):
    """The definition as one einsum a tap, which JAX differentiates and batches by its own rules."""
    lows = build(case.in_sizes, case.kernel, case.strides, case.dilations, case.padding, case.out_sizes).low
    x = x.reshape(*x.shape[:-1], case.groups, case.group_inputs)
    w = w.reshape(*case.kernel, case.group_outputs, case.groups, case.group_inputs)
    y = jnp.zeros((x.shape[0], *case.out_sizes, case.groups, case.group_outputs), x.dtype)
    for t in itertools.product(*map(range, case.kernel)):
        starts = [a * d - low for a, d, low in zip(t, case.dilations, lows, strict=True)]
        rows = [
            (p, p * s + start)
            for p, s, start in zip((np.arange(n) for n in case.in_sizes), case.strides, starts, strict=True)
        ]
        kept = [(p[(q >= 0) & (q < n)], q[(q >= 0) & (q < n)]) for (p, q), n in zip(rows, case.out_sizes, strict=True)]
        p, q = (np.ix_(*(pair[side] for pair in kept)) for side in (0, 1))
        y = y.at[(slice(None), *q)].add(jnp.einsum("n...gi,ogi->n...go", x[(slice(None), *p)], w[t]))
    return y.reshape(x.shape[0], *case.out_sizes, case.groups * case.group_outputs)


def pair(case=CASE):
    x, w, y = map(jnp.asarray, case.arrays())
    return case.function(), functools.partial(by_taps, case=case), x, w, y


def close(found, wanted):
    chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.sampled(0)
@pytest.mark.parametrize("case", [CASE, GROUPED], ids=["dense", "grouped"])
def test_derivatives_of_any_order(case):
    ours, theirs, x, w, y = pair(case)
    check_grads(ours, (x, w), order=2, modes=("fwd", "rev"))
    scalar = [lambda x, w, f=f: (jnp.sin(f(x, w)) * y).sum() for f in (ours, theirs)]
    for transform in (
        lambda f: jax.jacfwd(jax.jacrev(f, (0, 1)), (0, 1)),
        lambda f: jax.jacrev(jax.jacrev(f, (0, 1)), (0, 1)),
        lambda f: jax.hessian(f, 1),
        lambda f: lambda x, w: jax.jvp(f, (x, w), (w.sum() * x, x.sum() * w)),
        lambda f: jax.grad(lambda x, w: jax.grad(lambda x: jax.grad(f)(x, w).sum())(x).sum(), 1),
        lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    ):
        close(jax.jit(transform(scalar[0]))(x, w), jax.jit(transform(scalar[1]))(x, w))


def upsampled(x, w):
    return jdeconv.conv2d_transpose(x, w, None, 2)


@pytest.mark.parametrize(
    "f", [upsampled, jax.grad(lambda x, w: (upsampled(x, w) ** 2).sum(), 1)], ids=["y", "gradient"]
)
def test_jet(f):
    """Derivatives along two curves are those of nested jvps."""
    from jax.experimental import jet

    def curve(t, v):
        return v[0] + t * (v[1] + t / 2 * (v[2] + t / 3 * v[3]))

    def nested(x, w):
        along = lambda t: f(curve(t, x), curve(t, w))  # noqa: E731
        for _ in range(4):
            yield along(0.0)
            along = lambda t, along=along: jax.jvp(along, (t,), (1.0,))[1]  # noqa: E731

    with jax.enable_x64(True):
        draw = np.random.default_rng(0).standard_normal
        x, w = draw((4, 2, 3, 4, 2)), draw((4, 3, 3, 2, 2))  # the value and three derivatives
        first, rest = jax.jit(lambda x, w: jet.jet(f, (x[0], w[0]), ([*x[1:]], [*w[1:]])))(x, w)
        want = jax.jit(lambda x, w: list(nested(x, w)))(x, w)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), [first, *rest], want)


def test_linear_transpose_in_either_operand():
    ours, theirs, x, w, y = pair()
    for f, arg in ((lambda f: lambda x: f(x, w), x), (lambda f: lambda w: f(x, w), w)):
        close(jax.linear_transpose(f(ours), arg)(y), jax.linear_transpose(f(theirs), arg)(y))


@pytest.mark.sampled(9)
@pytest.mark.parametrize("case", [CASE, GROUPED], ids=["dense", "grouped"])
@pytest.mark.parametrize("axes", [(a, b) for a in (None, 0, 2) for b in (None, 0, 4) if (a, b) != (None, None)])
def test_vmap_of_value_and_gradients_over_any_axes(case, axes):
    ours, theirs, x, w, y = pair(case)

    def stack(array, axis, seed):
        return array if axis is None else jnp.stack([array, np.cos(array), array * seed], axis)

    xs, ws = stack(x, axes[0], 2.0), stack(w, axes[1], 3.0)
    for cotangents, y_axis in ((y, None), (stack(y, 1, 5.0), 1)):
        found, wanted = (
            jax.jit(jax.vmap(lambda x, w, y, f=f: (f(x, w), *jax.vjp(f, x, w)[1](y)), (*axes, y_axis), (1, 0, 4)))(
                xs, ws, cotangents
            )
            for f in (ours, theirs)
        )
        close(found, wanted)


def test_vmap_nests_and_maps_over_nothing():
    ours, theirs, x, w, _ = pair()
    xs, ws = jnp.stack([x, 2 * x, 3 * x]), jnp.stack([w, 5 * w])
    close(*(jax.vmap(jax.vmap(f, (None, 0)), (0, None))(xs, ws) for f in (ours, theirs)))
    assert jax.vmap(ours)(xs[:0], jnp.stack([w] * 3)[:0]).shape == (0, 2, 5, 11, 3)
    assert jax.vmap(ours, (0, None))(xs[:0], w).shape == (0, 2, 5, 11, 3)


def test_scan_and_checkpoint_policies():
    ours, theirs, x, w, _ = pair()

    def loss(f, w):
        step = jax.checkpoint(lambda total, x: (total + jnp.sin(f(x, w)).sum(), None),
                              policy=jax.checkpoint_policies.dots_saveable)  # fmt: skip
        return jax.lax.scan(step, 0.0, jnp.stack([x, 2 * x, 3 * x]))[0]

    close(*(jax.grad(functools.partial(loss, f))(w) for f in (ours, theirs)))


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_shape_dtype_and_value(self):
        ours, theirs, x, w, _ = pair()
        y = self.variant(ours)(x, w)
        chex.assert_shape(y, (2, 5, 11, 3))
        chex.assert_type(y, jnp.float64)
        close(y, theirs(x, w))


@pytest.fixture
def lowered(monkeypatch):
    """The operand shapes of every computation traced from now on."""
    shapes, compute = [], lowering._compute

    def spy(platform, onednn, a, b, **parameters):
        shapes.append(a.shape)
        return compute(platform, onednn, a, b, **parameters)

    monkeypatch.setattr(lowering, "_compute", spy)
    monkeypatch.setattr(lowering, "_compiled", jax.jit(spy, static_argnums=(0, 1), static_argnames=(
        "geometry", "result", "dtype", "precision", "method")))  # fmt: skip
    return shapes


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_a_new_batch_size_compiles_once_and_nothing_else_does(lowered, wrap):
    x, w = jnp.ones((3, 3, 5, 2)), jnp.ones((3, 3, 1, 2))
    f = wrap(lambda x, w: jdeconv.conv2d_transpose(x, w, (-1, 5, 9, 1), 2))
    for batch in (x, x + 1, np.asarray(x), x[:1], x[:1] * 2, x):
        f(batch, w)
    assert [shape[0] for shape in lowered] == [3, 1]


def test_the_facade_is_traced_once_under_jit():
    x, w = jnp.ones((3, 3, 5, 2)), jnp.ones((3, 3, 1, 2))
    chex.clear_trace_counter()
    f = jax.jit(chex.assert_max_traces(lambda x, w: jdeconv.conv2d_transpose(x, w, (-1, 5, 9, 1), 2), n=1))
    for k in range(3):
        f(x + k, w * k)


def test_without_jit():
    ours, theirs, x, w, _ = pair()
    with jax.disable_jit():
        close(ours(x, w), theirs(x, w))
        close(jax.grad(lambda w: ours(x, w).sum())(w), jax.grad(lambda w: theirs(x, w).sum())(w))


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_debug_nans_names_the_operation(wrap):
    ours, _, x, w, _ = pair()
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="dot_general"):  # its plan is gemm
        wrap(ours)(x * np.inf, w * 0)


def test_strict_dtype_promotion():
    x, w = jnp.ones((1, 2, 2, 1), "bfloat16"), jnp.ones((2, 2, 1, 1), "bfloat16")
    with jax.numpy_dtype_promotion("strict"):
        f = lambda x: jdeconv.conv2d_transpose(x, w, None, 2, preferred_element_type="float32").sum()  # noqa: E731
        assert jax.grad(f)(x).dtype == jnp.bfloat16


def test_leak_checking():
    ours, _, x, w, y = pair()
    with jax.checking_leaks():
        jax.jit(jax.grad(lambda w: (ours(x, w) * y).sum()))(w)


def test_donated_buffers():
    ours, theirs, x, w, _ = pair(Case(2, (4, 4), (3, 3), (1, 1), (1, 1), "SAME", (4, 4), dtype="float64"))
    wanted = theirs(x, w)
    close(jax.jit(ours, donate_argnums=0)(x, w), wanted)
    assert x.is_deleted()


# Export


@pytest.mark.parametrize("padding", ["SAME", "VALID", [[0, 0], [1, 0], [1, 1], [0, 0]]])
def test_export_with_symbolic_batch_and_sizes_for_several_platforms(padding):
    f = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, padding))
    gradients = jax.jit(jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), (0, 1)))
    b, h, v = export.symbolic_shape("b, h, v", constraints=["h >= 2", "v >= 2"])
    shapes = jax.ShapeDtypeStruct((b, h, v, 2), "float32"), jax.ShapeDtypeStruct((3, 3, 4, 2), "float32")
    rng = np.random.default_rng(0)
    for function in (f, gradients):
        exported = export.export(function, platforms=("cpu", "tpu", "cuda"))(*shapes)
        reloaded = export.deserialize(exported.serialize())
        for shape in ((1, 2, 2, 2), (3, 5, 7, 2)):
            x = rng.standard_normal(shape, dtype="float32")
            w = rng.standard_normal((3, 3, 4, 2), dtype="float32")
            chex.assert_trees_all_close(reloaded.call(x, w), function(x, w), rtol=1e-6, atol=1e-5)


def test_export_of_a_symbolic_output_size():
    b, h = export.symbolic_shape("b, h")
    x, w = jax.ShapeDtypeStruct((b, h, 2), "float32"), jax.ShapeDtypeStruct((4, 3, 2), "float32")
    exported = export.export(jax.jit(lambda x, w: jdeconv.conv1d_transpose(x, w, (b, 2 * h - 1, 3), 2)))(x, w)
    assert str(exported.out_avals[0].shape) == "(b, 2*h - 1, 3)"
    x, w = jnp.ones((3, 5, 2), "float32"), jnp.ones((4, 3, 2), "float32")
    chex.assert_trees_all_close(exported.call(x, w), jdeconv.conv1d_transpose(x, w, (3, 9, 3), 2))


def test_export_of_phases_that_no_tap_reaches():
    """Stride and dilation have a common factor: some phases have no tap, whatever the input's size."""
    (h,) = export.symbolic_shape("h", constraints=["h >= 2"])
    x, w = np.ones((1, 4, 5, 16), "float32"), np.ones((3, 3, 16, 16), "float32")
    f = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, dilations=2))
    exported = export.export(f)(jax.ShapeDtypeStruct((1, h, 5, 16), "float32"), w)
    np.testing.assert_allclose(exported.call(x, w), f(x, w), rtol=1e-6)


@pytest.mark.parametrize("method", ["auto", "lax", "phase", "gemm"])
def test_export_of_gradients_by_a_symbolic_number_of_kernels(method):
    (b,) = export.symbolic_shape("b", constraints=["b >= 2"])
    x, w = np.ones((2, 5, 5, 4), "float32"), np.ones((3, 2, 2, 4, 4), "float32")
    one = lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method=method)  # noqa: E731
    gradients = jax.jit(jax.grad(lambda x, w: (jax.vmap(one, (None, 0))(x, w) ** 2).sum(), (0, 1)))
    operands = x, jax.ShapeDtypeStruct((b, *w.shape[1:]), "float32")
    exported = export.export(gradients, platforms=["cpu", "tpu", "cuda"])(*operands)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), exported.call(x, w), gradients(x, w))


def test_export_of_a_gradient_by_a_kernel_without_taps():
    (h,) = export.symbolic_shape("h", constraints=["h >= 2"])
    f = lambda x, w: jdeconv.conv2d_transpose(x, w, None, (1, 2)).sum()  # noqa: E731
    x, w = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((1, h, 5, 2), (3, 0, 4, 2)))
    exported = export.export(jax.jit(jax.grad(f)), platforms=["cpu", "tpu", "cuda"])(x, w)
    assert not np.asarray(exported.call(np.ones((1, 3, 5, 2), "float32"), np.ones(w.shape, "float32"))).any()


def test_a_symbolic_size_that_decides_nothing_is_refused_by_name():
    b, h, o = export.symbolic_shape("b, h, o")
    x, w = jax.ShapeDtypeStruct((b, h, 2), "float32"), jax.ShapeDtypeStruct((4, 3, 2), "float32")
    with pytest.raises(ValueError, match="can't be told") as caught:
        export.export(jax.jit(lambda x, w: jdeconv.conv1d_transpose(x, w, (b, o, 3), 2)))(x, w)
    assert str(caught.value) == (
        "output_shape=(b, o, 3): width: it can't be told whether 2*h - 1 <= o; expected symbolic sizes that decide it. "
        "State it in jax.export.symbolic_shape(..., constraints=[...]), or ask for multiples of the input's sizes."
    )


def test_a_symbolic_number_of_groups_is_refused():
    (c,) = export.symbolic_shape("c", constraints=["c >= 2"])
    x, w = jax.ShapeDtypeStruct((1, 5, c), "float32"), jax.ShapeDtypeStruct((4, 1, c), "float32")
    with pytest.raises(ValueError, match=r"^output_shape=\(1, 10, c\): a symbolic number of groups, c; "):
        export.export(jax.jit(lambda x, w: jdeconv.conv1d_transpose(x, w, (1, 10, c), 2)))(x, w)
    both = jax.vmap(lambda x, w: jdeconv.conv1d_transpose(x, w, None, 2))
    x, w = jax.ShapeDtypeStruct((c, 1, 5, 2), "float32"), jax.ShapeDtypeStruct((c, 4, 3, 2), "float32")
    with pytest.raises(NotImplementedError, match="vmap over both operands=c examples: each is a group"):
        export.export(jax.jit(both))(x, w)


# The three solutions of the one sum


@pytest.mark.sampled(3)
@pytest.mark.parametrize("result", LETTERS)
@settings(max_examples=10)
@given(case=cases(dtypes=("float64",), ranks=(1, 2)))
def test_each_solution_is_a_derivative_of_the_others(result, case):
    """The form is trilinear: solved for any role, its inner product with that role is the same number."""
    x, w, y = case.arrays()
    g, i, o = case.groups, case.group_inputs, case.group_outputs
    roles = {
        "input": x.reshape(*x.shape[:-1], g, i),
        "kernel": w.reshape(*w.shape[:-1], g, i),
        "output": y.reshape(*y.shape[:-1], g, o),
    }
    geometry = build(case.in_sizes, case.kernel, case.strides, case.dilations, case.padding, case.out_sizes)
    with jax.enable_x64(True):
        others = {role: jnp.asarray(value) for role, value in roles.items() if role != result}
        solved = solve(result, geometry, dtype="float64", **others)
        wanted = solve("output", geometry, dtype="float64", input=roles["input"], kernel=roles["kernel"])
    want = np.sum(wanted * roles["output"])
    size = np.sum(np.abs(wanted) * np.abs(roles["output"])) + np.sum(np.abs(solved) * np.abs(roles[result]))
    assert abs(np.sum(solved * roles[result]) - want) <= 1e-12 * size


def test_the_scope_is_the_name():
    ours = lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, name="decoder/up1", method="lax")  # noqa: E731
    text = jax.jit(ours).lower(jnp.ones((1, 2, 2, 1)), jnp.ones((2, 2, 1, 1))).as_text(debug_info=True)
    assert "decoder/up1/conv_general_dilated" in text


def test_precision_is_read_when_called_not_when_compiled():
    x, w = jnp.ones((1, 2, 2, 1)), jnp.ones((2, 2, 1, 1))
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method="lax")).trace(x, w)
    assert "#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>" in traced.lower().as_text()


@pytest.mark.parametrize("default", [None, "cpu", jax.devices("cpu")[0]], ids=["none", "name", "device"])
@pytest.mark.parametrize(("committed", "wanted"), [(False, "cpu"), (True, "gpu")])
def test_eager_calls_are_planned_for_where_jit_runs_them(committed, wanted, default, monkeypatch):
    """jit moves an operand that lies on a GPU without being committed to it to the default device."""
    device = collections.namedtuple("Device", "platform")("gpu")
    operand = types.SimpleNamespace(committed=committed, devices=lambda: {device})
    monkeypatch.setattr(lowering, "_compiled", lambda platform, onednn, *_, **__: (platform, onednn))
    with jax.default_device(default):
        assert lowering._eager(operand, operand) == (wanted, wanted == "cpu")


@pytest.mark.parametrize(("backend", "wanted"), [("cpu", "cpu"), ("gpu", "gpu"), ("tpu", "other"), ("metal", "other")])
def test_what_a_tool_traces_is_planned_for_the_default_platform(backend, wanted, monkeypatch):
    monkeypatch.setattr(lowering, "_compute", lambda platform, onednn, a, b, **_: seen.append((platform, onednn)) or a)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    seen = []
    jax.jit(lambda x: lowering._eager(x, x)).trace(jnp.ones(1))
    assert seen == [(wanted, False)]


def test_an_interpreter_of_programs_gets_operations_that_jax_knows():
    """It evaluates equations by `impl`, inside a trace of its own."""
    ours, theirs, x, w, y = pair()
    program = jax.make_jaxpr(ours)(x, w)

    def interpreted(x, w):
        values = dict(zip(program.jaxpr.invars, (x, w), strict=True))
        for equation in program.eqns:
            operands = [operand.val if hasattr(operand, "val") else values[operand] for operand in equation.invars]
            by = equation.primitive
            evaluate = by.impl if by is transposed_convolution_p else by.bind
            values[equation.outvars[0]] = evaluate(*operands, **equation.params)
        return values[program.jaxpr.outvars[0]]

    close(jax.jit(interpreted)(x, w), theirs(x, w))
    gradients = (jax.grad(lambda x, w, f=f: (f(x, w) * y).sum(), (0, 1)) for f in (interpreted, theirs))
    close(*(jax.jit(f)(x, w) for f in gradients))
    close(jax.vmap(interpreted, (0, None))(jnp.stack([x, 2 * x]), w), jnp.stack([theirs(x, w), 2 * theirs(x, w)]))


@pytest.mark.parametrize("known", [(True, True), (True, False), (False, True)])
def test_xla_folds_no_operator_of_which_it_knows_both_operands(known):
    ours, theirs, *operands, _ = pair()
    traced = [operand for operand, is_ in zip(operands, known, strict=True) if not is_]

    def f(*others):
        others = iter(others)
        return ours(*(operand if is_ else next(others) for operand, is_ in zip(operands, known, strict=True)))

    assert ("optimization_barrier" in str(jax.make_jaxpr(f)(*traced))) == all(known)
    close(jax.jit(f)(*traced), theirs(*operands))
