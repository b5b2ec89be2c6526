"""The kernel for GPUs: numbers by interpretation, lowering for CUDA, compilation for an H100 (see `h100`)."""

import contextlib
import functools
import itertools
import math
import re
import types

import jax
import numpy as np
import oracle
import pytest
from cases import Case, cases
from h100 import compiles, on_h100
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jdeconv
from benchmarks.ahead_of_time import gpu_kernels
from benchmarks.work.cases import CASES, DTYPES
from jdeconv._formulations import pallas, pallas_gpu
from jdeconv._plan import gpu_tiles
from jdeconv._plan.gpu_tiles import Product, Tile, tile_for

drawn = functools.partial(cases, dtypes=("float32", "bfloat16"), ranks=(1, 2), most_groups=1, dilated=False)


@contextlib.contextmanager
def interpreted(tile=None):
    """`method='pallas'` is the kernel for GPUs, interpreted here, in tiles of that size if one is given."""
    kernel = functools.partial(pallas_gpu.transpose_conv, tile=tile, interpret=True)
    by_kernel = functools.partial(pallas._by_kernel, "gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pallas_gpu, "transpose_conv", kernel)
        patch.setitem(pallas.VARIANTS["output"], "TPU kernel, interpreted", by_kernel)
        yield


@given(case=drawn())
def test_equals_the_definition(case):
    with interpreted():
        case.check(case.run("pallas"))


NAMED = {
    "more channels than a tile has": Case(2, (3, 4), (4, 3), (2, 1), (1, 1), "SAME", (6, 4), 1, 70, 140),
    "more inputs than a step takes, 16 bits": Case(
        1, (5, 4), (3, 3), (2, 2), (1, 1), "SAME", (10, 8), 1, 130, 20, dtype="bfloat16"
    ),
    "stride 8 in more phases than a tile has": Case(1, (3, 4), (16, 16), (8, 8), (1, 1), "SAME", (24, 32), 1, 3, 5),
    "stride 16, a tap missing in a phase": Case(1, (9,), (31,), (16,), (1,), "VALID", (159,), 1, 2, 3),
    "stride beyond the kernel": Case(1, (5, 3), (1, 2), (3, 4), (1, 1), "SAME", (13, 12), 1, 2, 2),
    "pad wider than the kernel": Case(2, (7, 5), (2, 3), (2, 2), (1, 1), ((6, 5), (1, 1)), (3, 9), 1, 2, 2),
    "kernel beyond the image": Case(1, (2, 2), (16, 16), (8, 8), (1, 1), "SAME", (16, 16), 1, 2),
    "more rows than a tile has": Case(3, (20, 30), (2, 2), (2, 2), (1, 1), "VALID", (40, 60), 1, 2, 3),
    "pad beyond every tap": Case(1, (1, 1), (1, 1), (1, 3), (1, 1), ((0, 0), (2, 0)), (1, 1)),
    "empty input": Case(1, (0, 2), (3, 3), (2, 2), (1, 1), "VALID", (1, 5)),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NAMED)
def test_named_cases(name):
    with interpreted():
        NAMED[name].check(NAMED[name].run("pallas"))


def sizes(*choices):
    return st.sampled_from(choices)


@given(
    case=drawn(dtypes=("float32",)),
    rows=sizes(4, 16),
    columns=sizes((1, 2), (1, 8), (2, 1), (4, 2)),
    terms=sizes((1, 2), (1, 8), (2, 1), (4, 1), (4, 2)),
)
def test_tiles_of_any_size(case, rows, columns, terms):
    if any(k % s for k, s in zip(case.kernel, case.strides, strict=True)):
        columns = (1, math.prod(columns))
    with interpreted(Tile(rows, *columns, *terms, warps=4, stages=2)):
        case.check(case.run("pallas"))


@contextlib.contextmanager
def watched():
    """Lists of the places that loads read and stores write, each beside the size that it must be below."""
    read, written = [], []

    def watching(access, places):
        def note(mask, *indices, sizes):
            chosen = [np.broadcast_to(index, mask.shape)[mask] for index in indices]
            places.append((sizes, np.stack(chosen, axis=1)))

        def call(view, *operands, mask, **more):
            indices = view.transforms[-1].indices
            jax.debug.callback(functools.partial(note, sizes=view.ref.shape), mask, *indices)
            return access(view, *operands, mask=mask, **more)

        return call

    original = pallas_gpu.triton
    with pytest.MonkeyPatch.context() as patch:
        fields = {**vars(original), "load": watching(original.load, read), "store": watching(original.store, written)}
        patch.setattr(pallas_gpu, "triton", types.SimpleNamespace(**fields))
        yield read, written


@pytest.mark.sampled(0)
@settings(max_examples=max(4, settings().max_examples // 2))  # a callback for each load takes its time
@given(case=drawn(dtypes=("float32",)), rows=sizes(4, 16), columns=sizes(2, 8), terms=sizes((1, 2), (4, 2)))
def test_reads_lie_inside_and_each_output_is_written_once(case, rows, columns, terms):
    """The interpreter clamps, wraps or drops what lies outside; a GPU does not."""
    x, w, _ = case.arrays()
    with watched() as (read, written), interpreted(Tile(rows, 1, columns, *terms, warps=4, stages=2)):
        jax.block_until_ready(case.function("pallas")(case.to_format(x), w))
        jax.effects_barrier()
    for shape, places in (*read, *written):
        assert ((places >= 0) & (places < shape)).all(), str(case)
    if not case.geometry.empty:
        count = np.zeros(written[0][0], int)
        np.add.at(count, tuple(np.concatenate([places for _, places in written]).T), 1)
        assert (count == 1).all(), str(case)


@given(case=drawn(dtypes=("float32",)), value=sizes(np.inf, np.nan))
@example(case=Case(1, (9, 2), (3, 1), (1, 1), (1, 1), "SAME", (9, 2)), value=np.nan)  # no fourth tap
def test_what_is_not_finite_spoils_what_its_taps_reach(case, value):
    x, w, _ = (np.abs(array) + 1 for array in case.arrays())
    where, spot = tuple(size // 2 for size in x.shape), np.zeros(x.shape)
    x[where], spot[where] = value, 1
    with interpreted():
        found = jax.jit(case.function("pallas"))(case.to_format(x), w)
    reached = oracle.transpose_conv(case, spot, w)
    np.testing.assert_array_equal(~np.isfinite(case.from_format(found)), reached != 0, str(case))


@pytest.mark.parametrize("context", [jax.numpy_dtype_promotion("strict"), jax.enable_x64(True)], ids=["strict", "x64"])
def test_under_strict_promotion_and_64_bits(context):
    case = Case(2, (4, 5), (3, 4), (2, 2), (1, 1), "SAME", (8, 10), 1, 2, 2, dtype="bfloat16")
    x, w, _ = case.arrays()
    with context:
        with on_h100():
            jax.jit(case.function("pallas")).trace(x, w).lower(lowering_platforms=("cuda",))
        with interpreted():
            case.check(case.run("pallas"))


@pytest.mark.parametrize(("operand", "result"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_the_result_is_rounded_once(operand, result):
    case = Case(1, (4, 5), (3, 3), (2, 2), (1, 1), "SAME", (8, 10), 1, 6, 4)
    rng = np.random.default_rng(0)
    x, w = (jax.numpy.asarray(rng.integers(-120, 120, s), operand) for s in ((1, 4, 5, 6), (3, 3, 4, 6)))
    with interpreted():
        y = jax.jit(
            lambda x, w: jdeconv.conv2d_transpose(x, w, strides=2, method="pallas", preferred_element_type=result)
        )(x, w)
    want = oracle.transpose_conv(case, np.asarray(x, "float64"), np.asarray(w, "float64"))
    assert y.dtype == result
    # Integers up to 120 are exact in bfloat16, and so are float32's sums of 54 products; one rounding for bfloat16.
    np.testing.assert_allclose(np.asarray(y, "float64"), want, rtol=2**-8 if result == "bfloat16" else 0)


def call(case, dtype, **more):
    """A case of the benchmark: the function and its operands' shapes."""
    x, w = (jax.ShapeDtypeStruct(shape, dtype, **more) for shape in case.shapes[:2])
    return lambda x, w: jdeconv.conv_transpose(x, w, case.shapes[2], case.stride, "SAME", method="pallas"), (x, w)


FLAT = [case for case in CASES if case.rank < 3 and case.groups == 1]
of_each_case = pytest.mark.parametrize("case", FLAT, ids=lambda case: case.name)


@pytest.mark.sampled(5)
@of_each_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_lowers_for_cuda(case, dtype):
    """No warning is given: JAX's, that Triton will end, would be an error here."""
    f, operands = call(case, dtype)
    with on_h100():
        text = jax.jit(f).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
    assert re.findall(r"custom_call @(\S+?)\(", text) == ["__gpu$xla.gpu.triton"]
    assert "convolution" not in text.replace("transposed_convolution", "")


@pytest.mark.parametrize(
    ("precision", "rounded"),
    [(None, True), ("default", True), ("high", True), ("highest", False), (("default", "highest"), False)],
)
def test_precision(precision, rounded, monkeypatch, capsys):
    """Products are in TF32 unless one of the two precisions is HIGHEST, as in XLA."""
    monkeypatch.setattr(pallas_gpu.pl, "pallas_call", functools.partial(pallas_gpu.pl.pallas_call, debug=True))
    x, w = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((1, 8, 8, 4), (4, 4, 4, 4)))
    f = functools.partial(jdeconv.conv2d_transpose, strides=2, method="pallas", precision=precision)
    with on_h100():
        jax.jit(f).trace(x, w).lower(lowering_platforms=("cuda",))
    (product,) = re.findall("= tt.dot .*", capsys.readouterr().out)
    assert ("inputPrecision = tf32" in product) == rounded


def compiled(f, *operands):
    """The function compiled for an H100."""
    (device,) = gpu_kernels.h100().device_set
    mesh = jax.sharding.Mesh(np.array([device]), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.P())
    operands = [jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding) for v in operands]
    with jax.set_mesh(mesh):
        return jax.jit(f).trace(*operands).lower().compile(compiler_options={"xla_gpu_autotune_level": 0})


@compiles
@of_each_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiles_for_an_h100(case, dtype):
    f, operands = call(case, dtype)
    program = compiled(f, *operands)
    assert "__gpu$xla.gpu.triton" in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes == 0  # nothing padded, dilated, interleaved or cut


@compiles
@pytest.mark.parametrize("tile", [Tile(512, 1, 512, 1, 64, 8, 3), Tile(128, 1, 128, 1, 64, 8, 8)])
def test_the_compiler_refuses_a_tile_beyond_shared_memory(tile):
    """So it judges the others; and it counts bytes as the choice of tiles does."""
    f, operands = call(next(case for case in FLAT if case.name == "dcgan16"), "bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pallas_gpu, "tile_for", lambda product: tile)
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"requested {tile.shared(2)}, available"):
            compiled(f, *operands)


# The tiles: plain integers.


def products():
    counts = (1, 3, 21, 1024)
    for rows, phases, outputs, taps, inputs in itertools.product((1, 40, 10**6), (1, 4, 9, 256), *[counts] * 3):
        for itemsize, fused in itertools.product((2, 4), (False, True)):
            yield Product(rows, phases, outputs, taps, inputs, itemsize, fused)


def test_tiles_fit():
    """Tiles are powers of two that tensor cores take, within registers and shared memory, and no larger than needed."""
    for product in products():
        tile = tile_for(product)
        sides = tile.rows, tile.columns, tile.depth
        assert all(side >= gpu_tiles.SHORTEST_SIDE and side & (side - 1) == 0 for side in sides), (product, tile)
        assert max(tile.rows, tile.columns) <= gpu_tiles.LONGEST_SIDE
        assert tile.rows * tile.columns <= 64 * 32 * tile.warps, (product, tile)  # sums of each thread
        assert 2 <= tile.stages <= gpu_tiles.MOST_STAGES
        assert tile.shared(product.itemsize) <= gpu_tiles.SHARED_MEMORY, (product, tile)
        assert tile.phases == 1 or product.fused
        # A side is more than twice what there is only where that is less than tensor cores take.
        assert tile.rows < max(gpu_tiles.SHORTEST_SIDE + 1, 2 * product.rows)
        assert tile.columns < max(gpu_tiles.SHORTEST_SIDE + 1, 4 * product.phases * product.outputs)
        assert tile.depth < max(gpu_tiles.SHORTEST_SIDE + 1, 4 * product.taps * product.inputs)


def test_large_products_have_large_tiles_and_small_ones_keep_processors_busy():
    large = Product(10**6, 4, 512, 4, 512, 2, fused=True)
    assert (tile_for(large).rows, tile_for(large).columns) == (gpu_tiles.LONGEST_SIDE, gpu_tiles.LONGEST_SIDE)
    small = Product(512, 4, 256, 4, 512, 2, fused=True)
    assert math.prod(tile_for(small).grid(small)) >= gpu_tiles.PROCESSORS
