"""A `Tuning` as a value: look-ups, merging, printing, files; and what the planner makes of its entries."""

import concurrent.futures
import dataclasses
import json
import os
import subprocess
import sys

import pytest
from tunings import BLOCKS, TAPS, W, X, entry, operation, other_engine, program, tuning

import jdeconv
from jdeconv import Tuning
from jdeconv._engine.device import device_kind, threads
from jdeconv._engine.engine import cpu_engine_kind
from jdeconv._formulations import METHODS
from jdeconv._geometry import build
from jdeconv._operator import planned as planning
from jdeconv._operator.planned import planned
from jdeconv._plan.candidates import candidates
from jdeconv._plan.choose import AUTO, Choice, choose
from jdeconv._plan.engine_kind import XLA, EngineKind
from jdeconv._plan.problem import Problem
from jdeconv._plan.ways import calls_engine

ONEDNN = EngineKind(onednn=True)


@pytest.fixture(autouse=True)
def nothing_said_before(monkeypatch):
    monkeypatch.setattr(planning._said, "_flag", True)


def up(x, w):
    return jdeconv.conv2d_transpose(x, w, None, 2)


# The value.


def test_a_look_up_asks_for_device_jaxlib_and_operation():
    found = tuning(entry(), entry(BLOCKS, precision="highest"))
    here, jaxlib = device_kind("cpu"), planning.JAXLIB
    assert found.find(here, jaxlib, operation()).method == "taps"
    assert found.find(here, jaxlib, operation(precision="highest")).method == "gemm"
    for other in (operation("input"), operation(dtype="bfloat16"), operation(batch=3)):
        assert found.find(here, jaxlib, other) is None
    assert found.find("cpu: another", jaxlib, operation()) is None
    assert found.find(here, "0.1", operation()) is None


def test_merging_prefers_the_second():
    a, b = tuning(entry(TAPS), entry(TAPS, result="input"), left_out=["x"]), tuning(entry(BLOCKS), left_out=["y"])
    assert {e.operation.problem.result: e.best for e in (a | b).entries} == {"output": BLOCKS, "input": TAPS}
    assert {e.operation.problem.result: e.best for e in (b | a).entries} == {"output": TAPS, "input": TAPS}
    assert (a | b).left_out == ("x", "y")
    with pytest.raises(TypeError):
        a | {}


def test_tunings_are_equal_that_choose_alike():
    assert tuning(entry(ms=(2, 1))) == tuning(entry(ms=(9, 3)))
    assert hash(tuning(entry(ms=(2, 1)))) == hash(tuning(entry(ms=(9, 3))))
    assert tuning(entry(TAPS)) != tuning(entry(BLOCKS))


def test_gain_is_of_total_times():
    assert tuning(entry(ms=(4.0, 1.0)), entry(ms=(6.0, 4.0), result="input")).gain == 10 / 5
    assert Tuning().gain == 1


def test_the_table_has_all_times():
    text = str(tuning(entry(ms=(2.5, 1.25)), left_out=["output n, 4: symbolic sizes"]))
    for part in ("output 2, 5x6 to 10x12, 8 to 6, k 3x3, s 2x2, float32", "lax: plain", "2.5 ms", "taps: windows",
                 "1.25 ms", "2.00", "gemm: blocks (wrong: it differs from lax)", device_kind("cpu"),
                 "left out: output n, 4: symbolic sizes"):  # fmt: skip
        assert part in text, part


def test_the_kind_of_a_cpu_has_its_threads(monkeypatch):
    assert device_kind("cpu").endswith(f", {threads()} threads")
    monkeypatch.setenv("NPROC", "3")
    assert threads() == 3


# Files.


def test_a_file_holds_it_all(tmp_path):
    odd = Choice("gone", "by magic", EngineKind(True, True, True), None)
    saved = tuning(entry(), entry(odd, device="gpu: H9", jaxlib="9.9", result="kernel"), left_out=["a: symbolic sizes"])
    saved.save(tmp_path / "a.json")
    loaded = Tuning.load(str(tmp_path / "a.json"))
    assert isinstance(loaded, Tuning)
    assert (loaded.entries, loaded.left_out, str(loaded)) == (saved.entries, saved.left_out, str(saved))
    assert loaded == saved


