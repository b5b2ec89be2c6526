"""The data behind the planner's rules: the committed files, and the tool that takes and reads them."""

import dataclasses
import importlib
import json

import jax
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.plan import command, draw, problems, regret, timing, timings
from benchmarks.plan.problems import Item
from jdeconv._formulations import METHODS
from jdeconv._geometry import build
from jdeconv._plan.choose import choose
from jdeconv._plan.engine_kind import XLA
from jdeconv._plan.problem import Problem

GEOMETRY = build((4,), (3,), (2,), (1,), "SAME")
SMALL = [
    Item("a/output/float32", Problem(GEOMETRY, "output", 2, 1, 3, 4, "float32"), "float32"),
    Item("b/kernel/int8", Problem(GEOMETRY, "kernel", 2, 1, 3, 4, "int32"), "int8"),
]
MACHINE = {"device": "cpu: x, avx2, 2 threads", "jaxlib": "1", "engines": {"float32": "xla"}}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The tool has two small problems; the folder for its files."""
    device = jax.config.jax_default_device
    monkeypatch.setattr(problems, "read", lambda: SMALL)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(timing, "SAMPLE", 0)
    yield tmp_path / "timings"
    jax.config.update("jax_default_device", device)


def test_the_rules_keep_to_the_limits_on_every_committed_file():
    """`python -m benchmarks plan --check`. Where it fails, `--fit` shows the rows."""
    assert benchmarks.main(["plan", "--check"]) == 0


def test_the_committed_problems_are_those_drawn():
    """Otherwise a file's times could not be taken anew. `python -m benchmarks.plan.draw` writes them."""
    items = problems.read()
    assert items == draw.items()
    assert len({item.name for item in items}) == len(items) > 250
    assert 0.25 < sum(item.held_out for item in items) / len(items) < 0.42
    float32 = [item.operands for item in items].count("float32")
    assert all(item.operands == "float32" for item in items[:float32])
    for engine in (XLA, command.cpu_engine_kind(items[0].problem)):
        assert {choose("cpu", engine, item.problem, "auto", METHODS).method for item in items} == set(METHODS) - {
            "pallas"
        }


def test_a_run_that_stops_goes_on(small, monkeypatch, capsys):
    arguments = ["plan", "--folder", str(small)]
    assert benchmarks.main([*arguments, "--dtype", "int8"]) == 0
    (path,) = small.glob("*")
    first = json.loads(path.read_text())
    assert list(first["problems"]) == ["b/kernel/int8"]
    timed = []
    monkeypatch.setattr(timing, "measured", lambda item, take=timing.measured: timed.append(item) or take(item))
    assert benchmarks.main([*arguments, "--budget-s", "-1"]) == 0
    assert not timed
    assert benchmarks.main(arguments) == 0
    assert timed == SMALL[:1]
    both = json.loads(path.read_text())
    assert list(both["problems"]) == ["b/kernel/int8", "a/output/float32"]
    ways = both["problems"]["a/output/float32"]["ways"]
    assert next(iter(ways)).startswith("lax/plain")
    assert len(ways) > 3
    assert all(ms > 0 and compile_s > 0 for ms, compile_s, *_ in ways.values())
    capsys.readouterr()
    assert benchmarks.main([*arguments, "--fit"]) == 0
    assert "held out" in capsys.readouterr().out
    larger = dataclasses.replace(SMALL[0].problem, batch=3)
    changed = [dataclasses.replace(SMALL[0], problem=larger), SMALL[1]]
    monkeypatch.setattr(problems, "read", lambda: changed)
    assert benchmarks.main(arguments) == 0
    assert timed[1:] == changed[:1]
    assert benchmarks.main([*arguments, "--only", "none"]) == 2


def test_no_file_holds_the_times_of_two_machines(small):
    path = small / "x.json"
    timings.Timings(dict(MACHINE)).save(path)
    with pytest.raises(timings.Foreign, match="2 threads', here 'cpu: x, avx2, 1 threads'"):
        timings.resumed(path, MACHINE | {"device": "cpu: x, avx2, 1 threads"}, SMALL)


