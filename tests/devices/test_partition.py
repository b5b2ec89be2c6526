"""Eight devices under `jit`: what they send each other, and that split images equal whole ones."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, NamedSharding

import jdeconv
from jdeconv._formulations import METHODS
from jdeconv._geometry import build
from jdeconv._operator import lowering
from jdeconv._operator.partition import _orders, halo, part_geometry, splits_evenly

COLLECTIVE = re.compile(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}

# Layouts of x (n, h, w, c), of the filter (h, w, o, c) and of y (n, h, w, o) on the mesh (a: 4, b: 2), and what is sent
# for y, for the gradient in x and for that in the filter. No image is gathered; a filter split on an image's axis is.
HALO, SUM = {"collective-permute": 1}, {"all-reduce": 1}
TABLE = {
    "batch": (P("a"), P(), P("a"), {}, {}, SUM),
    "batch on both axes": (P(("a", "b")), P(), P(("a", "b")), {}, {}, SUM),
    "height": (P(None, "a"), P(), P(None, "a"), HALO, HALO, HALO | SUM),
    "height on both axes": (P(None, ("a", "b")), P(), P(None, ("a", "b")), HALO, HALO, HALO | SUM),
    "height on both, the other way": (P(None, ("b", "a")), P(), P(None, ("b", "a")), HALO, HALO, HALO | SUM),
    "height and width": (P(None, "a", "b"), P(), P(None, "a", "b"),
                         {"collective-permute": 2}, {"collective-permute": 2}, {"collective-permute": 2} | SUM),
    "input channels": (P(None, None, None, "a"), P(None, None, None, "a"), P(), SUM, {}, {}),
    "output channels": (P(), P(None, None, "a"), P(None, None, None, "a"), {}, SUM, {}),
    "batch and height": (P("b", "a"), P(), P("b", "a"), HALO, HALO, HALO | SUM),
    "batch and input channels": (P("a", None, None, "b"), P(None, None, None, "b"), P("a"), SUM, {}, SUM),
    "batch and output channels": (P("a"), P(None, None, "b"), P("a", None, None, "b"), {}, SUM, SUM),
    "height and input channels": (P(None, "a", None, "b"), P(None, None, None, "b"), P(None, "a"),
                                  HALO | SUM, HALO, HALO | SUM),
    "height and output channels": (P(None, "a"), P(None, None, "b"), P(None, "a", None, "b"),
                                   HALO, HALO | SUM, HALO | SUM),
    "input and output channels": (P(None, None, None, "b"), P(None, None, "a", "b"), P(None, None, None, "a"),
                                  SUM, SUM, {}),
    "batch and filter on one axis": (P("a"), P(None, None, "a"), P("a"), {"all-gather": 1}, {"all-gather": 1}, SUM),
}  # fmt: skip


def problem(groups=1, kernel=3, stride=2, sizes=(8, 16, 16, 8), dtype="float32", **options):
    shape = sizes[0], sizes[1] * stride, sizes[2] * stride, 8
    shapes = sizes, (kernel, kernel, 8 // groups, sizes[-1]), shape
    rng = np.random.default_rng(0)
    operands = [jnp.asarray(rng.integers(-4, 5, each), dtype) for each in shapes]  # sums of whole numbers are exact
    return operands, lambda x, w: jdeconv.conv2d_transpose(x, w, (-1, *shape[1:]), stride, **options)


def solutions(f):
    """y, the gradient of x and the gradient of the filter."""
    return (
        lambda x, w, y: f(x, w),
        lambda x, w, y: jax.vjp(lambda x: f(x, w), x)[1](y)[0],
        lambda x, w, y: jax.vjp(lambda w: f(x, w), w)[1](y)[0],
    )


def sent(compiled):
    return dict(collections.Counter(COLLECTIVE.findall(compiled.as_text())))


def split(mesh, operands, *specs):
    return [jax.device_put(v, NamedSharding(mesh, spec)) for v, spec in zip(operands, specs, strict=True)]


def check(operands, f, mesh, *specs, asked=(None,) * 3, sent=sent):
    """All three results equal those of one device. Returns what is sent for each, placed where `asked` says."""
    found = []
    with jax.set_mesh(mesh):
        placed = split(mesh, operands, *specs)
        for solution, spec in zip(solutions(f), asked, strict=True):
            compiled = jax.jit(solution, out_shardings=spec).lower(*placed).compile()
            found.append(sent(compiled))
            np.testing.assert_array_equal(compiled(*placed), solution(*operands))
    return found


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", TABLE)
def test_what_is_sent(layout, kind):
    *specs, output, input_grad, kernel_grad = TABLE[layout]
    mesh = jax.make_mesh((4, 2), ("a", "b"), (KINDS[kind],) * 2)
    expected = [output, input_grad, kernel_grad]
    if layout == "batch and filter on one axis" and kind == "explicit":  # the gradient's type says where it is
        expected[2] = SUM
    assert check(*problem(), mesh, *specs) == expected


# Groups, which are in the filter's last dimension: how many, the axes of the batch, of x's channels, of the filter and
# of y's channels, and which images are sent for the gradient in x, a device having a group's outputs or part of them.
GROUPED = {
    "a group each": (4, None, "a", P(None, None, None, "a"), "a", {}),
    "two groups each": (8, None, "a", P(None, None, None, "a"), "a", {}),
    "a group each of a whole input": (4, None, None, P(None, None, None, "a"), "a", {}),
    "two groups each, the filter split in each": (4, None, None, P(None, None, "b"), "b", {}),
    "half a group each": (2, None, None, P(None, None, "a"), "a", SUM),
    "half a group each, on two axes": (4, None, None, P(None, None, "b", "a"), ("a", "b"), SUM),
    "batch and a group each": (4, "b", None, P(None, None, None, "a"), "a", {}),
    "batch and half a group each": (2, "b", None, P(None, None, "a"), "a", SUM),
}


def sent_of_images(compiled):
    """The collectives that send more elements than any filter here has."""
    results = re.findall(r"\[([\d,]+)\][^[\]()]*(?:, [^()]*\))?" + COLLECTIVE.pattern, compiled.as_text())
    return dict(collections.Counter(name for shape, name in results if np.prod([*map(int, shape.split(","))]) > 9 * 64))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", GROUPED)
def test_what_is_sent_of_groups_with_split_outputs(layout, kind):
    """No input and no output is sent: a device has those of its own groups. Gradients are asked to be where these
    are.
    """
    groups, batch, inputs, filter_spec, outputs, input_grad = GROUPED[layout]
    x_spec, y_spec = P(batch, None, None, inputs), P(batch, None, None, outputs)
    operands, f = problem(groups)
    mesh = jax.make_mesh((4, 2), ("a", "b"), (KINDS[kind],) * 2)
    asked = [NamedSharding(mesh, spec) for spec in (y_spec, y_spec, filter_spec)]
    if kind == "explicit":
        asked = (None,) * 3  # types say it
        with jax.set_mesh(mesh):
            assert jax.typeof(f(*split(mesh, operands[:2], x_spec, filter_spec))).sharding.spec == y_spec
        if inputs is None:  # of a whole input it is whole
            input_grad = input_grad | {"all-gather": 1}
    found = check(operands, f, mesh, x_spec, filter_spec, y_spec, asked=asked, sent=sent_of_images)
    assert found == [{}, input_grad, {}]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("layout", ["batch", "height and width"])
@pytest.mark.parametrize(
    "options", [dict(groups=2), *(dict(method=name) for name in METHODS if name != "pallas")], ids=str
)
def test_what_is_sent_of_groups_and_by_every_method(layout, options):
    mesh = jax.make_mesh((4, 2), ("a", "b"), (AxisType.Auto,) * 2)
    assert check(*problem(**options), mesh, *TABLE[layout][:3]) == list(TABLE[layout][3:])


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [
        (1, 1, 1, "SAME"),
        (4, 2, 1, "SAME"),
        (5, 1, 1, [(0, 0), (0, 4), (4, 0), (0, 0)]),
        (3, 2, 2, [(0, 0), (0, 3), (2, 1), (0, 0)]),
        (5, 4, 1, [(0, 0), (1, 0), (0, 1), (0, 0)]),
        (1, 2, 1, [(0, 0), (0, 0), (0, 0), (0, 0)]),  # outputs that no tap reaches
        (9, 1, 1, "SAME"),  # as far as a neighbour's last row
    ],
)
def test_halos_of_other_geometries(kernel, stride, dilation, padding):
    operands, f = problem(kernel=kernel, stride=stride, padding=padding, dilations=dilation)
    mesh = jax.make_mesh((4, 2), ("a", "b"), (AxisType.Auto,) * 2)
    found = check(operands, f, mesh, P(None, "a", "b"), P(), P(None, "a", "b"))
    assert not any("all-gather" in each for each in found)


def test_images_whose_halo_reaches_beyond_the_neighbour_are_gathered():
    operands, f = problem(kernel=11, stride=1)
    mesh = jax.make_mesh((8,), ("a",), (AxisType.Auto,))
    found = check(operands, f, mesh, P(None, "a"), P(), P(None, "a"))
    assert all("all-gather" in each for each in found)


@pytest.mark.parametrize("size", [10, 16])
def test_images_that_fall_into_unequal_parts(size):
    """17 or 29 outputs of 10 or 16 inputs, which jit is asked to split all the same."""
    x, w, _ = problem(sizes=(8, size, size, 8))[0]
    mesh = jax.make_mesh((4, 2), ("a", "b"), (AxisType.Auto,) * 2)
    f = lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, [(0, 0), (2, 2), (2, 2), (0, 0)])  # noqa: E731
    rows = NamedSharding(mesh, P(None, "a", "b"))
    asked = lambda v: jax.lax.with_sharding_constraint(v, rows)  # noqa: E731
    loss = lambda f, asked, x, w: (asked(f(asked(x), w)) ** 2).sum()  # noqa: E731
    found = jax.jit(jax.grad(functools.partial(loss, f, asked), (0, 1)))(x, w)
    wanted = jax.grad(functools.partial(loss, f, lambda v: v), (0, 1))(x, w)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "int32", "float64"])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        operands, f = problem(dtype=dtype)
        mesh = jax.make_mesh((4, 2), ("a", "b"), (AxisType.Auto,) * 2)
        placed = split(mesh, operands, *TABLE["height and input channels"][:3])
        for solution in solutions(f)[: 1 if dtype == "int32" else 3]:  # which has no derivative
            found, wanted = jax.jit(solution)(*placed), solution(*operands)
            assert found.dtype == wanted.dtype == dtype
            found, wanted = (np.asarray(v).astype(np.complex128) for v in (found, wanted))
            # Whole numbers: exact but for bfloat16's roundings of up to eight parts and of their sums.
            assert np.abs(found - wanted).max() <= (dtype == "bfloat16") * 8 * 2**-8 * np.abs(wanted).max()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (7,)])
def test_numbers_of_devices_that_are_no_powers_of_two(shape):
    count = int(np.prod(shape))
    operands, f = problem(sizes=(2, 2 * count, 6, 8))
    mesh = jax.make_mesh(shape, ("a", "b")[: len(shape)], (AxisType.Auto,) * len(shape), devices=jax.devices()[:count])
    spec = P(None, mesh.axis_names[::-1])
    assert check(operands, f, mesh, spec, P(), spec) == [HALO, HALO, HALO | SUM]


def test_parts_add_up_to_the_whole():
    """Each product of the definition, an input with a tap for an output, is made in one part, and no other is."""
    for kernel, stride, dilation in [(3, 2, 1), (4, 2, 1), (2, 3, 1), (5, 1, 2), (1, 1, 1)]:
        whole = build((12,), (kernel,), (stride,), (dilation,), "SAME", (12 * stride,))
        wanted = products(whole)
        for parts, result in [(2, "output"), (3, "input"), (3, "kernel")]:
            assert splits_evenly(whole, result, 0, parts)
            before, found = halo(whole, result, 0)[0], []
            for k in range(parts):
                p0, q0 = k * 12 // parts, k * 12 * stride // parts
                p0, q0 = (p0 - before, q0) if result == "output" else (p0, q0 - before)
                shifted = {(p0 + p, t, q0 + q) for p, t, q in products(part_geometry(whole, result, (parts,)))}
                found += [join for join in shifted if 0 <= join[0] < 12 and 0 <= join[2] < 12 * stride]
            assert len(found) == len(set(found))
            assert set(found) == wanted


def products(geometry):
    (i,), (o,), (taps,), (stride,) = geometry.input, geometry.output, geometry.kernel, geometry.strides
    joins = {(p, t, p * stride + t * geometry.dilations[0] - geometry.low[0]) for p in range(i) for t in range(taps)}
    return {join for join in joins if 0 <= join[2] < o}


# Where the partitioner can't be told, images are gathered.


def test_programs_for_the_compilation_cache(tmp_path):
    mesh = jax.make_mesh((4, 2), ("a", "b"), (AxisType.Auto,) * 2)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        found = check(*problem(), mesh, *TABLE["height and output channels"][:3])
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()  # else programs that can't be stored go on being stored
    assert all("all-gather" in each for each in found)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 2])
def test_shard_map_over_one_axis_of_three(kind, stride):
    """Images split over the two others, of which XLA's partitioner alone returns multiples."""
    operands, f = problem(stride=stride)
    mesh = jax.make_mesh((2, 2, 2), ("m", "a", "b"), (KINDS[kind],) * 3)
    with jax.set_mesh(mesh):
        placed = split(mesh, operands, P("m", "a", "b"), P(None, None, "a"), P("m", "a", "b"))
        for solution, out in zip(solutions(f), (P("m"), P("m"), P()), strict=True):
            each = jax.shard_map(solution, in_specs=(P("m"), P(), P("m")), out_specs=out, axis_names={"m"})
            np.testing.assert_array_equal(jax.jit(each)(*placed), solution(*operands))


@pytest.mark.parametrize(("platform", "dilated"), [("cpu", False), ("tpu", True)])
def test_a_part_is_computed_by_its_platforms_plan(platform, dilated, monkeypatch):
    """A TPU's part by lax's own program. No partitioner is asked: there is no TPU here."""
    here = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda *_: here)
    monkeypatch.setattr(lowering, "partitioned", lambda compute, *_, **options: lambda a, b: compute(a, b, **options))
    mesh = jax.make_mesh((8,), ("a",), (AxisType.Auto,))
    operands, f = problem(kernel=16, stride=8)  # by phases on CPU and on TPU
    x, w = split(mesh, operands[:2], P("a"), P())
    text = jax.jit(f).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    assert ("lhs_dilate = [8, 8]" in text) == dilated


def test_the_orders_of_a_meshs_axes():
    assert list(_orders([2, 2, 3])) == [(2, 2, 3), (2, 3, 2), (3, 2, 2)]
    assert next(_orders([2] * 12)) == (2,) * 12
