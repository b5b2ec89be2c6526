"""The TPU's kernel in Pallas's interpreter, which finds reads out of bounds and races, against the definition.

Memory that was never written is NaN there. Each way to cut a problem into steps must give the same.
"""

import contextlib
import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from calls import computed
from cases import Case, cases
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

import jdeconv
from jdeconv._geometry import crop
from jdeconv._plan import tpu_tiles

FLOATS = ("float32", "bfloat16")
fewer = settings(max_examples=max(4, settings().max_examples // 2))  # a program takes a second or two


@contextlib.contextmanager
def interpreted(precision="highest"):
    """Runs kernels in the interpreter; products on CPU have the precision that is asked for."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(detect_races=True)):
        with jax.default_matmul_precision(precision):
            yield
        races = interpret_pallas_call.races
        assert races is None or not races.races_found


@contextlib.contextmanager
def steps(number=0, **wanted):
    """One of the ways to cut the problem, of those with such sizes, even if it needs more memory than a TPU has."""
    with pytest.MonkeyPatch.context() as patch:

        def tiles(call):
            ways = list(dict.fromkeys(tpu_tiles.candidates(call, tpu_tiles.spans(call))))
            ways = [way for way in ways if wanted.items() <= dataclasses.asdict(way).items()]
            return ways[number % len(ways)]

        patch.setattr(tpu_tiles, "tiles", tiles)
        yield


@st.composite
def planes(draw):
    case = draw(cases(dtypes=FLOATS, ranks=(1, 2), most_groups=1, dilated=False))
    channels = draw(st.sampled_from([(1, 1), (3, 2), (2, 130), (130, 3)]))
    return dataclasses.replace(case, group_inputs=channels[0], group_outputs=channels[1])


@fewer
@given(case=planes(), number=st.integers(0, 99))
def test_equals_the_definition_and_so_do_its_gradients(case, number):
    with interpreted(), steps(number):
        case.check(case.run("pallas"))


@pytest.mark.sampled(0)
@fewer
@given(
    case=cases(dtypes=FLOATS, ranks=(1, 2), most_groups=1, dilated=False, sizes={1: (60, 16), 2: (36, 4)}),
    number=st.integers(-20, -1),  # the last of the ways are in parts of the width
)
def test_parts_of_the_width(case, number):
    with interpreted(), steps(number):
        x, w, _ = case.arrays()
        case.check_output(case.from_format(jax.jit(case.function("pallas"))(case.to_format(x), w)))


def test_steps_that_see_no_input():
    """Negative pads, which TensorFlow's arguments can't ask for: 40 zeros before and 30 after all that taps reach."""
    geometry = crop((20,), (3,), (1,), (1,), [(-40, -30)])
    x, w = (np.random.default_rng(0).standard_normal(s).astype("float32") for s in ((2, 20, 1, 6), (3, 4, 1, 6)))
    with interpreted(), steps(columns=16):
        found = jax.jit(lambda x, w: computed("cpu", "output", x, w, geometry, "pallas"))(x, w)
    want = np.zeros((2, 92, 4))
    for tap in range(3):
        want[:, 40 + tap : 60 + tap] += x[:, :, 0].astype("float64") @ w[tap, :, 0].T.astype("float64")
    np.testing.assert_allclose(found[:, :, 0], want, rtol=0, atol=19 * 2**-23 * 16)


NAMED = {
    "several steps in height, the last one part full": (
        Case(1, (7, 4), (5, 3), (2, 2), (1, 1), "SAME", (13, 7)),
        {"rows": 2, "input_rows": 7},
    ),
    "several images a step": (Case(4, (3, 2), (3, 3), (2, 2), (1, 1), "SAME", (6, 4), 1, 2, 3), {"images": 2}),
    "large strides, whole blocks": (Case(1, (2, 2), (10, 16), (5, 8), (1, 1), "SAME", (10, 16), 1, 2, 2), {"rows": 1}),
    "stride 5, blocks with gaps": (Case(1, (2, 2), (13, 4), (5, 3), (1, 1), "SAME", (10, 6), 1, 2, 2), {"rows": 1}),
    "stride beyond the kernel": (Case(1, (3, 2), (2, 1), (6, 3), (1, 1), "SAME", (17, 6), 1, 2, 2), {"rows": 1}),
    "pads wider than the kernel": (
        Case(2, (7, 5), (2, 3), (2, 2), (1, 1), ((6, 5), (1, 1)), (3, 9), 1, 2, 2),
        {"rows": 1, "input_rows": 7},
    ),
    "output channels in two parts": (
        Case(2, (3, 4), (3, 3), (2, 2), (1, 1), "SAME", (6, 8), 1, 2, 200),
        {"images": 2, "outputs": 128, "outputs_first": False},
    ),
    "a line": (Case(2, (40,), (7,), (3,), (1,), "SAME", (119,), 1, 5, 4), {"images": 1, "columns": 40}),
    "a line in parts": (Case(2, (40,), (7,), (3,), (1,), "SAME", (119,), 1, 5, 4), {"columns": 16}),
    "a reach beyond a part": (Case(1, (20,), (26,), (1,), (1,), "VALID", (45,), 1, 2, 2), {"columns": 16}),
    "parts of the width, all rows held": (
        Case(1, (5, 37), (3, 5), (1, 2), (1, 1), "SAME", (5, 73), 1, 2, 2),
        {"rows": 2, "input_rows": 5, "columns": 16},
    ),
    "parts of height and width": (
        Case(2, (5, 37), (3, 5), (2, 2), (1, 1), "VALID", (11, 77), 1, 2, 2),
        {"rows": 2, "input_rows": 3, "columns": 16},
    ),
    "parts of width and output channels": (
        Case(1, (2, 35), (3, 3), (1, 1), (1, 1), "SAME", (2, 35), 1, 2, 200),
        {"columns": 16, "outputs": 128, "outputs_first": False},
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NAMED)
def test_named_cases(name):
    case, wanted = NAMED[name]
    with interpreted(), steps(**wanted):
        case.check_output(case.from_format(jax.jit(case.function("pallas"))(*case.arrays()[:2])))


@fewer
@given(case=planes(), number=st.integers(0, 99), value=st.sampled_from([np.inf, np.nan]))
def test_what_is_not_finite_spoils_what_its_taps_reach(case, number, value):
    x, w, _ = (np.abs(array) + 1 for array in case.arrays())
    spot = np.zeros(x.shape)
    where = tuple(size // 2 for size in x.shape)
    x[where], spot[where] = value, 1
    with interpreted(), steps(number):
        found = case.from_format(jax.jit(case.function("pallas"))(case.to_format(x), w))
    np.testing.assert_array_equal(~np.isfinite(found), oracle.transpose_conv(case, spot, w) != 0)


CASE = Case(2, (4, 5), (3, 3), (2, 2), (1, 1), "SAME", (8, 10), 1, 6, 4)
X, W, _ = CASE.arrays()


def test_float32_is_rounded_to_bfloat16_by_default():
    """As TPUs do. Only a precision that asks for more keeps all bits."""
    with interpreted("default"):
        found = np.asarray(CASE.function("pallas")(X, W))
    rounded = [np.asarray(v.astype(jnp.bfloat16), "float64") for v in (X, W)]
    np.testing.assert_allclose(found, oracle.transpose_conv(CASE, *rounded), rtol=0, atol=54 * 2**-23 * 16)
    assert np.abs(found - oracle.transpose_conv(CASE, X, W)).max() > 1e-3


def test_narrow_floats_with_a_wide_result():
    x, w = (v.astype(jnp.bfloat16) for v in (X, W))
    with interpreted():
        y = jdeconv.conv2d_transpose(x, w, None, 2, preferred_element_type="float32", method="pallas")
    assert y.dtype == jnp.float32
    want = oracle.transpose_conv(CASE, np.asarray(x, "float64"), np.asarray(w, "float64"))
    np.testing.assert_allclose(y, want, rtol=0, atol=54 * 2**-23 * 16)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_caches_know_whether_the_interpreter_is_on(wrap):
    f = wrap(lambda x, w: jdeconv.conv2d_transpose(x, w, strides=2, method="pallas"))
    want = jdeconv.conv2d_transpose(X, W, strides=2, precision="highest")
    for _ in range(2):
        with interpreted():
            np.testing.assert_allclose(f(X, W), want, rtol=1e-5, atol=1e-5)
        with pytest.raises(NotImplementedError, match="no kernel for CPU"):
            f(X, W)


def test_vmap_and_shard_map():
    f = lambda x: jdeconv.conv2d_transpose(x, W, strides=2, method="pallas")  # noqa: E731
    mesh = jax.make_mesh((2,), ("x",), (jax.sharding.AxisType.Auto,))
    want = jdeconv.conv2d_transpose(X, W, strides=2, precision="highest")
    with interpreted():
        mapped = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"), check_vma=False))
        for found in (jax.vmap(lambda x: f(x[None])[0])(X), mapped(X)):
            np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((1, 4, 2, 2, 1024, 256), "1024 products written out; expected at most 512"),
        (
            (1, 8, 4096, 256, 16, 8),
            "16 taps from 4096 to 128 channels and what a step holds beside them exceed a TPU's VMEM; "
            "expected at most 12 MiB",
        ),
    ],
)
def test_what_only_this_kernel_refuses(sizes, reason):
    batch, length, inputs, outputs, kernel, stride = sizes
    message = f"method='pallas': {reason}. Use method='auto'."
    x, w = jnp.ones((batch, length, inputs)), jnp.ones((kernel, outputs, inputs))
    with interpreted(), pytest.raises(NotImplementedError, match=f"^{re.escape(message)}(\n|$)"):
        jax.jit(lambda x, w: jdeconv.conv1d_transpose(x, w, None, stride, method="pallas")).lower(x, w)


# The steps: plain integers, against the definition of a tap.

LINES = st.builds(
    tpu_tiles.Dimension,
    input=st.integers(1, 9),
    kernel=st.integers(1, 9),
    output=st.integers(1, 30),
    stride=st.integers(1, 9),
    low=st.integers(-5, 12),
)


@given(line=LINES)
def test_phases_are_all_pairs_of_output_and_tap(line):
    """Tap t joins input p to output p*stride + t - low."""
    found = set()
    for (r, phase), block in itertools.product(enumerate(line.phases), range(line.blocks)):
        for m in range(phase.taps):
            assert line.shifts[0] <= phase.shift - m <= line.shifts[1]
            found.add((block * line.stride + r, phase.first + m * line.stride, block + phase.shift - m))
    inside = {(q, t, p) for q, t, p in found if q < line.output and 0 <= p < line.input}
    pairs = itertools.product(range(line.input), range(line.kernel))
    wanted = {(p * line.stride + t - line.low, t, p) for p, t in pairs}
    assert inside == {(q, t, p) for q, t, p in wanted if 0 <= q < line.output}


CALLS = st.builds(
    tpu_tiles.Call,
    batch=st.integers(1, 6),
    height=LINES,
    width=LINES | st.builds(dataclasses.replace, LINES, input=st.integers(30, 99), output=st.integers(30, 999)),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 300),
    operand=st.sampled_from([2, 4]),
    read=st.just(4),
    written=st.sampled_from([2, 4]),
)


@given(call=CALLS, budget=st.integers(1 << 12, 1 << 22))
def test_steps_fit_and_cover_all(call, budget):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu_tiles, "BUDGET", budget)
        tile, height = tpu_tiles.tiles(call), call.height
        if isinstance(tile, str):
            least = 1, 1, min(height.input, 1 + height.halo)
            outputs = min(call.outputs, 128)
            assert all(
                tpu_tiles.vmem_bytes(tpu_tiles.Tiles(*least, *span, outputs, True), call) > budget
                for span in tpu_tiles.spans(call)
            )
            return
        assert tpu_tiles.vmem_bytes(tile, call) <= budget
    assert call.batch % tile.images == 0
    assert 1 <= tile.rows <= height.blocks
    assert tile.images == 1 or (tile.rows, tile.input_rows) == (height.blocks, height.input)
    # Every row that a step's taps reach is in its window, wherever that is put.
    assert tile.input_rows == height.input or tile.input_rows >= min(height.input, tile.rows + height.halo)
    assert tile.outputs == call.outputs or tile.outputs % 128 == 0
    assert tile.columns % 8 == 0


@given(call=CALLS)
def test_columns_that_a_step_reaches_are_held(call):
    """Those from an aligned column on; where they are not, `edges` says so."""
    width = call.width
    for columns, input_columns in tpu_tiles.spans(call):
        tile = tpu_tiles.Tiles(1, 1, call.height.input, columns, input_columns, call.outputs, True)
        steps, last = tpu_tiles.steps_in_width(tile, width), tpu_tiles.last_start(tile, width)
        assert steps == 1 or not any(
            size % 8 for size in (tpu_tiles.first_column(tile, width), last, input_columns, columns)
        )
        assert last < width.input <= last + input_columns
        cut = {edge.step: edge for edge in tpu_tiles.edges(tile, width)}
        for step in range(steps):
            wanted = step * columns + tpu_tiles.first_column(tile, width)
            start = min(max(wanted, 0), last)
            edge = cut.get(step, tpu_tiles.Edge(step, 0, input_columns))
            for block in range(step * columns, min((step + 1) * columns, width.blocks)):
                for position in range(block + width.shifts[0], block + width.shifts[1] + 1):
                    if steps == 1 or not 0 <= position < width.input:  # whole rows are all held
                        continue
                    place = position - wanted
                    assert 0 <= place < input_columns
                    # Among those held it is `edge.start` later, and before the end.
                    assert start + edge.start + place == position
                    assert 0 <= edge.start + place < min(edge.end, input_columns)


def plane(size, channels, kernel=4, stride=2, batch=1):
    line = tpu_tiles.Dimension(size, kernel, stride * size, stride, (kernel - stride) // 2)
    return tpu_tiles.Call(batch, line, line, *channels, 2, 2, 2)


@pytest.mark.parametrize("size", [64, 256, 512, 1024])
@pytest.mark.parametrize("channels", [(32, 16), (64, 64), (128, 64)])
def test_large_images_are_read_once_or_little_more(size, channels):
    call = plane(size, channels)
    tile = tpu_tiles.tiles(call)
    assert 1 <= tpu_tiles.copied_ratio(tile, call) <= 1.1
    assert tile.rows * tile.columns >= 512
    assert (tpu_tiles.steps_in_width(tile, call.width) > 1) == (size == 1024 or (size == 512 and channels != (64, 64)))


def test_lines_beyond_the_memory_are_cut():
    line = tpu_tiles.Dimension(1 << 20, 10, 5 << 20, 5, 2)
    call = tpu_tiles.Call(1, tpu_tiles.Dimension(1, 1, 1, 1, 0), line, 64, 32, 4, 4, 4)
    assert tpu_tiles.tiles(call).columns == 512
    assert tpu_tiles.copied_ratio(tpu_tiles.tiles(call), call) < 1.1


def test_small_images_share_a_step():
    assert tpu_tiles.tiles(plane(8, (512, 256), batch=16)).images > 1


def test_weights_beyond_the_memory_are_cut_by_their_outputs():
    tile = tpu_tiles.tiles(plane(8, (1024, 1024), batch=16))
    assert tile.outputs < 1024
    assert tile.outputs_first
