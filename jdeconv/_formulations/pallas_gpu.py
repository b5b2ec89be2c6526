"""For NVIDIA GPUs: one matrix product that reads input and kernel where they lie. No array is padded, dilated,
interleaved or cut.

In blocks (see `_phase_geometry`) the operator has stride 1: a row of the product is a block of outputs, a column a
phase and an output channel, and the sum runs over blocks of taps and input channels:

    y[block*s + phase - low, o] = sum over taps j and channels i of x[block - j, i] * w[j*s + phase, o, i]

A program computes one tile. It reads the input that its taps reach (zero beyond the ends) and writes each element to
its place in the output (nothing beyond the ends).

Of Pallas's two GPU compilers this uses Triton: from JAX 0.10 on it compiles every case, uses an H100's tensor cores,
and serves older GPUs too. JAX 0.12 deprecates it for Mosaic GPU, which needs Hopper or later, and copies only rows of a
multiple of 16 bytes: not 21 channels of bfloat16, and not 3.
"""

import functools
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from .._engine.engine import Engine
from .._geometry import Geometry
from .._jax_compat import Primitive, ShapedArray, lower_fun, register_lowering
from .._jax_operations import jnp, lax
from .._phase_geometry import block_geometry
from .._plan.gpu_tiles import Product, Tile, tile_for


def transpose_conv(
    x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine, tile: Tile | None = None, interpret: bool = False
) -> jax.Array:
    """x `(n, *in, i)`, w `(*k, o, i)` -> `(n, *out, o)`; tests give `tile` and `interpret`."""
    # Of two precisions XLA takes the higher one, Triton the lower.
    highest = isinstance(engine.precision, tuple) and lax.Precision.HIGHEST in engine.precision
    product = product_of(geometry, x.shape[0], x.shape[-1], w.shape[-2], x.dtype.itemsize)
    compute = _call if interpret else triton_call_p.bind
    return compute(
        x, w, geometry=geometry, product=product, tile=tile or tile_for(product), dtype=engine.dtype,
        precision=lax.Precision.HIGHEST if highest else engine.precision, interpret=interpret,
    )  # fmt: skip


def product_of(geometry: Geometry, batch: int, inputs: int, outputs: int, itemsize: int) -> Product:
    """The sizes of the whole product."""
    blocks = block_geometry(geometry)
    return Product(
        rows=batch * math.prod(blocks.output),
        phases=math.prod(geometry.strides),
        outputs=outputs,
        taps=math.prod(blocks.kernel),
        inputs=inputs,
        itemsize=itemsize,
        # Otherwise phases differ in taps, and a zero for a missing tap would make infinite inputs undefined.
        fused=all(k % s == 0 for k, s in zip(geometry.kernel, geometry.strides, strict=True)),
    )


def _call(
    x: jax.Array, w: jax.Array, *, geometry: Geometry, product: Product, tile: Tile, dtype: Any, precision: Any,
    interpret: bool,
) -> jax.Array:  # fmt: skip
    compute = pl.pallas_call(
        functools.partial(_program, geometry=geometry, product=product, tile=tile, precision=precision),
        out_shape=jax.ShapeDtypeStruct((x.shape[0], *geometry.output, product.outputs), dtype),
        grid=(math.prod(tile.grid(product)),),
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
        name="transposed_convolution",
    )
    return compute(x, w)


