"""What is read from a compiled TPU program, and the tables made of it. No TPU and no compiler for one."""

import math
import os
import sys
import time

import pytest

from benchmarks.ahead_of_time import tpu_estimate, tpu_pallas, tpu_program
from benchmarks.ahead_of_time.aside import Aside, Stopped
from benchmarks.ahead_of_time.tpu_bundles import issue_cycles
from benchmarks.ahead_of_time.tpu_cycles import Cycles, cycles, tiled_bytes
from benchmarks.ahead_of_time.tpu_estimate import Estimate
from benchmarks.work import cases

LARGE = "f32[64,8,128]{2,1,0:T(8,128)}"  # 64 tiles, 262144 bytes
SMALL = "f32[1,8,128]{2,1,0:T(8,128)}"  # 4096 bytes


def program(*instructions, called=""):
    body = "\n".join(
        f"  {line}" for line in (f"%x = {LARGE} parameter(0)", f"%w = {SMALL} parameter(1)", *instructions)
    )
    return f"HloModule m, is_scheduled=true\n\n{called}ENTRY %main (x: f32[64,8,128]) -> f32[1] {{\n{body}\n}}\n"


def priced(cycles):
    return f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'


FUSED = f"""%inside (p: f32[64,8,128]) -> f32[64,8,128] {{
  %p = {LARGE} parameter(0)
  ROOT %cut = {LARGE} slice(%p), slice={{[0:64], [0:8], [0:128]}}, {priced(7)}
}}

"""


@pytest.mark.parametrize(
    ("text", "priced", "charged"),
    [
        # what the compiler prices, it prices
        (program(f"ROOT %f = {LARGE} fusion(%x), kind=kLoop, calls=%inside, {priced(900)}", called=FUSED), 900, 0),
        (program(f"ROOT %c = {LARGE} copy(%x), {priced(900)}"), 900, 0),
        # at least a cycle for 1024 bytes written
        (program(f"ROOT %c = {LARGE} copy(%x), {priced(20)}"), 20, 256 - 20),
        # else what is read and written, at 300 bytes a cycle
        (program(f"ROOT %r = {LARGE} reverse(%x), dimensions={{0}}"), 0, 1748),
        (program(f"ROOT %r = {LARGE} pad(%w, %w), padding=0_63x0_0x0_0"), 0, 902),
        (program(f"ROOT %c = {LARGE} concatenate(%w, %x), dimensions={{0}}, metadata={{}}"), 0, 1762),
        # a slice reads what it writes, a bitcast and an asynchronous copy nothing
        (program(f"ROOT %s = {SMALL} slice(%x), slice={{[0:1], [0:8], [0:128]}}"), 0, 28),
        (program(f"%b = {LARGE} bitcast(%x)", f"%s = ({LARGE}, {LARGE}, u32[]) copy-start(%b)"), 0, 0),
        (program(f"%t = ({SMALL}, {SMALL}) fusion(%x), calls=%inside, {priced(5)}", called=FUSED), 5, 0),
    ],
)
def test_movement_outside_fusions_is_charged(text, priced, charged):
    assert cycles(text, "v5e") == Cycles(priced, charged)


def test_a_faster_memory_makes_the_charge_smaller():
    text = program(f"ROOT %r = {LARGE} reverse(%x), dimensions={{0}}")
    assert cycles(text, "v6e").charged == 1311
    assert cycles(text, "v6e").total == 1311


@pytest.mark.parametrize(
    ("type_", "size"),
    [
        ("bf16[16,17,17,3]{3,0,2,1:T(8,128)(2,1)S(1)}", 17 * 17 * 16 * 128 * 2),  # batch and channels are minor
        ("bf16[4,5,6]{2,1,0}", 4 * 5 * 6 * 2),
        ("f32[300]{0:T(256)}", 512 * 4),
        ("pred[]{:T(256)}", 256),
        ("(s8[9,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)})", 2 * 8 * 128 + 8 * 128 * 4),
    ],
)
def test_arrays_are_filled_up_to_tiles(type_, size):
    assert tiled_bytes(type_) == size


CASE = cases.cube("one", 1, 4, (2, 3), 2, 2)
FOUND = [
    Estimate("one", tpu_program.LAX, "output", 4000, 0),
    Estimate("one", "auto", "output", 1000, 10),
    Estimate("two", tpu_program.LAX, "output", 1000, 0),
    Estimate("two", "auto", "output", 1100, 0),
    Estimate("two", "taps", "output", None, reason="too many"),
]


def test_tables():
    assert tpu_estimate.ratios(FOUND, "auto", "output") == {"one": 0.25, "two": 1.1}
    assert tpu_estimate.summary(FOUND, ["auto", "taps"]).splitlines()[2] == (
        "| auto: output    |           0.52 |  1.10 | two |          1 |     2 |"
    )
    text = tpu_estimate.markdown("v5e:2x2, bfloat16", FOUND, {"Cases": [CASE]}, ["auto", "taps"])
    assert "| one: 1, 4², 2→3, k 2, s 2 |               4.00 | 1.00 (0.25x) |    - |" in text
    assert text.endswith("- two, taps, output: too many\n")


def test_what_would_take_minutes_is_not_compiled():
    wide = cases.cube("wide", 1, 8, (4, 4), 9, 7)
    assert tpu_program.refusal(wide, "phase", "output") == "49 operations; expected at most 40"
    assert tpu_program.refusal(wide, "phase", "kernel") is None
    assert tpu_program.refusal(cases.cube("deep", 1, 8, (4, 4), 9, 2, rank=3), "auto", "output") == (
        "729 taps in 3-D; expected at most 150"
    )


