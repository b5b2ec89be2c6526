"""The check of every method on the device at hand, here on CPU."""

import functools
import json

import numpy as np
import pytest
from cases import cases
from hypothesis import given

from benchmarks import __main__ as command
from benchmarks import definition, machine
from benchmarks.definition import Problem, Verdict

FIRST, SECOND = definition.problems(2)


@given(case=cases(dtypes=("float32",), dilated=False))
def test_its_definition_is_the_oracles(case):
    problem = Problem(case.geometry, case.batch, case.groups, case.group_inputs, case.group_outputs)
    x, w, y = case.arrays()
    arrays = dict(zip(("input", "kernel", "output"), (x, w, y), strict=True))
    arrays = {role: array.reshape(problem.shapes[role]) for role, array in arrays.items()}
    results = zip(("output", "input", "kernel"), case.expected(), (y, x, w), strict=True)
    for result, want, like in results:
        found = definition.defined(problem, arrays, result).reshape(like.shape)
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("problem", [FIRST, SECOND], ids=["plane", "line"])
def test_right_methods_are_right(problem, dtype):
    for method in ("auto", "lax"):
        found = definition.verdict(problem, dtype, method)
        assert not found.wrong
        assert 0 < found.error <= 1


def test_a_method_that_refuses_is_not_wrong():
    found = definition.verdict(FIRST, "float32", "pallas")
    assert not found.wrong
    assert found.refused.startswith("method='pallas': ")


def test_what_is_wrong_is_told(monkeypatch):
    """One wrong result of three is enough; so is one wrong element."""

    def spoilt(by, result, geometry, **more):
        y = definition_solve(result, geometry, **more)
        return y.at[(0,) * y.ndim].set(by(y[(0,) * y.ndim])) if result == "kernel" else y

    definition_solve = definition.solve
    for by in (lambda v: v + 0.01, lambda v: v * np.nan, lambda v: v + np.inf):
        monkeypatch.setattr(definition, "solve", functools.partial(spoilt, by))
        assert definition.verdict(SECOND, "float32", "lax").wrong
    monkeypatch.setattr(definition, "solve", lambda *a, **more: 1 // 0)
    found = definition.verdict(SECOND, "float32", "lax")
    assert found.wrong
    assert found.failed == "ZeroDivisionError: integer division or modulo by zero"
    text = definition.markdown([found, Verdict(FIRST, "float32", "gemm", error=0.25)])
    assert "| gemm, float32 |     1 |       0 |     0 |          0.25 |" in text
    assert f"- WRONG: lax, float32, {SECOND}: ZeroDivisionError" in text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("by", [0, 1.02])
def test_zeros_and_a_fiftieth_off_are_wrong(dtype, by, monkeypatch):
    right = definition.solve
    monkeypatch.setattr(definition, "solve", lambda *a, **more: (right(*a, **more) * by).astype(dtype))
    for problem in (FIRST, SECOND):
        assert definition.verdict(problem, dtype, "lax").wrong


def test_problems_are_broad_and_the_same_at_every_call():
    found = list(definition.problems(24))
    assert found == list(definition.problems(24))
    assert found[:4] == list(definition.problems(4))
    assert {p.geometry.rank for p in found} == {1, 2, 3}
    assert {s for p in found for s in p.geometry.strides} >= {1, 2, 3, 4, 8, 16}
    assert {low < 0 for p in found for low in p.geometry.low} == {True, False}
    assert {any(k % s for k, s in zip(p.geometry.kernel, p.geometry.strides, strict=True)) for p in found} == {
        True,
        False,
    }
    assert all(min(p.geometry.output) > 0 for p in found)
    assert len({p.groups for p in found}) > 1


def test_a_device_that_is_not_there(capsys):
    assert command.main(["--device", "tpu"]) == 2
    assert capsys.readouterr().out.startswith(
        "--device=tpu: JAX finds none; expected one. Where there is one, run: pip install 'jax[tpu]'. JAX says: "
    )


def test_the_command_checks_on_a_device(monkeypatch, tmp_path, capsys):
    """A CPU passes for a GPU here."""
    monkeypatch.setattr(machine, "use", lambda name: None)
    monkeypatch.setattr(machine, "device", lambda: "gpu")
    monkeypatch.setattr(definition, "METHODS", {})
    monkeypatch.setattr(definition, "problems", lambda count: [SECOND])
    monkeypatch.setattr(definition, "solve", lambda *a, **more: 1 // 0)
    arguments = ["--device", "gpu", "--quick", "--cases", "k9s3", "--peers", "lax", "--pass", "forward"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 1
    written = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## Every method against the definition in float64" in written
    out, err = capsys.readouterr()
    assert written in out
    assert "WRONG: auto, float32, " in err
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [(row["method"], row["dtype"]) for row in found["definition"]] == [("auto", "float32"), ("auto", "bfloat16")]
    assert [(row["peer"], row["wrong"]) for row in found["records"]] == [("jdeconv", False), ("lax", False)]
