"""The TPU kernel's steps: plain integers, against the definition of a tap."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdeconv._plan import tpu_tiles
from jdeconv._plan.tpu_tiles import (
    Call,
    Dimension,
    Tiles,
    copied_ratio,
    edges,
    first_column,
    last_start,
    spans,
    steps_in_width,
    tiles,
    vmem_bytes,
)

LINES = st.builds(
    Dimension,
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
    Call,
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
        tile, height = tiles(call), call.height
        if isinstance(tile, str):
            least = 1, 1, min(height.input, 1 + height.halo)
            outputs = min(call.outputs, 128)
            assert all(vmem_bytes(Tiles(*least, *span, outputs, True), call) > budget for span in spans(call))
            return
        assert vmem_bytes(tile, call) <= budget
    assert call.batch % tile.images == 0
    assert 1 <= tile.rows <= height.blocks
    assert tile.images == 1 or (tile.rows, tile.input_rows) == (height.blocks, height.input)
    # Every row that a step's taps reach is in its window, wherever that is put.
    assert tile.input_rows == height.input or tile.input_rows >= min(height.input, tile.rows + height.halo)
    assert tile.outputs == call.outputs or tile.outputs % 128 == 0
    assert tile.columns % 8 == 0


@given(call=CALLS)
def test_columns_that_a_step_reaches_are_held(call):
    """From an aligned one on, and where they are not, `edges` says so."""
    width = call.width
    for columns, input_columns in spans(call):
        tile = Tiles(1, 1, call.height.input, columns, input_columns, call.outputs, True)
        steps, last = steps_in_width(tile, width), last_start(tile, width)
        assert steps == 1 or not any(size % 8 for size in (first_column(tile, width), last, input_columns, columns))
        assert last < width.input <= last + input_columns
        cut = {edge.step: edge for edge in edges(tile, width)}
        for step in range(steps):
            wanted = step * columns + first_column(tile, width)
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
    line = Dimension(size, kernel, stride * size, stride, (kernel - stride) // 2)
    return Call(batch, line, line, *channels, 2, 2, 2)


@pytest.mark.parametrize("size", [64, 256, 512, 1024])
@pytest.mark.parametrize("channels", [(32, 16), (64, 64), (128, 64)])
def test_large_images_are_read_once_or_little_more(size, channels):
    call = plane(size, channels)
    tile = tiles(call)
    assert 1 <= copied_ratio(tile, call) <= 1.1
    assert tile.rows * tile.columns >= 512
    assert (steps_in_width(tile, call.width) > 1) == (size == 1024 or (size == 512 and channels != (64, 64)))


def test_lines_beyond_the_memory_are_cut():
    line = Dimension(1 << 20, 10, 5 << 20, 5, 2)
    call = Call(1, Dimension(1, 1, 1, 1, 0), line, 64, 32, 4, 4, 4)
    assert tiles(call).columns == 512
    assert copied_ratio(tiles(call), call) < 1.1


def test_small_images_share_a_step():
    assert tiles(plane(8, (512, 256), batch=16)).images > 1


def test_weights_beyond_the_memory_are_cut_by_their_outputs():
    tile = tiles(plane(8, (1024, 1024), batch=16))
    assert tile.outputs < 1024
    assert tile.outputs_first
