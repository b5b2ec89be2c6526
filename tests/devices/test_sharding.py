"""Eight devices: values and gradients on automatic, explicit and manual mesh axes equal those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import RUN_HERE
from jax import P
from jax.sharding import AxisType, NamedSharding
from quick import jit

import jdeconv

# How x (n, h, w, c) and the filter (h, w, o, c) lie on the mesh: batch, input channels, output channels, and mixtures.
LAYOUTS = {
    "batch": (P("a"), P()),
    "batch on both axes": (P(("a", "b")), P()),
    "input channels": (P(None, None, None, "a"), P(None, None, None, "a")),
    "input channels of one operand": (P(None, None, None, "b"), P()),
    "output channels": (P(), P(None, None, "b")),
    "batch and output channels": (P("a"), P(None, None, "b")),
    "batch and input channels": (P("a", None, None, "b"), P(None, None, None, "b")),
    "input and output channels": (P(None, None, None, "b"), P(None, None, "a", "b")),
    "batch and filter on one axis": (P("a"), P(None, None, "a")),  # fully sharded data parallelism
    "nothing": (P(), P()),
}
RESULTS = {  # on explicit axes the type says it
    "batch": P("a"),
    "batch on both axes": P(("a", "b")),
    "output channels": P(None, None, None, "b"),
    "batch and output channels": P("a", None, None, "b"),
    "batch and input channels": P("a"),
    "input and output channels": P(None, None, None, "a"),
    "batch and filter on one axis": P("a"),
}


def problem(groups=1):
    keys = jax.random.split(jax.random.key(0), 2)
    x, w = jax.random.normal(keys[0], (8, 4, 6, 8)), jax.random.normal(keys[1], (3, 3, 8, 8))
    return x, w, lambda x, w: jdeconv.conv2d_transpose(x, w, (-1, 7, 12, 8 * groups), 2)


def gradients(f):
    return jax.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1))


def close(found, wanted):
    # Sums are split differently over the devices: 8 * 24 * 9 terms of about 10.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-3), found, wanted)


@pytest.mark.sampled(17)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize("shape", [(4, 2), (2, 4)])
def test_values_and_gradients_with_sharded_operands(layout, groups, kind, shape):
    x, w, f = problem(groups)
    wanted = f(x, w), *gradients(f)(x, w)
    mesh = jax.make_mesh(shape, ("a", "b"), (kind,) * 2)
    with jax.set_mesh(mesh):
        xs, ws = (jax.device_put(v, NamedSharding(mesh, spec)) for v, spec in zip((x, w), LAYOUTS[layout], strict=True))
        for wrap in (jit, lambda f: f) if shape == (4, 2) and groups == 1 else (jit,):
            found = wrap(f)(xs, ws), *wrap(gradients(f))(xs, ws)
            close(found, wanted)
            if kind is AxisType.Explicit:
                for got, operand in zip(found[1:], (xs, ws), strict=True):
                    assert jax.typeof(got).sharding == jax.typeof(operand).sharding
                if groups == 1:
                    spec = (*RESULTS.get(layout, P()), *[None] * 4)[:4]
                    assert tuple(jax.typeof(found[0]).sharding.spec) == spec


@pytest.mark.sampled(3)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_rows_keep_an_axis_that_the_filter_has_too(data_format, groups):
    """Wherever channels are in the format, the filter is gathered and no image is."""
    x, w, _ = problem()
    at = data_format.index("H")
    first, x = (lambda v: v.transpose(0, 3, 1, 2) if data_format == "NCHW" else v), jnp.tile(x, (1, 2, 1, 1))
    f = lambda x, w: jdeconv.conv2d_transpose(  # noqa: E731
        x, w, first(np.zeros((8, 16, 12, 8 * groups))).shape, 2, data_format=data_format
    )
    with jax.set_mesh(jax.make_mesh((8,), ("a",))):
        xs, ws = jax.device_put(first(x), P(*[None] * at, "a")), jax.device_put(w, P(None, None, "a"))
        y = f(xs, ws)
        assert jax.typeof(y).sharding.spec == P(*["a" if letter == "H" else None for letter in data_format])
    close(y, f(first(x), w))


def test_lax_itself_refuses_what_works_here():
    """The reason for this file; when it fails, JAX has learnt it, and docs/pages/devices.md says too much."""
    mesh = jax.make_mesh((8,), ("a",))
    with jax.set_mesh(mesh):
        x, w, f = problem()
        w = jax.device_put(w, NamedSharding(mesh, P(None, None, "a")))
        assert f(x, w).shape == (8, 7, 12, 8)
        with pytest.raises(Exception, match="out_sharding"):
            jax.lax.conv_transpose(x, w, (2, 2), "SAME", transpose_kernel=True)


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("kinds", "groups"), [("AA", 1), ("EE", 1), ("AE", 1), ("EE", 2)])
@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4)])
def test_split_images(kinds, shape, groups):
    """XLA's partitioner is wrong by whole factors in many of these: jdeconv keeps it from seeing them."""
    x = jax.random.normal(jax.random.key(1), (8, 8, 8, 8))
    w, f = problem(groups)[1], lambda x, w: jdeconv.conv2d_transpose(x, w, (-1, 16, 16, 8 * groups), 2)
    wanted = f(x, w), *gradients(f)(x, w)
    mesh = jax.make_mesh(shape, ("a", "b"), tuple({"A": AxisType.Auto, "E": AxisType.Explicit}[k] for k in kinds))
    layouts = [
        (P(None, "a"), P()),
        (P(None, None, "b"), P(None, None, None, "b")),
        (P("a", "b"), P(None, None, "a")),
        (P(None, "a", None, "b"), P()),
        (P(None, "a"), P(None, None, None, "a")),
    ]
    for spec_x, spec_w in layouts:
        with jax.set_mesh(mesh):
            xs, ws = jax.device_put(x, NamedSharding(mesh, spec_x)), jax.device_put(w, NamedSharding(mesh, spec_w))
            close((jit(f)(xs, ws), *jit(gradients(f))(xs, ws)), wanted)
    with jax.set_mesh(mesh):  # eager, once: the last layout's kernel gradient is one of the wrong ones
        close(gradients(f)(xs, ws), wanted[1:])


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("kernel", "stride", "method"), [(2, 1, "auto"), (3, 1, "auto"), (3, 2, "phase"), (4, 2, "phase"), (4, 2, "gemm")]
)
def test_split_images_of_stride_one_and_by_other_methods(kernel, stride, method):
    """XLA's own partitioner returns four times too much where the forward pass is the strided convolution."""
    x, w = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(8, 8, 8, 8), (kernel, kernel, 32, 8)]))
    f = lambda x, w: jdeconv.conv2d_transpose(x, w, None, stride, method=method)  # noqa: E731
    wanted = f(x, w), *gradients(f)(x, w)
    mesh = jax.make_mesh((2, 4), ("a", "b"), (AxisType.Auto,) * 2)
    for spec_w in (P(), P(None, None, "a"), P(None, None, "b"), P(None, None, None, "a"), P(None, None, None, "b")):
        with jax.set_mesh(mesh):
            xs, ws = (jax.device_put(v, NamedSharding(mesh, spec)) for v, spec in ((x, P(None, "a")), (w, spec_w)))
            close((jit(f)(xs, ws), *jit(gradients(f))(xs, ws)), wanted)