def _without_warning(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hides JAX 0.12's warning that Triton is deprecated: it is for us, not for our users."""

    def call(*operands: Any, **parameters: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The Pallas Triton backend", DeprecationWarning)
            return function(*operands, **parameters)

    return call


# Lowering the call warns. This primitive exists so that its own lowering can hide that.
triton_call_p = Primitive("transposed_convolution_by_triton")
triton_call_p.def_impl(_without_warning(_call))
register_lowering(triton_call_p, _without_warning(lower_fun(_call, multiple_results=False)))


@triton_call_p.def_abstract_eval
def _abstract(x: Any, w: Any, *, geometry: Geometry, dtype: Any, **parameters: Any) -> Any:
    return ShapedArray((x.shape[0], *geometry.output, w.shape[-2]), dtype)


def _program(
    x_ref: Any, w_ref: Any, y_ref: Any, *, geometry: Geometry, product: Product, tile: Tile, precision: Any
) -> None:
    """One tile of the product."""
    blocks, strides = block_geometry(geometry), geometry.strides
    row_tile, phase_tile, output_tile = _digits(pl.program_id(0), tile.grid(product))
    (row,) = _indices([row_tile], [tile.rows])
    phase, output = _indices([phase_tile, output_tile], [tile.phases, tile.outputs])
    example, *block = _digits(row, (x_ref.shape[0], *blocks.output))
    phase_in = _digits(phase, strides)
    is_row, is_column = _as_column(row) < product.rows, (phase < product.phases) & (output < product.outputs)
    # The taps of the tile's phases. Where phases differ in taps, a tile has one phase.
    taps = [
        j if k % s == 0 else _quotient(k - r + s - 1, s)
        for j, k, s, r in zip(blocks.kernel, geometry.kernel, strides, phase_in, strict=True)
    ]
    chunks = pl.cdiv(product.inputs, tile.inputs)

    def add(step: jax.Array, sums: jax.Array) -> jax.Array:
        tap, input = _indices(_digits(step, (None, chunks)), [tile.taps, tile.inputs])
        tap_in = _digits(tap, taps)
        is_term = _as_row((tap < math.prod(taps)) & (input < product.inputs))
        places = [_as_column(b) + low - _as_row(j) for b, low, j in zip(block, blocks.low, tap_in, strict=True)]
        is_input = [(p >= 0) & (p < size) for p, size in zip(places, geometry.input, strict=True)]
        x = _read(x_ref, (_as_column(example), *places, _as_row(input)), [is_row, is_term, *is_input])
        ts = [_as_row(j) * s + _as_column(r) for j, s, r in zip(tap_in, strides, phase_in, strict=True)]
        w = _read(w_ref, (*ts, _as_column(output), _as_row(input)), [_as_column(is_column), is_term])
        by_term = (((1,), (1,)), ((), ()))
        return sums + lax.dot_general(x, w, by_term, precision=precision, preferred_element_type=jnp.float32)

    steps = _quotient(jnp.int32(math.prod(taps)) + (tile.taps - 1), tile.taps) * chunks
    sums = lax.fori_loop(jnp.int32(0), steps, add, jnp.zeros((tile.rows, tile.columns), jnp.float32))

    sizes = zip(block, strides, phase_in, geometry.low, strict=True)
    places = [_as_column(b) * s + _as_row(r) - low % s for b, s, r, low in sizes]
    is_output = [(p >= 0) & (p < size) for p, size in zip(places, geometry.output, strict=True)]
    mask = functools.reduce(operator.and_, [is_row, _as_row(is_column), *is_output])
    # An interpreted store writes old values where its mask is False: they go beyond the end, to overwrite nothing.
    channel = jnp.where(mask, _as_row(output), product.outputs)
    triton.store(y_ref.at[(_as_column(example), *places, channel)], sums.astype(y_ref.dtype), mask=mask)


def _digits(number: jax.Array, sizes: Sequence[Any]) -> list[jax.Array]:
    """The number's digits in bases `sizes`, the lowest digit last; the first digit may exceed its base."""
    digits: list[jax.Array] = []
    for size in reversed(sizes[1:]):
        digits.insert(0, lax.rem(number, lax.full_like(number, size)))
        number = _quotient(number, size)
    return [number, *digits]


def _quotient(number: jax.Array, size: Any) -> jax.Array:
    """The quotient of a number >= 0. Python's operator also handles negative ones, and gives Triton more to compile."""
    return lax.div(number, lax.full_like(number, size))


def _indices(tiles: Sequence[jax.Array], sizes: Sequence[int]) -> list[jax.Array]:
    """The indices of each element along an axis that tiles of these sizes share; a scalar where a size is 1."""
    within = _digits(lax.iota(np.int32, math.prod(sizes)), sizes)
    return [tile * size + offset if size > 1 else tile for tile, size, offset in zip(tiles, sizes, within, strict=True)]


def _as_column(index: jax.Array) -> jax.Array:
    return index[:, None] if index.ndim else index


def _as_row(index: jax.Array) -> jax.Array:
    return index[None, :] if index.ndim else index


def _read(ref: Any, indices: tuple[jax.Array, ...], where: Sequence[jax.Array]) -> jax.Array:
    """Reads `ref`, and selects zero where a condition doesn't hold, whatever lies there."""
    value: jax.Array = triton.load(ref.at[indices], mask=functools.reduce(operator.and_, where), other=0)
    return value
