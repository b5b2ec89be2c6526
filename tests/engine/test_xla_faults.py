"""Known faults of XLA on a CPU: no program of ours may hit them (their list: proof/faults.py)."""

import pathlib
import re

import jax
import numpy as np
import pytest
from cases import RUN_HERE, Case, cases, refuses
from hypothesis import given
from proof import faults

from jdeconv import _settings

ROOT = pathlib.Path(__file__).parents[2]
CONVOLUTION = re.compile(r"stablehlo\.convolution\(.*pad = \[(.*?)\]\](.*)")
PRODUCT = re.compile(r"(%\S+) = stablehlo\.multiply .*: tensor<((?:\d+x)+)")
SUMMED = re.compile(r"stablehlo\.reduce\((%\S+) init")


def lowered(case, method):
    """The program of the result and both gradients, by XLA alone."""
    f = case.function(method)

    def all_three(x, w, y):
        out, pull = jax.vjp(f, x, w)
        return out, *pull(y)

    x, w, y = case.arrays()
    with _settings.onednn(False):
        return jax.jit(all_three).lower(case.to_format(x), w, case.to_format(y)).as_text()


def pads_negatively(text):
    """Whether a convolution without input dilation has a low pad below 0."""
    for pads, rest in CONVOLUTION.findall(text):
        lows = [int(low) for low in re.findall(r"\[(-?\d+),", pads)]
        dilated = re.search(r"lhs_dilate = \[(.*?)\]", rest)
        if min(lows, default=0) < 0 and not (dilated and set(dilated[1].split(", ")) != {"1"}):
            return True
    return False


def sums_of_products(text):
    """The most dimensions of a product that is summed."""
    products = dict(PRODUCT.findall(text))
    return max((products.get(name, "").count("x") for name in SUMMED.findall(text)), default=0)


@pytest.mark.parametrize("method", RUN_HERE)
@given(case=cases(dtypes=("float32",)))
def test_no_convolution_pads_negatively(method, case):
    if not refuses(method, case):
        assert not pads_negatively(lowered(case, method)), case


@pytest.mark.parametrize("method", RUN_HERE)
@given(case=cases(dtypes=("float32",)))
def test_no_product_of_seven_dimensions_is_summed(method, case):
    if not refuses(method, case):
        assert sums_of_products(lowered(case, method)) < 7, case


def test_the_programs_are_read_as_they_are_written():
    def pads(low, dilation):
        x, w = np.ones((1, 6, 6, 2), "float32"), np.ones((2, 2, 2, 3), "float32")
        given = dict(lhs_dilation=(dilation, 1), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        f = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), ((0, 0), (low, 1)), **given))
        return f.lower(x, w).as_text()

    assert [pads_negatively(pads(*given)) for given in ((-1, 1), (-1, 2), (0, 1))] == [True, False, False]
    summed = jax.jit(lambda x: (x * x[:, :1]).sum(1)).lower(np.ones((2,) * 7, "float32")).as_text()
    assert sums_of_products(summed) == 7


def test_no_product_of_matrices_is_onednns():
    case = Case(2, (8, 8), (3, 3), (2, 2), (1, 1), "SAME", (16, 16), 1, 32, 32)
    x, w, _ = case.arrays()
    text = jax.jit(case.function("gemm")).lower(x, w).compile().as_text()
    assert " dot(" in text or "__onednn$convolution" in text
    assert "__onednn$matmul" not in text


@pytest.mark.parametrize("fault", faults.XLA, ids=lambda fault: fault.what)
def test_every_known_fault_is_watched(fault):
    for name in fault.watched:
        path, _, test = name.partition("::")
        assert not test or f"def {test}(" in (ROOT / path).read_text()
        assert (ROOT / path).exists()