def damaged(path, value):
    """The content of a good file with something else at one place."""

    def change(content):
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if value is KeyError:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return content

    return change


ENTRY = ("entries", 0)
DAMAGES = {
    "'schema' is 'tokamax'": damaged(["schema"], "tokamax"),
    "version 2 of the schema; expected version 1": damaged(["version"], 2),
    "version True of the schema": damaged(["version"], True),
    "the file has no 'entries'": damaged(["entries"], KeyError),
    "'entries' is {}; expected a list": damaged(["entries"], {}),
    "item 0 of 'entries' is 1; expected an object": damaged(ENTRY, 1),
    "item 0 of 'entries' has no 'device'": damaged([*ENTRY, "device"], KeyError),
    "'jaxlib' of item 0 of 'entries' is 10; expected a string": damaged([*ENTRY, "jaxlib"], 10),
    "'result' of item 0 of 'entries' is 'both'": damaged([*ENTRY, "result"], "both"),
    "'batch' of item 0 of 'entries' is -1; expected 0 or more": damaged([*ENTRY, "batch"], -1),
    "'groups' of item 0 of 'entries' is 1.0; expected an integer": damaged([*ENTRY, "groups"], 1.0),
    "item 1 of 'strides' of item 0 of 'entries' is '2'": damaged([*ENTRY, "strides", 1], "2"),
    "has strides or dilations of 0": damaged([*ENTRY, "strides", 1], 0),
    "of different lengths": damaged([*ENTRY, "low"], [0]),
    "'best' of item 0 of 'entries' is 'lax'; expected an object": damaged([*ENTRY, "best"], "lax"),
    "'engine' of 'best' of item 0 of 'entries' is 'cudnn'": damaged([*ENTRY, "best", "engine"], "cudnn"),
    "'candidates' of item 0 of 'entries' is None; expected a list": damaged([*ENTRY, "candidates"], None),
    "'ms' of item 1 of 'candidates' of item 0": damaged([*ENTRY, "candidates", 1, "ms"], 0),
    "item 0 of 'left_out' is None; expected a string": damaged(["left_out"], [None]),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_file_is_refused(tmp_path, message):
    path = tmp_path / "a.json"
    tuning(entry()).save(path)
    path.write_text(json.dumps(DAMAGES[message](json.loads(path.read_text()))))
    before = program(up, X, W)
    for use in (Tuning.load, jdeconv.use_tuning):
        with pytest.raises(ValueError, match=r"^path='.*a\.json'") as caught:
            use(path)
        assert message in str(caught.value)
    assert program(up, X, W) == before


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '{"schema": NaN}', "[" * 9999, "\x80\x04K\x01."])
def test_no_tuning_at_all(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))  # the last one is a pickle
    with pytest.raises(ValueError, match=r"^path='.*a\.json'.*Run autotune again"):
        Tuning.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Tuning.load(tmp_path / "none.json")
    with pytest.raises(OSError, match="none"):
        tuning().save(tmp_path / "none" / "a.json")