def test_export_of_a_partitioned_gradient():
    x, w, f = problem()
    mesh = jax.make_mesh((4, 2), ("a", "b"), (AxisType.Auto,) * 2)
    xs, ws = jax.device_put(x, NamedSharding(mesh, P("a", "b"))), jax.device_put(w, NamedSharding(mesh, P()))
    exported = jax.export.export(jax.jit(gradients(f)))(xs, ws)
    close(jax.jit(jax.export.deserialize(exported.serialize()).call)(xs, ws), gradients(f)(x, w))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("operands", [(P("a"), P()), (P("a"), P("b")), (P(), P())])
def test_vmap_over_sharded_operands(operands):
    x, w, f = problem()
    xs, ws = jnp.stack([x[:1] * k for k in range(1, 9)]), jnp.stack([w, 2 * w, 3 * w, 4 * w])
    mapped = jax.vmap(jax.vmap(f, (None, 0)), (0, None))
    wanted = mapped(xs, ws), *gradients(mapped)(xs, ws)
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    with jax.set_mesh(mesh):
        xs, ws = (jax.device_put(v, NamedSharding(mesh, spec)) for v, spec in zip((xs, ws), operands, strict=True))
        found = jit(mapped)(xs, ws), *jit(gradients(mapped))(xs, ws)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2), found, wanted)