def test_a_program_that_the_compiler_aborts_on_ends_no_other():
    aside = Aside(30)
    assert aside(math.sqrt, 4) == 2
    with pytest.raises(Stopped, match=r"^aborted after [0-9]+ s$"):
        aside(os.abort)
    assert aside(math.sqrt, 9) == 3
    process = aside._process
    with pytest.raises(Stopped, match=r"^raised ValueError: "):  # an exception is none of the compiler's aborts
        aside(math.sqrt, -1)
    with pytest.raises(Stopped, match=r"^raised RuntimeError: one$"):
        aside(exec, "raise RuntimeError('one\\ntwo')")
    assert aside(math.sqrt, 16) == 4
    assert aside._process is process
    process.kill()
    process.join()
    with pytest.raises(Stopped, match=r"^aborted after 0 s$"):
        aside(math.sqrt, 4)
    aside.close()
    with pytest.raises(Stopped, match=r"^stopped after 1 s$"):
        Aside(1)(time.sleep, 60)


def test_what_is_not_compiled_is_listed():
    def compiled(case, method, result, dtype, topology):
        if (method, result) == (tpu_program.LAX, "kernel"):
            raise Stopped("aborted after 7 s")
        asked.append((method, result))
        return program(f"ROOT %f = {LARGE} fusion(%x), kind=kLoop, calls=%inside, {priced(900)}", called=FUSED)

    asked = []
    case = cases.cube("k5s2", 8, 16, (256, 128), 5, 2)
    found = list(tpu_estimate.estimates(case, (tpu_program.LAX, "auto"), "bfloat16", "v5e:2x2", compiled))
    assert Estimate("k5s2", tpu_program.LAX, "kernel", None, reason="the compiler aborted after 7 s") in found
    # jdeconv's output and input gradient are lax's own programs, not compiled again
    assert asked == [(tpu_program.LAX, "output"), (tpu_program.LAX, "input"), ("auto", "kernel")]
    assert Estimate("k5s2", "auto", "sum", 2700, 0) in found
    assert tpu_estimate.ratios(found, "auto", "kernel") == {}


@pytest.mark.parametrize(
    ("case", "own"),
    [
        (cases.cube("chosen", 8, 16, (256, 128), 5, 2), "output input"),  # the kernel gradient with swapped roles
        (cases.cube("one image", 1, 16, (256, 128), 5, 2), "output input kernel"),
        (cases.cube("one tap", 16, 8, (4, 128), 1, 5, rank=1), "output"),
        (cases.cube("groups", 8, 16, (256, 128), 5, 2, groups=2), ""),
        (cases.cube("kernel is stride", 4, 32, (512, 256), 2, 2), ""),
    ],
)
def test_whose_program_is_that_of_lax(case, own):
    assert " ".join(result for result in tpu_program.RESULTS if tpu_program.as_lax(case, result, "bfloat16")) == own


def test_without_the_compiler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    tpu_program.topology.cache_clear()
    assert tpu_estimate.main([]) == 2
    assert "pip install 'jdeconv[tpu-aot]'" in capsys.readouterr().out


SCHEDULE = """
     0   :  { %1 = nop }
   0x2 LB: > { %2 = nop }
   0x3   : > { %3 = nop }
   0x4 LB: >> { %4 = nop }
   0x5   : >> { %p = scmp.ge.s32.totalorder %s254_s8, 18 /* loop exit test */ }
   0x6 LB: >> { %p = scmp.ge.s32.totalorder %s200_s8, 4 /* loop exit test */ }
   0x7 PF: > { %p = scmp.ge.s32.totalorder %s19_s19, 34 /* loop exit test */ }
   0x8   :  { %1 = nop }
"""


def test_bundles_count_as_often_as_their_loops_turn():
    assert issue_cycles(SCHEDULE) == 2 + 32 * (3 + 2 * 18 + 4)


def test_bytes_that_the_kernel_moves():
    once = cases.cube("once", 16, 32, (128, 64), 4, 2)
    wide = cases.cube("in parts", 16, 8, (1024, 1024), 4, 2)
    assert tpu_pallas.kernel_bytes(tpu_program.problem_of(once, "output", "bfloat16")) == 1
    assert tpu_pallas.kernel_bytes(tpu_program.problem_of(wide, "output", "bfloat16")) > 1
    assert tpu_program.without_kernel(tpu_program.problem_of(once, "output", "bfloat16")).method == "lax"
    assert tpu_pallas.refusal(cases.cube("deep", 1, 8, (4, 4), 3, 2, rank=3), "bfloat16") == (
        "3 spatial dimensions; expected 1 or 2"
    )


def test_the_table_of_the_kernel():
    row = tpu_pallas.Row("one", "1, 4², 2→3, k 2, s 2", 4000, "gemm", 3000, 900, 100, 1.0, None)
    text = tpu_pallas.markdown("v5e:2x2, bfloat16", [row], [("two", "too many")])
    line = next(line for line in text.splitlines() if line.startswith("| one"))
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        "4.00",
        "gemm 3.00",
        "0.90",
        "0.10",
        "0.25",
        "1.00",
        "-",
    ]
    assert text.endswith("- two: too many\n")