def test_concurrent_savers_leave_a_whole_file(tmp_path):
    """Eight threads and two processes write large files again and again, while this thread reads."""
    path = tmp_path / "a.json"
    values = [tuning(*(entry(batch=1 + number) for number in range(count))) for count in (1, 60)]
    values[0].save(path)
    code = (
        "import sys; from jdeconv import Tuning\n"
        "value = Tuning.load(sys.argv[1])\n"
        "for _ in range(30): value.save(sys.argv[2])"
    )
    values[1].save(tmp_path / "large.json")
    command = [sys.executable, "-c", code, tmp_path / "large.json", path]
    children = [subprocess.Popen(command) for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(lambda value: [value.save(path) for _ in range(10)], values[n % 2]) for n in range(8)]
        while not all(writer.done() for writer in writers) or any(child.poll() is None for child in children):
            assert Tuning.load(path) in values
    assert [writer.result() and None for writer in writers] == [None] * 8
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(os.listdir(tmp_path)) == ["a.json", "large.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    tuning(entry(TAPS)).save(path)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        tuning(entry(BLOCKS)).save(path)
    assert Tuning.load(path) == tuning(entry(TAPS))
    assert os.listdir(tmp_path) == ["a.json"]


# What the planner makes of it.


def test_a_measured_choice_goes_before_the_table():
    by_table = planned("cpu", False, operation(), AUTO)
    measured = planned("cpu", False, operation(), AUTO, (tuning(),))
    assert (measured.method, measured.variant, measured.engine) == ("taps", "windows", XLA)
    assert by_table.method != "taps"
    assert "measured on" in measured.rule.evidence
    assert planned("cpu", False, operation(), "lax", (tuning(),)).rule is None


def test_the_first_tuning_that_has_the_operation_decides():
    inner, outer = tuning(entry(TAPS)), tuning(entry(BLOCKS), entry(BLOCKS, result="input"))
    assert planned("cpu", False, operation(), AUTO, (inner, outer)).method == "taps"
    assert planned("cpu", False, operation(), AUTO, (outer, inner)).method == "gemm"


IMPOSSIBLE = {
    "no such method": Choice("fft", "plain", XLA, None),
    "no such variant": Choice("gemm", "diagonals", XLA, None),
    "zeros in blocks of taps": Choice("phase", "fused", XLA, None),
    "another platform's variant": Choice("lax", "for cuDNN", XLA, None),
    "several positions": Choice("gemm", "one position", XLA, None),
    "no kernel for CPU": Choice("pallas", "TPU kernel", XLA, None),
    "no oneDNN": Choice("phase", "apart", ONEDNN, None),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_is_not_possible_is_ignored(case):
    by_table = planned("cpu", False, operation(), AUTO)
    assert planned("cpu", False, operation(), AUTO, (tuning(entry(IMPOSSIBLE[case])),)) == by_table
    following = (tuning(entry(IMPOSSIBLE[case])), tuning(entry(TAPS)))
    assert planned("cpu", False, operation(), AUTO, following).method == "taps"


def test_an_unsupported_method_is_ignored(monkeypatch):
    class Refusing:
        supports = staticmethod(lambda problem: "never; expected nothing")

    problem = operation().problem
    measured = [entry(TAPS).choice]
    assert choose("cpu", XLA, problem, AUTO, METHODS, measured).method == "taps"
    assert choose("cpu", XLA, problem, AUTO, {**METHODS, "taps": Refusing()}, measured).method != "taps"


def test_an_engine_that_makes_no_difference_is_replaced():
    measured = [entry(other_engine(TAPS, onednn=True)).choice]
    assert choose("cpu", XLA, operation().problem, AUTO, METHODS, measured).engine == XLA


def test_portable_programs_take_what_xla_compiles_alone():
    by_onednn = tuning(entry(Choice("phase", "apart", ONEDNN, None)))
    in_process = choose("cpu", ONEDNN, operation().problem, AUTO, METHODS, [by_onednn.entries[0].choice])
    assert "measured on" in in_process.rule.evidence
    portable = planned("cpu", True, operation(), AUTO, (by_onednn,), portable=True)
    assert "measured on" not in portable.rule.evidence
    assert planned("cpu", True, operation(), AUTO, (tuning(entry(TAPS)),), portable=True).method == "taps"


def test_entries_from_elsewhere_are_kept_and_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(planning._said, "_flag", False)
    foreign = tuning(entry(device="cpu: Z80, 1 threads"), entry(jaxlib="0.1", result="input"), entry(BLOCKS))
    with foreign, pytest.warns(UserWarning, match=r"^2 of a tuning's 3 operations were measured elsewhere.*cpu: Z80"):
        assert planned("cpu", False, operation(), AUTO, planning.tunings_in_use()).method == "gemm"
    with foreign, tuning(entry(device="gpu: another")):  # a second warning would be an error
        planning.tunings_in_use()
    foreign.save(tmp_path / "a.json")
    assert len(Tuning.load(tmp_path / "a.json")) == 3


def test_the_environment_names_a_file(tmp_path):
    path = tmp_path / "a.json"
    tuning(entry(TAPS)).save(path)
    code = (
        "import numpy as np, jdeconv\n"
        "x, w = np.ones((2, 5, 6, 8), 'float32'), np.ones((3, 3, 6, 8), 'float32')\n"
        "try: print(jdeconv.explain(x, w, strides=2).passes[0].choices['cpu'].method)\n"
        "except ValueError as error: print(error)\n"
        "used = jdeconv.use_tuning(None)\n"
        "print(jdeconv.explain(x, w, strides=2).passes[0].choices['cpu'].method)\n"
    )

    def lines(text=None):
        if text:
            path.write_text(text)
        environment = {**os.environ, "JDECONV_TUNING": str(path), "JAX_PLATFORMS": "cpu"}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()

    first, last = lines()
    assert first == "taps"
    assert last != "taps"
    assert lines("{}")[0].startswith(f"JDECONV_TUNING={str(path)!r}: 'schema' is None; expected 'jdeconv tuning'.")


# Candidates.

SIZES = {
    "full blocks": ((8, 8), (4, 4), (2, 2), 1),
    "not full": ((8, 8), (3, 3), (2, 2), 1),
    "stride 1": ((8, 8), (3, 3), (1, 1), 1),
    "one position": ((1, 1), (4, 4), (1, 1), 1),
    "many taps": ((64,), (1024,), (16,), 1),
    "groups": ((8, 8), (3, 3), (2, 2), 8),
    "volume": ((4, 4, 4), (2, 2, 2), (2, 2, 2), 1),
}
PLATFORM_ENGINES = [("cpu", (ONEDNN, XLA)), ("cpu", (XLA,)), ("gpu", (XLA,)), ("tpu", (XLA,)), ("other", (XLA,))]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("platform", "engines"), PLATFORM_ENGINES)
@pytest.mark.parametrize("result", ["output", "input", "kernel"])
def test_candidates(sizes, platform, engines, result):
    """'lax' first, the table's choice among them, each one a function, and each still possible as a measured choice."""
    input, kernel, strides, groups = SIZES[sizes]
    geometry = build(input, kernel, strides, (1,) * len(input), "SAME")
    problem = Problem(geometry, result, 2, groups, 16, 8, "float32")
    found = candidates(platform, engines, problem, METHODS)
    assert found[0] == dataclasses.replace(choose(platform, XLA, problem, "lax", METHODS), rule=None)
    default = dataclasses.replace(choose(platform, engines[0], problem, AUTO, METHODS), rule=None)
    assert default in found
    assert len(set(found)) == len(found) >= 2
    for way in found:
        assert way.variant in METHODS[way.method].VARIANTS[result]
        assert METHODS[way.method].supports(problem) is None
        if way != default:
            assert choose(platform, engines[0], problem, AUTO, METHODS, [way]) == way
    for engine in engines[1:]:
        others = [way for way in found if way.engine == engine]
        assert all(calls_engine(way.method, way.variant, problem) for way in others)
    kernels = [way.variant for way in found if way.method == "pallas"]
    assert kernels == ([f"{platform.upper()} kernel"] if METHODS["pallas"].supports(problem) is None
                       and platform in ("gpu", "tpu") and result == "output" else [])  # fmt: skip


def test_candidates_put_no_zeros_into_blocks():
    for platform, engines in PLATFORM_ENGINES:
        for result in ("output", "input"):
            problem = Problem(build((8, 8), (3, 3), (2, 2), (1, 1), "SAME"), result, 2, 1, 16, 8, "float32")
            assert not [way for way in candidates(platform, engines, problem, METHODS) if "fused" in way.variant]


def test_candidates_neither_compile_for_minutes_nor_fill_the_memory():
    long = Problem(build((64,), (4096,), (1,), (1,), "SAME"), "kernel", 2, 1, 16, 8, "float32")
    found = {(way.method, way.variant) for way in candidates("cpu", (XLA,), long, METHODS)}
    assert found <= {("lax", "plain"), ("taps", "in turns")}
    large = Problem(build((512, 512), (8, 8), (1, 1), (1, 1), "SAME"), "output", 64, 1, 16, 64, "float32")
    assert "gemm" not in {way.method for way in candidates("cpu", (XLA,), large, METHODS)}


def test_this_cpu_has_an_engine_for_the_table():
    kind = cpu_engine_kind(operation().problem)
    found = candidates("cpu", (kind, XLA) if kind.onednn else (XLA,), operation().problem, METHODS)
    assert {way.engine for way in found} == ({kind, XLA} if kind.onednn else {XLA})
