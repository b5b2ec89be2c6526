"""The TPU kernel (Mosaic): the output's phases are computed and interleaved in VMEM, so none travels through HBM.

A step takes some rows of output blocks, or part of their width (`tpu_tiles`), and the input that reaches them. It first
copies the input to a scratch, once for each shift in width, side by side along the lanes. The copy selects zeros beyond
the input's ends instead of multiplying by zero. A phase of the output is then a sum of products
[images*rows*columns, inputs] x [inputs, outputs] of whole slices of that scratch. Phases in width are interleaved by
stores to every stride-th sublane, phases in height by the row that they are written to.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from .._engine.engine import Engine
from .._errors import unsupported
from .._geometry import Geometry
from .._jax_operations import jnp, lax
from .._plan import tpu_tiles as tpu_tiles
from .._plan.tpu_tiles import LANES, SUBLANES, Call, Dimension, Phase, Tiles

MOST_ROW_PHASES = 4
"""So many phases in height are written out one by one; more are a loop."""


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """One call of the kernel."""
    height, width = tpu_tiles.dimensions(geometry)
    _, _, outputs, inputs = w.shape
    if outputs == 1:  # Pallas takes no product with one column for a matrix product
        wider = jnp.pad(w, ((0, 0), (0, 0), (0, 7), (0, 0)))
        return transpose_conv(x, wider, geometry, engine)[..., :1]
    keeps_float32 = _keeps_float32(engine.precision)
    if x.dtype == jnp.float32 and not keeps_float32:
        w = w.astype(jnp.bfloat16)  # as XLA does; the input is rounded in VMEM
    elif x.dtype == jnp.bfloat16:
        keeps_float32 = False
    sizes = w.dtype.itemsize, x.dtype.itemsize, engine.dtype.itemsize
    tile = tpu_tiles.tiles(Call(x.shape[0], height, width, inputs, outputs, *sizes))
    if isinstance(tile, str):
        raise unsupported("pallas", tile)
    # If a tap's channels are few, several taps share the lanes of one product.
    joined = tpu_tiles.joins_taps(inputs)
    if joined:
        w = _by_phase(w, width)
    parts, split = -(-tile.outputs // LANES), tpu_tiles.steps_in_width(tile, width) > 1
    grid, step_of = _grid(x.shape[0], outputs, height, width, tile)
    last = tpu_tiles.last_start(tile, width)
    beyond = last + tile.input_columns - width.input  # in VMEM these columns hold anything, and are cut off

    def window(*ids: Any) -> tuple[Any, Any, Any, int]:
        image, row, column, _ = step_of(*ids)
        start = jnp.clip(row * tile.rows + height.shifts[0], 0, height.input - tile.input_rows)
        if not split:
            return image * tile.images, start, 0, 0
        # A multiple of SUBLANES, so that the compiler sees the alignment that it demands.
        tiles = column * (tile.columns // SUBLANES) + tpu_tiles.first_column(tile, width) // SUBLANES
        return image * tile.images, start, jnp.clip(tiles, 0, last // SUBLANES) * SUBLANES, 0

    kernel = functools.partial(
        _kernel, step_of=step_of, height=height, width=width, tile=tile, joined=joined,
        precision=lax.Precision.HIGHEST if keeps_float32 else lax.Precision.DEFAULT,
    )  # fmt: skip
    whole, rows = tile.outputs == outputs, map(pl.Element, (tile.images, tile.input_rows))
    line = tile.columns * width.stride if split else width.output
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[
            pl.BlockSpec((*rows, pl.Element(tile.input_columns, (0, beyond)), pl.Element(inputs)), window),
            pl.BlockSpec(
                (*w.shape[:2], tile.outputs, w.shape[3]),
                lambda *ids: (0, 0, step_of(*ids).outputs, 0),
                pipeline_mode=pl.Buffered(1) if whole else None,
            ),
        ],
        out_specs=pl.BlockSpec(
            (tile.images, tile.rows * height.stride, line, tile.outputs),
            lambda *ids: tuple(step_of(*ids)),
        ),
        out_shape=jax.ShapeDtypeStruct((x.shape[0], *geometry.output, outputs), engine.dtype),
        scratch_shapes=[
            pltpu.VMEM((tile.images, tile.rows + height.halo, tile.columns, tpu_tiles.lanes(width, inputs)), w.dtype),
            pltpu.VMEM(
                (parts, tile.images * tile.rows, tile.columns * width.stride, min(tile.outputs, LANES)), jnp.float32
            ),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=(pltpu.PARALLEL,) * len(grid)),
        name="transpose_conv",
    )(x, w)


def _kernel(
    x: Any, w: Any, y: Any, shifted: Any, interleaved: Any, *, step_of: Callable[..., "Step"],
    height: Dimension, width: Dimension, tile: Tiles, joined: bool, precision: lax.Precision,
) -> None:  # fmt: skip
    _shift(x, shifted, step_of(*(pl.program_id(axis) for axis in range(4))), height, width, tile)
    across, inputs = shifted.shape[2], x.shape[3]
    m, most = tile.images * tile.rows * across, max(row.taps for row in height.phases)
    least = min(row.taps for row in height.phases)
    lane = dict(tpu_tiles.places(width, inputs))

    def terms(c: int, column: Phase) -> Iterator[tuple[int, int, int]]:
        """For each product: its first lane in the scratch, its number of lanes, and the weights' index."""
        if joined and column.taps:
            yield c * tpu_tiles.phase_lanes(width, inputs), column.taps * inputs, c
        elif not joined:
            for k in range(column.taps):
                yield lane[column.shift - k], inputs, column.first + k * width.stride

    product = functools.partial(
        lax.dot_general, dimension_numbers=(((1,), (1,)), ((), ())), precision=precision,
        preferred_element_type=jnp.float32,
    )  # fmt: skip

    def phase(r: Any, row: Phase) -> None:
        """All phases in width of phase `r` in height; `r` and `row` may be traced."""
        for c, column in enumerate(width.phases):
            total = jnp.zeros((m, tile.outputs), jnp.float32)
            for n in range(most):
                # Whether a traced row has the last tap is known at run time: if not, nothing beyond its end is read.
                here = n < least or n < row.taps
                tap, line = row.first + n * height.stride, row.shift - n - height.shifts[0]
                if not isinstance(here, bool):
                    tap, line = jnp.minimum(tap, height.kernel - 1), jnp.maximum(line, 0)
                for start, length, k in terms(c, column) if here is not False else ():
                    lhs = shifted[:, pl.ds(line, tile.rows), :, start : start + length].reshape(m, length)
                    rhs = w[tap, k, :, :length]
                    if here is not True:
                        lhs, rhs = jnp.where(here, lhs, 0), jnp.where(here, rhs, 0)
                    total += product(lhs, rhs)
            _interleave(total.reshape(-1, across, tile.outputs), interleaved, c, width.stride)
        for image in range(tile.images):
            for j in range(tile.rows):
                for part in range(interleaved.shape[0]):
                    lanes = slice(part * LANES, min((part + 1) * LANES, y.shape[3]))
                    line = interleaved[part, image * tile.rows + j, : y.shape[2], : lanes.stop - lanes.start]
                    y[image, j * height.stride + r, :, lanes] = line.astype(y.dtype)

    if len(height.phases) <= MOST_ROW_PHASES:
        for r, row in enumerate(height.phases):
            phase(r, row)
        return

    def loop(r: Any, _: None) -> None:
        position = r + height.low % height.stride
        shift, first = lax.div(position, height.stride), lax.rem(position, height.stride)
        taps = lax.div(height.kernel - first + height.stride - 1, height.stride)
        row: tuple[Any, ...] = first, shift + height.low // height.stride, taps
        phase(r, Phase(*row))

    lax.fori_loop(0, len(height.phases), loop, None)