# Manual axes


@pytest.mark.sampled(3)
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_shard_map_over_the_batch_with_a_replicated_kernel(wrap, groups, kind):
    x, w, f = problem(groups)
    wanted = f(x, w), *gradients(f)(x, w)
    mesh = jax.make_mesh((4, 2), ("a", "b"), (kind,) * 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P("a")))
        mapped = jax.shard_map(f, in_specs=(P("a"), P()), out_specs=P("a"), check_vma=True)
        close((wrap(mapped)(x, w), *wrap(gradients(mapped))(x, w)), wanted)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("axes", [(None, None), (0, None), (None, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("method", ["auto", *RUN_HERE])
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_shard_map_by_every_method_and_vmap_inside(kind, method, axes):
    """Images split, kernels whole; gradients taken inside, where a kernel's is summed, and outside."""
    rng = np.random.default_rng(0)
    stack = lambda axis, *shape: rng.integers(-3, 4, (3, *shape)[axis is None :]).astype("float32")  # noqa: E731
    x, w = stack(axes[0], 8, 4, 3, 2), stack(axes[1], 2, 2, 2, 2)  # whole numbers: all sums are exact
    one = lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method=method)  # noqa: E731
    f = one if axes == (None, None) else jax.vmap(one, axes)
    wanted = f(x, w), *gradients(f)(x, w)
    split = P(("a", "b")) if axes[0] is None else P(None, ("a", "b"))
    out = split if axes == (None, None) else P(None, ("a", "b"))
    mesh = jax.make_mesh((4, 2), ("a", "b"), (kind,) * 2)
    with jax.set_mesh(mesh):
        x, w = (jax.device_put(v, NamedSharding(mesh, spec)) for v, spec in ((x, split), (w, P())))
        mapped = jax.shard_map(f, in_specs=(split, P()), out_specs=out, check_vma=True)
        inside = jax.shard_map(gradients(f), in_specs=(split, P()), out_specs=(split, P()), check_vma=True)
        found = jit(lambda x, w: (mapped(x, w), gradients(mapped)(x, w), inside(x, w)))(x, w)
    for got in (found[0], *found[1]), (found[0], *found[2]):
        jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_shard_map_with_input_channels_split_and_summed():
    x, w, f = problem()
    wanted = f(x, w), *gradients(f)(x, w)
    mesh = jax.make_mesh((2, 4), ("a", "b"), (AxisType.Auto,) * 2)
    specs = P("a", None, None, "b"), P(None, None, None, "b")
    mapped = jax.shard_map(lambda x, w: jax.lax.psum(f(x, w), "b"), mesh=mesh, in_specs=specs, out_specs=P("a"))
    close((jit(mapped)(x, w), *jit(gradients(mapped))(x, w)), wanted)


def test_gradients_inside_shard_map_and_partly_manual_axes():
    x, w, f = problem()
    wanted = gradients(f)(x, w)[1]
    for kind in AxisType.Auto, AxisType.Explicit:
        mesh = jax.make_mesh((4, 2), ("a", "b"), (kind,) * 2)
        mapped = jax.shard_map(
            lambda x, w: gradients(f)(x, w)[1], mesh=mesh, in_specs=(P("a"), P()), out_specs=P(), axis_names={"a"}
        )
        with jax.set_mesh(mesh):
            x, ws = (
                jax.device_put(x, NamedSharding(mesh, P("a"))),
                jax.device_put(w, NamedSharding(mesh, P(None, None, "b"))),
            )
            close(jit(mapped)(x, ws), wanted)


def test_batch_sharding_gathers_nothing():
    """One all-reduce for the kernel gradient, no gathering of activations."""
    x, w, f = problem()
    mesh = jax.make_mesh((8,), ("a",), (AxisType.Auto,))
    xs, ws = jax.device_put(x, NamedSharding(mesh, P("a"))), jax.device_put(w, NamedSharding(mesh, P()))
    text = jax.jit(gradients(f)).lower(xs, ws).compile().as_text()
    assert "all-gather" not in text
    assert text.count(" all-reduce(") == 1
