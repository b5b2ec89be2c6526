"""The TPU kernel's steps: plain integers, against the definition of a tap."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdeconv import _tpu_tiles as tpu_tiles
from jdeconv._tpu_tiles import Line, columns, reread, tiles, used

LINES = st.builds(
    Line,
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


@given(
    height=LINES, width=LINES, batch=st.integers(1, 6), channels=st.tuples(*[st.integers(1, 300)] * 2),
    budget=st.integers(1 << 12, 1 << 22), sizes=st.sampled_from([(2, 2, 2), (2, 4, 4), (4, 4, 4)]),
)  # fmt: skip
def test_steps_fit_and_cover_all(height, width, batch, channels, budget, sizes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu_tiles, "BUDGET", budget)
        tile = tiles(batch, height, width, *channels, *sizes)
        if tile is None:
            smallest = tpu_tiles.Tiles(1, 1, min(height.input, 1 + height.halo), min(channels[1], 128), True)
            assert used(smallest, height, width, *channels, *sizes) > budget
            return
        assert used(tile, height, width, *channels, *sizes) <= budget
    assert batch % tile.images == 0
    assert 1 <= tile.rows <= height.blocks
    assert tile.images == 1 or (tile.rows, tile.window) == (height.blocks, height.input)
    # Every row that a step's taps reach is in its window, wherever that is put.
    assert tile.window == height.input or tile.window >= min(height.input, tile.rows + height.halo)
    assert tile.outputs == channels[1] or tile.outputs % 128 == 0


@pytest.mark.parametrize(("size", "read"), [(64, 1), (256, 1.25), (512, 1.5)])
def test_large_images_are_read_once_or_little_more(size, read):
    height = width = Line(size, 4, 2 * size, 2, 1)
    tile = tiles(1, height, width, 32, 16, 2, 2, 2)
    assert 1 <= reread(tile, height) <= read
    assert tile.rows * columns(width, 2) >= 512  # 16 channels take the lanes of 128, so rows are few


def test_small_images_share_a_step():
    height = width = Line(8, 4, 16, 2, 1)
    assert tiles(16, height, width, 512, 256, 2, 2, 2).images > 1


def test_weights_beyond_the_memory_are_cut_by_their_outputs():
    height = width = Line(8, 4, 16, 2, 1)
    tile = tiles(16, height, width, 1024, 1024, 2, 2, 2)
    assert tile.outputs < 1024
    assert tile.outputs_first