def _interleave(total: jax.Array, interleaved: Any, c: int, stride: int) -> None:
    """Writes phase `c` in width, 128 channels at a time: strided stores need whole lanes."""
    for part in range(interleaved.shape[0]):
        lanes = total[:, :, part * LANES : (part + 1) * LANES]
        if missing := interleaved.shape[3] - lanes.shape[2]:
            lanes = jnp.concatenate([lanes, jnp.zeros((*lanes.shape[:2], missing), lanes.dtype)], axis=2)
        interleaved[part, :, pl.ds(c, lanes.shape[1], stride=stride), :] = lanes


def _shift(x: Any, shifted: Any, step: "Step", height: Dimension, width: Dimension, tile: Tiles) -> None:
    """Fills the scratch: line `l` has input row `first + l`, with its columns at each shift."""
    inputs, split = x.shape[3], tpu_tiles.steps_in_width(tile, width) > 1
    first = step.row * tile.rows + height.shifts[0]
    start = jnp.clip(first, 0, height.input - tile.input_rows)
    begin = tpu_tiles.first_column(tile, width)
    column = step.column * tile.columns + begin

    def fill(number: Any, _: None) -> None:
        image, line = lax.div(number, shifted.shape[1]), lax.rem(number, shifted.shape[1])
        within = (first + line >= 0) & (first + line < height.input)
        row = x[image, jnp.clip(first + line - start, 0, tile.input_rows - 1)]
        if split:
            within &= (column > -tile.input_columns) & (column < width.input)
        row = jnp.where(within, row, 0)
        # VMEM's part begins within the input: at the input's ends, columns are moved to their places, beside zeros.
        for edge in tpu_tiles.edges(tile, width):
            row = jnp.where(step.column == edge.step, _cut(row, edge.start, tile.input_columns, edge.end), row)
        row = row.astype(shifted.dtype)
        columns: dict[int, jax.Array] = {}
        for shift, lane in tpu_tiles.places(width, inputs):
            if shift not in columns:
                columns[shift] = _cut(row, shift - begin, tile.columns, row.shape[0])
            shifted[image, line, :, lane : lane + inputs] = columns[shift]

    lax.fori_loop(0, tile.images * shifted.shape[1], fill, None)


