"""The table of rules: the first that applies and is supported wins, and a method asked for is used or refused."""

import types

import pytest

from jdeconv import _plan
from jdeconv._formulations import METHODS
from jdeconv._geometry import build
from jdeconv._plan import Rule, choose

GEOMETRY = build((5,), (3,), (2,), (1,), "SAME")


def formulation(reason=None):
    return types.SimpleNamespace(supports=lambda geometry, result: reason)


METHODS_HERE = {"lax": formulation(), "fast": formulation(), "picky": formulation("kernel 3; expected an even kernel")}


def with_rules(monkeypatch, *rules):
    monkeypatch.setattr(_plan, "RULES", (*rules, *_plan.RULES))


def test_the_first_rule_that_applies_wins(monkeypatch):
    never = Rule("*", "*", lambda geometry: False, "fast", "")
    other_platform, other_result = (
        Rule("tpu", "*", _plan.always, "fast", ""),
        Rule("*", "kernel", _plan.always, "fast", ""),
    )
    unsupported = Rule("cpu", "output", _plan.always, "picky", "")
    wins = Rule("cpu", "output", _plan.always, "fast", "measured")
    with_rules(monkeypatch, never, other_platform, other_result, unsupported, wins)
    assert choose("cpu", GEOMETRY, "output", "auto", METHODS_HERE) == _plan.Choice("fast", wins)
    assert choose("gpu", GEOMETRY, "output", "auto", METHODS_HERE).method == "lax"
    assert choose("gpu", GEOMETRY, "kernel", "auto", METHODS_HERE).method == "fast"


def test_a_method_asked_for_is_used_or_refused_by_name():
    assert choose("cpu", GEOMETRY, "output", "fast", METHODS_HERE) == _plan.Choice("fast", None)
    with pytest.raises(NotImplementedError) as caught:
        choose("cpu", GEOMETRY, "output", "picky", METHODS_HERE)
    assert str(caught.value) == "method='picky': kernel 3; expected an even kernel. Use method='auto'."


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu", "other"])
@pytest.mark.parametrize("result", ["output", "input", "kernel"])
def test_auto_always_finds_a_formulation(platform, result):
    assert choose(platform, GEOMETRY, result, "auto", METHODS).method in METHODS


def test_every_rule_has_a_method_and_evidence():
    assert all(rule.method in METHODS and rule.evidence for rule in _plan.RULES)
