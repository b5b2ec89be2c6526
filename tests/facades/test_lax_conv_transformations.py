"""jdeconv.lax.conv_general_dilated under transformations, for symbolic sizes and on meshes, against jax.lax's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import P, lax
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from lax_conv_calls import Call, Sums, calls
from peers import refuses
from quick import jit, with_gradients

import jdeconv

ours, theirs = jdeconv.lax.conv_general_dilated, lax.conv_general_dilated
LAST = ("NHWC", "HWIO", "NHWC")
CALLS = {
    "dense": Call((8, 6, 5, 4), (3, 3, 4, 8), (1, 1), "SAME", None, None, LAST),
    "strided": Call((8, 6, 5, 4), (3, 2, 4, 8), (2, 1), ((1, 0), (2, -1)), None, None, LAST),
    "depthwise": Call((8, 6, 5, 4), (3, 3, 1, 8), (1, 1), "SAME", None, None, LAST, 4),
    "grouped": Call((8, 6, 5, 4), (3, 3, 2, 8), (2, 2), "SAME", None, None, LAST, 2),
    "atrous": Call((8, 6, 5, 4), (3, 3, 4, 8), (1, 1), "SAME", None, (2, 1), LAST),
    "patches": Call((8, 6, 4, 4), (2, 2, 4, 8), (2, 2), "VALID", None, None, LAST),
    "dilated input": Call((8, 6, 5, 4), (3, 3, 4, 8), (1, 1), ((1, 2), (2, 1)), (2, 2), None, LAST),
    "strided and dilated": Call((8, 6, 5, 4), (3, 3, 4, 8), (2, 2), ((1, 2), (2, 1)), (3, 3), None, LAST),
    "channels first": Call((8, 4, 6, 5), (8, 4, 3, 3), (2, 1), "SAME"),
}
BY_LAX = {"strided and dilated"}  # computed by jax.lax itself
every_call = pytest.mark.parametrize("name", CALLS)


def in_turn(names, count):
    """Each of `names` with `count` of the calls; the next name goes on with the calls that follow."""
    calls = [*CALLS]
    return [
        (name, calls[(place * count + more) % len(calls)]) for place, name in enumerate(names) for more in range(count)
    ]


def whole(call):
    """Small whole numbers, so that every sum is exact however it is split."""
    rng = np.random.default_rng(0)
    return [rng.integers(-3, 4, shape).astype(np.float32) for shape in (call.lhs, call.rhs)]


def gradients(f):
    return jax.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1))


def equal(found, wanted):
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_array_equal(got, want)


# What leaves values and gradients as they are.


def scanned(f):
    return lambda x, w: lax.scan(lambda carry, row: (carry + 1, f(row[None], w)), 0, x)


def own_rule(f):
    @jax.custom_vjp
    def g(x, w):
        return f(x, w)

    g.defvjp(lambda x, w: (f(x, w), (x, w)), lambda saved, y: jax.vjp(f, *saved)[1](y))
    return g


WRAPS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "jit in jit": lambda f: jax.jit(lambda x, w: jax.jit(f)(2 * x, w)),
    "checkpoint": jax.checkpoint,
    "checkpoint with a policy": functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable),
    "scan": scanned,
    "cond": lambda f: lambda x, w: lax.cond(x.sum() > 0, f, lambda x, w: -f(x, w), x, w),
    "custom_vjp": own_rule,
    "jvp": lambda f: lambda x, w: jax.jvp(f, (x, w), (w.sum() + x, 2 * w)),
    "linearize": lambda f: lambda x, w: jax.linearize(f, x, w)[1](2 * x, w),
    "linear_transpose": lambda f: lambda x, w: jax.linear_transpose(lambda x: f(x, w), x)(f(x, w)),
    "to_lax": jdeconv.to_lax,
    "vmap over the input": lambda f: lambda x, w: jax.vmap(f, (0, None))(x[:, None], w),
    "vmap over the kernel": lambda f: lambda x, w: jax.vmap(f, (None, 0), -1)(x, jnp.stack([w, -w])),
    "vmap over both": lambda f: lambda x, w: jax.vmap(f)(jnp.stack([x, 2 * x]), jnp.stack([w, -w])),
    "vmap over inner axes": lambda f: lambda x, w: jax.vmap(f, (1, 2))(jnp.stack([x, -x], 1), jnp.stack([w, -w], 2)),
    "vmap twice": lambda f: lambda x, w: jax.vmap(jax.vmap(f, (0, None)), (None, 0))(x[:, None], jnp.stack([w, -w])),
}  # fmt: skip


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("wrap", "name"), in_turn(WRAPS, 3))
def test_transformed(wrap, name):
    call = CALLS[name]
    x, w = whole(call)

    def with_pullback(f):
        return jit(lambda x, w: (f(x, w), jax.vjp(f, x, w)[1](f(x, w))))

    found, wanted = (with_pullback(WRAPS[wrap](call.of(f)))(x, w) for f in (ours, theirs))
    equal(found, wanted)


@given(call=calls(batch_groups=False).filter(lambda call: call.legal), axes=st.lists(st.integers(-9, 9), min_size=4))
def test_random_calls_mapped(call, axes):
    """Over any axis of either operand or both, the result's too, by the definition one by one."""
    ndim = len(call.lhs) + 1
    first, second, out, kind = (axis % ndim for axis in axes[:4])
    over = [(first, second), (first, None), (None, second)][kind % 3]
    with jax.enable_x64(True):
        pairs = [call.arrays(), call.arrays(seed=1), call.arrays(seed=2)]
        stacks = [
            pairs[0][which] if axis is None else np.stack([pair[which] for pair in pairs], axis)
            for which, axis in enumerate(over)
        ]
        y, *bars = jit(lambda x, w: with_gradients(jax.vmap(call.of(ours), over, out), x, w))(*stacks)
        cotangent = np.moveaxis(np.cos(np.arange(y.size)).reshape(y.shape), out, 0)
        sums, wanted = Sums(call), []
        for place in range(3):
            x, w = (pairs[0 if axis is None else place][which] for which, axis in enumerate(over))
            wanted.append((sums.output(x, w), sums.by_x(w, cotangent[place]), sums.by_w(x, cotangent[place])))
        outputs, *parts = zip(*wanted, strict=True)
        np.testing.assert_allclose(y, np.stack(outputs, out), rtol=1e-9, atol=1e-9, err_msg=f"{call} {over} {out}")
        for got, want, axis in zip(bars, parts, over, strict=True):
            want = sum(want) if axis is None else np.stack(want, axis)
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9, err_msg=f"{call} {over} {out}")