def test_a_run_on_fewer_processors(small, monkeypatch):
    """The child may run on one, and this process afterwards on all that it could before."""
    os, seen = command.os, []
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one processor")

    def run(program, check):
        seen.append((len(os.sched_getaffinity(0)), program[1:]))
        return command.subprocess.CompletedProcess(program, 3)

    monkeypatch.setattr(command.subprocess, "run", run)
    assert benchmarks.main(["plan", "--threads", "1"]) == 3
    assert seen == [(1, ["-m", "benchmarks", "plan", "--threads", "1"])]
    assert os.sched_getaffinity(0) == allowed
    assert benchmarks.main(["plan", "--threads", str(len(allowed) + 1)]) == 2


def test_a_wrong_candidate_has_no_time(monkeypatch):
    lax, other = (choose("cpu", XLA, SMALL[0].problem, method, METHODS) for method in ("lax", "phase"))
    computed = timing._function

    def wrong(problem, way):
        function = computed(problem, way)
        return (lambda a, b: function(a, b) + 1) if way == other else function

    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setattr(timing, "_function", wrong)
    found = timing.measured(SMALL[0], [lax, other])
    assert found[timing.key(lax)].ms > 0
    assert found[timing.key(other)].ms is None
    assert found[timing.key(other)].note.startswith("wrong: it differs from lax")


def made(ms, item=SMALL[0]):
    """A file in which `auto` takes `ms`, lax 2 and another candidate 1."""
    data = timings.Timings(dict(MACHINE))
    ways = {
        "lax/plain/xla": timing.Taken(0.1, 2.0),
        "other/plain/xla": timing.Taken(0.1, 1.0),
        "wrong/plain/xla": timing.Taken(0.1, None, "wrong"),
    }
    chosen = choose("cpu", XLA, item.problem, "auto", METHODS)
    assert chosen.method != "lax"
    ways[timing.key(chosen)] = timing.Taken(0.1, ms)
    data.add(item, ways)
    return data


def test_the_regret_of_a_file_made_by_hand():
    found = regret.found("made", made(3.0), SMALL)
    (row,) = found.rows
    assert (row.regret, row.over_lax, row.best) == (3, 1.5, "other/plain/xla")
    assert found.figures["mean regret"] == 3
    assert found.figures["above 1.05 times lax"] == 1
    text = regret.markdown([found])
    assert "| made: all" in text
    assert "1 (100%)" in text
    (rule_row,) = [line for line in text.splitlines() if line.startswith(f"| {regret._position(row.choice.rule)} ")][:1]
    assert row.choice.method in rule_row
    unknown = timings.Timings(dict(MACHINE))
    unknown.add(SMALL[0], {"lax/plain/xla": timing.Taken(0.1, 2.0)})
    assert regret.found("made", unknown, SMALL).figures["not timed"] == 1


def test_the_cost_of_a_row_is_that_of_the_choice_without_it(monkeypatch):
    item = SMALL[0]
    chosen = choose("cpu", XLA, item.problem, "auto", METHODS)
    last = regret.RULES[-1]
    monkeypatch.setattr(regret, "RULES", (chosen.rule, last))
    monkeypatch.setattr(regret.planner, "RULES", (chosen.rule, last))
    (row,) = regret.found("made", made(1.0), [item]).rows
    assert row.without_ms == 2  # lax
    assert "Idle rows\n\nNone." in regret.markdown([regret.found("made", made(1.0), [item])])
    assert "costs at most 0.667" in regret.markdown([regret.found("made", made(3.0), [item])])


@pytest.mark.parametrize(
    ("limit", "status"),
    [
        ({"made": {"mean regret": 3, "not timed": 0}}, 0),
        ({"made": {"mean regret": 2.9}}, 1),
        ({"made": {"above 1.05 times lax": 0}}, 1),
        ({}, 1),
        ({"made": {"mean regret": 3}, "other": {"mean regret": 3}}, 1),
    ],
    ids=["kept", "exceeded", "slower than lax", "without", "without a file"],
)
def test_the_check(small, limit, status):
    made(3.0).save(small / "made.json")
    (small.parent / "limits.json").write_text(json.dumps(limit))
    assert benchmarks.main(["plan", "--check", "--folder", str(small)]) == status


def test_every_command_is_there():
    assert all(callable(importlib.import_module(module).main) for module in benchmarks.COMMANDS.values())