def _cut(row: jax.Array, start: int, length: int, end: int) -> jax.Array:
    """`length` columns of the row from `start` on; zeros before its first column and from `end` on."""
    before = min(max(0, -start), length)
    stop = max(before, min(length, end - start))
    zeros = [jnp.zeros((size, row.shape[1]), row.dtype) for size in (before, length - stop)]
    parts = [part for part in (zeros[0], row[start + before : start + stop], zeros[1]) if part.shape[0]]
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


class Step(NamedTuple):
    """A step's block of images, of rows, of columns and of output channels, by number."""

    image: Any
    row: Any
    column: Any
    outputs: Any


def _grid(
    batch: int, outputs: int, height: Dimension, width: Dimension, tile: Tiles
) -> tuple[tuple[int, ...], Callable[..., Step]]:
    """The grid, and the `Step` of its indices. Rows change fastest, so that input of the whole height stays in VMEM."""
    images, rows, parts = batch // tile.images, -(-height.blocks // tile.rows), -(-outputs // tile.outputs)
    columns = tpu_tiles.steps_in_width(tile, width)
    if tile.outputs_first:
        return (parts, images, columns, rows), lambda part, image, column, row: Step(image, row, column, part)
    return (images, parts, columns, rows), lambda image, part, column, row: Step(image, row, column, part)


def _by_phase(w: jax.Array, width: Dimension) -> jax.Array:
    """`(kh, kw, o, i)` as `(kh, phases, o, taps*i)`: each phase's taps in the order of their shifts."""
    most = max(1, *(phase.taps for phase in width.phases))
    phases = []
    for phase in width.phases:
        taps = [w[:, phase.first + m * width.stride] for m in reversed(range(phase.taps))]
        phases.append(jnp.concatenate([*taps, *[jnp.zeros_like(w[:, 0])] * (most - phase.taps)], axis=-1))
    return jnp.stack(phases, axis=1)


def _keeps_float32(precision: Any) -> bool:
    """Whether float32 operands keep all their bits and are not rounded to bfloat16, the TPU's default."""
    both: Sequence[Any] = precision if isinstance(precision, tuple) else (precision,)
    return any(one not in (None, lax.Precision.DEFAULT, "default", "fastest", "bfloat16") for one in both)
