"""The TPU's formulations against the definition, and against lax by what the TPU compiler estimates.

The compiler is libtpu, which needs no TPU. Absent, its tests are skipped, unless JDECONV_TPU_AOT=1, where that is an
error. JDECONV_TPU_AOT=all compiles the Pallas kernel of every case for every chip, and not for one in turn.
"""

import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import programs
import pytest
from calls import computed
from cases import cases
from hypothesis import assume, given, settings

import jdeconv
from benchmarks.ahead_of_time import tpu_pallas, tpu_program
from benchmarks.ahead_of_time.tpu_cycles import cycles
from benchmarks.work import cases as benchmark
from jdeconv._formulations import METHODS
from jdeconv._geometry import crop
from jdeconv._plan import choose as planning
from jdeconv._plan.engine_kind import XLA
from jdeconv._plan.problem import Problem


@pytest.mark.parametrize("method", ["lax", "gemm"])  # those that have programs of their own there
@settings(max_examples=max(settings().max_examples // 2, 1))
@given(case=cases(dtypes=("float32", "bfloat16")))
def test_what_a_tpu_is_given_equals_the_definition(method, case):
    geometry, formulation = case.geometry, METHODS[method]
    negative = any(pad < 0 for pad in (*geometry.low, *geometry.high))
    # jaxlib 0.10 reads out of bounds on CPU, where this runs, and not on TPU.
    assume(not (negative and jax.__version_info__ < (0, 12)) and not geometry.empty)
    channels = case.groups, case.group_inputs, case.group_outputs
    problems = [Problem(geometry, role, case.batch, *channels, case.dtype) for role in ("output", "input", "kernel")]
    assume(not any(map(formulation.supports, problems)))

    @jax.jit
    def solved(x, w, y):
        x, w, y = (v.reshape(*v.shape[:-1], case.groups, -1) for v in (x, w, y))
        return (
            computed("tpu", "output", x, w, geometry, method),
            computed("tpu", "input", w, y, geometry, method),
            computed("tpu", "kernel", x, y, geometry, method),
        )

    found = [np.asarray(v.astype(case.dtype)) for v in solved(*case.arrays())]
    case.check([v.reshape(*v.shape[:-2], -1) for v in found])


def test_one_tap_that_reaches_past_a_pad():
    """Negative low pads, which TensorFlow's arguments can't ask for: tap 0 of position p is output 2p + 1."""
    geometry = crop((4, 3), (1, 1), (2, 2), (1, 1), [(-1, -1)] * 2)
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(s).astype("float32") for s in ((2, 4, 3, 1, 16), (1, 1, 5, 1, 16), (2, 9, 7, 1, 5)))
    reached = y[:, 1::2, 1::2]
    np.testing.assert_allclose(computed("tpu", "input", w, y, geometry, "gemm"),
                               np.einsum("nhwgo,ogi->nhwgi", reached, w[0, 0]), rtol=1e-4, atol=1e-4)  # fmt: skip
    np.testing.assert_allclose(computed("tpu", "kernel", x, y, geometry, "gemm")[0, 0],
                               np.einsum("nhwgo,nhwgi->ogi", reached, x), rtol=1e-4, atol=1e-4)  # fmt: skip


NOT_WORSE = 1.02
TABLE = [  # at most so many times lax's cycles
    (benchmark.cube("one tap", 2, 36, (9, 143), 1, 6), "output", 0.5),
    (benchmark.cube("one tap", 2, 36, (9, 143), 1, 6), "input", 0.5),
    (benchmark.cube("one tap", 2, 36, (9, 143), 1, 6), "kernel", 0.5),
    (benchmark.cube("kernel is stride", 4, 32, (256, 128), 2, 2), "output", NOT_WORSE),
    (benchmark.cube("kernel is stride", 4, 32, (256, 128), 2, 2), "input", NOT_WORSE),
    (benchmark.cube("thin", 1, 128, (128, 64), 2, 2), "kernel", 0.5),
    (benchmark.cube("to one", 2, 64, (56, 1), 9, 3), "output", 0.5),
    (benchmark.cube("to one", 2, 64, (56, 1), 9, 3), "kernel", 0.9),
    (benchmark.cube("large", 1, 32, (21, 21), 16, 8), "output", 0.9),
    (benchmark.cube("depthwise", 1, 32, (21, 21), 16, 8, groups=21), "kernel", 0.5),
    *((benchmark.cube("lax is best", 8, 16, (256, 128), 5, 2), result, NOT_WORSE) for result in tpu_program.RESULTS),
    (benchmark.cube("one image", 1, 16, (93, 14), 5, 3), "kernel", NOT_WORSE),
    (benchmark.cube("swapped", 16, 8, (512, 256), 4, 2), "kernel", 0.9),
]

KERNEL_OR_NOT = [
    (benchmark.cube("fills the chip", 16, 32, (128, 64), 4, 2), "pallas"),
    (benchmark.cube("parts of a line", 2, 4000, (64, 64), 10, 5, rank=1), "pallas"),
    (benchmark.cube("one tap", 4, 92, (403, 119), 1, 4), "gemm"),  # 645 thousand cycles; kernel 2224
    (benchmark.cube("unstrided", 8, 103, (107, 120), 7, 1), "lax"),
    (benchmark.cube("small, lanes not filled", 3, 10, (91, 111), 4, 2), "lax"),
    (benchmark.cube("few channels", 1, 512, (32, 16), 4, 2), "lax"),
]


@pytest.mark.parametrize(("case", "method"), KERNEL_OR_NOT, ids=lambda value: getattr(value, "name", value))
def test_auto_takes_the_kernel_only_where_it_wins(case, method):
    problem = tpu_program.problem_of(case, "output", "bfloat16")
    assert planning.choose("tpu", XLA, problem, "auto", METHODS).method == method


# JAX compiles ahead of time for a TPU from 0.12 on, with the libtpu of its time.
HERE = importlib.util.find_spec("libtpu") is not None and jax.__version_info__ >= (0, 12)
REQUIRED = os.environ.get("JDECONV_TPU_AOT") in ("1", "all")
aot = pytest.mark.skipif(
    not HERE and not REQUIRED, reason="no TPU compiler (pip install 'jdeconv[tpu-aot]', with JAX 0.12)"
)


def estimated(case, method, result):
    return cycles(tpu_program.compiled(case, method, result, "bfloat16", "v5e:2x2"), "v5e").total


@aot
@pytest.mark.parametrize(("case", "result", "at_most"), TABLE, ids=lambda value: getattr(value, "name", value))
def test_auto_takes_no_more_estimated_cycles_than_lax(case, result, at_most):
    assert estimated(case, "auto", result) <= at_most * estimated(case, tpu_program.LAX, result)


# The same operations in another order: the kernel's reversal, and the reshapes that groups need.
REORDERED = [("depthwise", "input gradient"), ("grouped", "input gradient")]
ORDINARY = [*itertools.product(programs.CALLS, programs.PASSES)]


def ordinary(name, pass_):
    """The programs of jdeconv and of lax."""
    return [
        programs.traced(f, programs.CALLS[name], pass_, tpu_program.topology("v5e:2x2")).lower().compile().as_text()
        for f in (jdeconv.lax.conv_general_dilated, jax.lax.conv_general_dilated)
    ]


@aot
@pytest.mark.parametrize(("name", "pass_"), [pair for pair in ORDINARY if pair not in REORDERED])
def test_an_ordinary_convolution_is_the_program_of_lax(name, pass_):
    ours, theirs = map(programs.normalised, ordinary(name, pass_))
    assert ours == theirs


@aot
@pytest.mark.parametrize(("name", "pass_"), REORDERED)
def test_an_ordinary_grouped_gradient_takes_no_more_estimated_cycles_than_lax(name, pass_):
    ours, theirs = (cycles(text, "v5e").total for text in ordinary(name, pass_))
    assert ours <= NOT_WORSE * theirs


NAMED = (*benchmark.CASES, benchmark.GROWTH[-1])  # the last is cut in height and width
KERNELS = [(c, dtype) for c in NAMED for dtype in ("bfloat16", "float32") if not tpu_pallas.refusal(c, dtype)]
CHIPS = tuple(tpu_program.CHIPS)
COMPILED = [
    (case, dtype, chip)
    for number, (case, dtype) in enumerate(KERNELS)
    for chip in (CHIPS if os.environ.get("JDECONV_TPU_AOT") == "all" else CHIPS[number % 3 : number % 3 + 1])
]


@aot
@pytest.mark.parametrize(("case", "dtype", "chip"), COMPILED, ids=lambda value: getattr(value, "name", value))
def test_the_kernel_compiles(case, dtype, chip):
    assert 'custom_call_target="tpu_custom_call"' in tpu_program.compiled(case, "pallas", "output", dtype, chip)


@aot
def test_auto_takes_the_kernel_where_its_schedule_is_shorter_and_moves_little(tmp_path):
    """In a process of its own, since the compiler must be told at its start to write schedules down."""
    command = [sys.executable, "-m", "benchmarks", "tpu-pallas", "--cases", "dcgan32", "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=pathlib.Path(__file__).parents[2], capture_output=True)
    (row,) = json.loads((tmp_path / "tpu-pallas.json").read_text())["rows"]
    assert row["kernel"] > 16 * 32 * 32 * 16 * 128 * 64 / (4 * 128 * 128)  # what four full units of 128x128 take
    assert row["kernel"] + row["outside"] < 0.5 * min(row["lax"], row["other_cycles"])
    assert row["kernel_bytes"] <= 1.1
    assert row["phase_bytes"] >= 2