@every_call
def test_one_primitive_and_none_after_to_lax(name):
    f, operands = CALLS[name].of(ours), whole(CALLS[name])
    text, replaced = (str(jax.make_jaxpr(g)(*operands)) for g in (f, jdeconv.to_lax(f)))
    assert text.count("transposed_convolution[") == (name not in BY_LAX)
    assert text.count("conv_general_dilated[") == (name in BY_LAX)
    assert "transposed_convolution" not in replaced
    assert "conv_general_dilated" in replaced


@pytest.mark.sampled(9)
@every_call
def test_checkify_finds_a_nan(name):
    call = CALLS[name]
    x, w = (jnp.asarray(v) for v in call.arrays(np.float32))
    for f in (call.of(ours), gradients(call.of(ours))):
        checked = jax.jit(checkify.checkify(f, errors=checkify.float_checks))
        assert checked(x, w)[0].get() is None
        error, _ = checked(x.at[0].set(jnp.inf), w.at[0].set(jnp.inf).at[-1].set(-jnp.inf))
        assert "nan generated by primitive" in error.get()


@pytest.mark.sampled(9)
@every_call
def test_exported_for_all_platforms(name):
    call = CALLS[name]
    operands = whole(call)
    program = jax.export.export(jax.jit(call.of(ours)), platforms=("cpu", "cuda", "tpu"))(*operands)
    program = jax.export.deserialize(program.serialize(vjp_order=1))
    found = with_gradients(program.call, *operands)
    for got, want in zip(found, with_gradients(call.of(theirs), *operands), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


# Sizes that are variables


@pytest.mark.sampled(13)
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", [(2, 1)], [(-1, 0)]], ids=str)
@pytest.mark.parametrize(
    ("sized", "groups", "stride"), [(True, 1, 1), (True, 3, 2), (False, 1, 2), (False, 3, 1), (True, 1, 3)]
)
def test_symbolic_batch_and_size(sized, groups, stride, padding):
    """Gradients too, unless the size is a variable and the stride above 1: lax has none there."""
    sizes = jax.export.symbolic_shape("b, 3, n" if sized else "b, 3, 8", constraints=["n >= 5"] if sized else ())
    w = np.random.default_rng(0).standard_normal((6, 3 // groups, 3)).astype(np.float32)
    f, of_lax = (lambda x, w, f=f: f(x, w, (stride,), padding, feature_group_count=groups) for f in (ours, theirs))
    whole = stride == 1 or not sized
    both = jax.jit(lambda x, w: with_gradients(f, x, w) if whole else (f(x, w),))
    exported = jax.export.export(both)(jax.ShapeDtypeStruct(sizes, jnp.float32), jax.ShapeDtypeStruct(w.shape, w.dtype))
    kind = jax.eval_shape(of_lax, jax.ShapeDtypeStruct(sizes, jnp.float32), w)
    assert str(exported.out_avals[0].shape) == str(kind.shape)
    for sizes in ((2, 3, 8), (1, 3, 5))[: 1 + sized]:
        x = np.random.default_rng(1).standard_normal(sizes).astype(np.float32)
        sums = Sums(Call(x.shape, w.shape, (stride,), padding, feature_group_count=groups))
        y, *gradients = exported.call(x, w)
        cotangent = np.cos(np.arange(y.size)).reshape(y.shape)
        wanted = sums.output(x, w), sums.by_x(w, cotangent), sums.by_w(x, cotangent)
        for got, want in zip((y, *gradients), wanted[: 3 if whole else 1], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


# Meshes

SPLITS = {  # the mesh axes of the dimensions of lhs and of rhs
    "batch": ({"N": "a"}, {}),
    "batch on both axes": ({"N": ("a", "b")}, {}),
    "batch and rows": ({"N": "a", "H": "b"}, {}),
    "input channels": ({"C": "b"}, {"I": "b"}),
    "batch and output channels": ({"N": "a"}, {"O": "b"}),
    "batch and kernel on one axis": ({"N": "a"}, {"O": "a"}),
    "nothing": ({}, {}),
}


def put(mesh, specs, operands):
    return [jax.device_put(v, NamedSharding(mesh, spec)) for v, spec in zip(operands, specs, strict=True)]


def mesh_of(kind):
    return jax.make_mesh((4, 2), ("a", "b"), (kind,) * 2)


def split_call(name, split):
    """The call with sizes that the mesh's axes divide, and its operands' specs."""
    call = CALLS[name]
    letters = call.dimension_numbers[:2] if call.dimension_numbers else ("NCHW", "OIHW")
    sizes = dict(N=8, H=8, W=8, C=4)
    call = dataclasses.replace(call, lhs=tuple(sizes[letter] for letter in letters[0]))
    specs = [
        P(*(axes.get(letter) if size > 1 else None for letter, size in zip(spec, shape, strict=True)))
        for axes, spec, shape in zip(SPLITS[split], letters, (call.lhs, call.rhs), strict=True)
    ]
    return call, specs


@pytest.mark.sampled(13)
@pytest.mark.parametrize(("split", "name"), in_turn(SPLITS, 3))
def test_explicit_axes(name, split):
    """What lax takes has lax's type, forwards and in gradients; what lax refuses is refused so, or has right values."""
    call, specs = split_call(name, split)
    operands = whole(call)
    wanted = call.of(theirs)(*operands), gradients(call.of(theirs))(*operands)
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        x, w = put(mesh, specs, operands)
        kinds = refuses(lambda: jax.eval_shape(call.of(theirs), x, w)) or jax.eval_shape(call.of(theirs), x, w)
        if isinstance(kinds, Exception):
            found = refuses(lambda: jax.eval_shape(call.of(ours), x, w))
            if found is not None:
                assert (type(found), str(found)) == (type(kinds), str(kinds))
                return
        else:
            assert jax.typeof(call.of(ours)(x, w)) == jax.typeof(call.of(theirs)(x, w))
        y, bars = jit(lambda x, w: (call.of(ours)(x, w), gradients(call.of(ours))(x, w)))(x, w)
        assert [jax.typeof(bar).sharding for bar in bars] == [jax.typeof(v).sharding for v in (x, w)]
    equal((y, bars), wanted)


@pytest.mark.sampled(13)
@pytest.mark.parametrize(("split", "name"), in_turn(SPLITS, 3))
def test_automatic_axes(name, split):
    call, specs = split_call(name, split)
    operands = whole(call)
    wanted = call.of(theirs)(*operands), gradients(call.of(theirs))(*operands)
    mesh = mesh_of(AxisType.Auto)
    with jax.set_mesh(mesh):
        x, w = put(mesh, specs, operands)
        found = jit(lambda x, w: (call.of(ours)(x, w), gradients(call.of(ours))(x, w)))(x, w)
        if split.startswith("batch on") or split == "batch":
            of_lax = jit(call.of(theirs))(x, w)
            assert found[0].sharding.is_equivalent_to(of_lax.sharding, 4)
    equal(found, wanted)


@pytest.mark.sampled(5)
@every_call
def test_batch_sharding_gathers_nothing(name):
    """One all-reduce, of the kernel's gradient."""
    call = CALLS[name]
    mesh = jax.make_mesh((8,), ("a",), (AxisType.Auto,))
    x, w = put(mesh, (P("a"), P()), whole(call))
    forward, step = (jax.jit(f).lower(x, w).compile().as_text() for f in (call.of(ours), gradients(call.of(ours))))
    assert not {"all-gather", "all-reduce", "all-to-all"} & {part.rstrip("(") for part in forward.split()}
    assert "all-gather" not in step
    assert step.count(" all-reduce(") == 1


@pytest.mark.sampled(11)
@pytest.mark.parametrize(("kind", "name"), in_turn([AxisType.Explicit, AxisType.Auto], 5))
def test_shard_map(kind, name):
    """Images split, kernels whole; gradients taken inside, where a kernel's is summed, and outside."""
    call = CALLS[name]
    operands = whole(call)
    wanted = call.of(theirs)(*operands), gradients(call.of(theirs))(*operands)
    mesh = mesh_of(kind)
    split = P(("a", "b"))
    with jax.set_mesh(mesh):
        x, w = put(mesh, (split, P()), operands)
        f = call.of(ours)
        mapped = jax.shard_map(f, in_specs=(split, P()), out_specs=split, check_vma=True)
        inside = jax.shard_map(gradients(f), in_specs=(split, P()), out_specs=(split, P()), check_vma=True)
        y, outside, inner = jit(lambda x, w: (mapped(x, w), gradients(mapped)(x, w), inside(x, w)))(x, w)
    equal((y, outside), wanted)
    equal(inner, wanted[1])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("spec", [P("a", None, None, "b"), P("a"), P()], ids=str)
def test_out_sharding_is_kept(spec):
    call = CALLS["dense"]
    operands = whole(call)
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        x, w = put(mesh, (P("a"), P(None, None, None, "b")), operands)
        found, of_lax = (jax.jit(call.of(f, out_sharding=spec))(x, w) for f in (ours, theirs))
        assert jax.typeof(found) == jax.typeof(of_lax)
    equal(found, call.of(theirs)(*operands))
