"""Blocks of taps and of outputs: there and back is the identity, and stride 1 over blocks is the definition."""

import dataclasses
import math
import operator

import jax
import numpy as np
import oracle
from cases import Case, cases
from hypothesis import given

from jdeconv._formulations.blocks import (
    kernel_from_blocks,
    kernel_to_blocks,
    output_from_blocks,
    output_to_blocks,
    without_gaps,
)
from jdeconv._phase_geometry import block_geometry


@given(case=cases(dtypes=("float32",)))
def test_there_and_back(case):
    geometry = case.geometry
    _, w, y = case.arrays()
    w = w.reshape(*w.shape[:-1], case.groups, -1)
    y = y.reshape(*y.shape[:-1], case.groups, -1)
    there_and_back = jax.jit(
        lambda w, y: (
            kernel_from_blocks(kernel_to_blocks(w, geometry), geometry),
            output_from_blocks(output_to_blocks(y, geometry), geometry),
        )
    )
    kernel, back = there_and_back(w, y)
    np.testing.assert_array_equal(kernel, w)
    ones = dataclasses.replace(case, groups=1, group_inputs=1, group_outputs=1)
    reached = oracle.transpose_conv(ones, *(np.ones(array.shape) for array in ones.arrays()[:2])) != 0
    np.testing.assert_array_equal(back * reached[..., None], y * reached[..., None])


@given(case=cases(dtypes=("int32",), most_groups=1))
def test_stride_one_over_blocks_is_the_definition(case):
    geometry = case.geometry
    blocks = block_geometry(geometry)
    assert blocks.strides == (1,) * case.rank
    x, w, _ = case.arrays()
    w_blocks = jax.jit(lambda w: kernel_to_blocks(w, geometry))(w[..., None, :])[..., 0, :]
    # Explicit padding says any low; what it says of high follows from the sizes.
    padding = tuple(zip(blocks.low, blocks.high, strict=True))
    channels = 1, case.group_inputs, math.prod(geometry.phases) * case.group_outputs
    steps = blocks.strides, blocks.dilations
    in_blocks = Case(case.batch, case.in_sizes, blocks.kernel, *steps, padding, blocks.output, *channels)
    y = oracle.transpose_conv(in_blocks, x, np.asarray(w_blocks))
    y = jax.jit(lambda y: output_from_blocks(y, geometry))(y[..., None, :])[..., 0, :]
    np.testing.assert_array_equal(y, oracle.transpose_conv(case, x, w))


@given(case=cases(dtypes=("float32",), most_groups=1))
def test_without_gaps_no_stride_is_beyond_the_kernel_and_the_input_gradient_is_the_same(case):
    _, w, y = case.arrays()
    y, reached = without_gaps(jax.numpy.asarray(y[..., None, :]), case.geometry)
    assert all(map(operator.ge, reached.extent, reached.strides))
    assert reached.output == y.shape[1:-2]
    padding = tuple(zip(reached.low, reached.high, strict=True))
    alone = dataclasses.replace(case, strides=reached.strides, padding=padding, out_sizes=reached.output)
    found, want = oracle.input_grad(alone, w, np.asarray(y[..., 0, :])), oracle.input_grad(case, w, case.arrays()[2])
    np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)
