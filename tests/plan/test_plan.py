"""The table of rules: the first that applies and is supported wins, and a method asked for is used or refused."""

import dataclasses
import types

import pytest

from jdeconv._formulations import METHODS
from jdeconv._geometry import build
from jdeconv._plan import choose as planning
from jdeconv._plan.engine_kind import XLA, EngineKind
from jdeconv._plan.features import FEATURES
from jdeconv._plan.problem import Problem
from jdeconv._plan.rule import Range, Rule, Words, above, at_most, between, other_than
from jdeconv._plan.variant_table import VariantRule, always

ENGINES = {str(kind): kind for kind in (XLA, EngineKind(True), EngineKind(True, True), EngineKind(True, True, True))}
GEOMETRY = build((5,), (3,), (2,), (1,), "SAME")


def choose(platform, engine, *arguments):
    return planning.choose(platform, ENGINES[engine], *arguments)


@pytest.fixture(autouse=True)
def only_variant(monkeypatch):
    """Of the formulations that are made up here."""
    monkeypatch.setattr(
        planning, "VARIANT_RULES", (*planning.VARIANT_RULES, VariantRule("*", "*", "fast", "*", always, "only"))
    )


def problem(result="output"):
    return Problem(GEOMETRY, result, 1, 1, 1, 1, "float32")


def formulation(reason=None):
    return types.SimpleNamespace(supports=lambda problem: reason)


OURS = {"lax": formulation(), "fast": formulation(), "picky": formulation("kernel 3; expected an even kernel")}
METHODS_HERE = METHODS | OURS


def with_rules(monkeypatch, *rules):
    monkeypatch.setattr(planning, "RULES", (*rules, *planning.RULES))


def test_the_first_rule_that_applies_wins(monkeypatch):
    never = Rule("*", "*", "*", dict(rank=2), "fast", "")
    other_platform, other_result = (
        Rule("tpu", "*", "*", {}, "fast", ""),
        Rule("*", "*", "kernel", {}, "fast", ""),
    )
    unsupported = Rule("cpu", "xla", "output", {}, "picky", "")
    wins = Rule("cpu", "xla", "output", {}, "fast", "measured")
    with_rules(monkeypatch, never, other_platform, other_result, unsupported, wins)
    assert choose("cpu", "xla", problem("output"), "auto", METHODS_HERE) == planning.Choice("fast", "only", XLA, wins)
    assert choose("gpu", "xla", problem("output"), "auto", METHODS_HERE).method == "lax"
    assert choose("gpu", "xla", problem("kernel"), "auto", METHODS_HERE).method == "fast"


def test_a_method_asked_for_is_used_or_refused_by_name():
    assert choose("cpu", "xla", problem("output"), "fast", METHODS_HERE) == planning.Choice("fast", "only", XLA, None)
    with pytest.raises(NotImplementedError) as caught:
        choose("cpu", "xla", problem("output"), "picky", METHODS_HERE)
    assert str(caught.value) == "method='picky': kernel 3; expected an even kernel. Use method='auto'."


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu", "other"])
@pytest.mark.parametrize("result", ["output", "input", "kernel"])
def test_auto_always_finds_a_formulation(platform, result):
    assert choose(platform, "xla", problem(result), "auto", METHODS).method in METHODS


def test_every_rule_has_a_method_and_evidence():
    assert all(rule.method in METHODS and rule.evidence for rule in planning.RULES)


def test_every_feature_has_a_meaning_and_a_row():
    asked = {name for rule in planning.RULES for ranges in (rule.common, *rule.alternatives) for name in ranges}
    assert asked == set(FEATURES)
    assert all(feature.meaning.endswith(".") for feature in FEATURES.values())


def test_a_row_s_text_is_made_of_its_ranges():
    where = dict(groups=1, strided=True, inputs=between(2, 8), rank=other_than(2), taps=above(1))
    row = Rule(
        "*", "*", "*", where | dict(either=(dict(dtype=("float64", "int8")), dict(work=at_most(3e8)))), "lax", ""
    )
    assert row.text == (
        "one group, strided, 2 to 8 input channels, not 2 dimensions, more than one tap: "
        "float64 or int8; or at most 300 million operations"
    )
    assert Rule("*", "*", "*", {}, "lax", "").text == "every problem"


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        (dict(taps=3), True),
        (dict(taps=above(3)), False),
        (dict(taps=at_most(3), rank=2), False),
        (dict(dtype="float32", rank=other_than(1)), False),
        (dict(taps=3, either=(dict(rank=2), dict(strided=True))), True),
        (dict(taps=3, either=(dict(rank=2), dict(strided=False))), False),
    ],
)
def test_a_row_holds_where_all_its_ranges_do(where, holds):
    assert Rule("*", "*", "*", where, "lax", "").when(problem()) == holds


def test_no_row_is_shadowed_by_an_earlier_one():
    """Every alternative of a row has problems that no alternative of one earlier row includes."""
    for at, rule in enumerate(planning.RULES):
        for earlier in planning.RULES[:at]:
            if all(words in ("*", mine) for words, mine in zip(scope(earlier), scope(rule), strict=True)):
                assert not all(any(within(one, other) for other in cases(earlier)) for one in cases(rule)), rule.text


def scope(rule):
    return rule.platform, rule.engine, rule.result


def cases(rule):
    """The row's alternatives, each with all its ranges; a feature in both parts has two."""
    for ranges in rule.alternatives or ({},):
        yield [*rule.common.items(), *ranges.items()]


def within(one, other):
    """Whether each range of `other` includes all of a range of `one`."""
    return all(any(name == mine and includes(wide, narrow) for mine, narrow in one) for name, wide in other)


def includes(wide, narrow):
    if isinstance(narrow, Words):
        if narrow.others:
            return isinstance(wide, Words) and wide.others and {*wide.names} <= {*narrow.names}
        return all(map(wide.includes, narrow.names))
    if isinstance(wide, Range):
        return wide.low <= narrow.low and narrow.high <= wide.high
    return wide.others and not any(map(narrow.includes, wide.names))


def test_a_shadowed_row_is_found():
    wide, narrow = (Rule("*", "*", "*", dict(taps=at_most(size), rank=2), "lax", "") for size in (9, 4))
    (one,), (other,) = cases(narrow), cases(wide)
    assert within(one, other)
    assert not within(other, one)


def test_a_predicate_s_name_is_one_variant_s():
    used = {row.when for row in planning.VARIANT_RULES}
    assert len({predicate.__name__ for predicate in used}) == len(used)


# What is chosen for output, input and kernel, by platform, engine and dtype. A case is batch, input size, channels of
# each group, kernel and stride (one for all dimensions, or one for each), and dilation and groups where they are not 1.
# On CPU as measured, on GPU as compiled, on TPU as estimated.
CHOICES = {
    "cpu, xla, float32": {
        "4, 32x32, 256→128, k 4, s 2": "phase lax gemm",
        "4, 32x32, 256→128, k 2, s 2": "gemm lax gemm",
        "4, 32x32, 128→128, k 3, s 1": "lax lax lax",
        "4, 32x32, 1→1, k 4, s 2": "taps taps gemm",
        "4, 32x32, 1→8, k 8, s 8": "taps lax gemm",
        "4, 32x32, 1→1, k 16, s 8": "taps lax gemm",
        "4, 32x32x32, 64→1, k 3, s 2": "gemm taps gemm",
        "4, 16x16x16, 128→64, k 2, s 2": "gemm phase gemm",
        "4, 500, 513→1, k 1024, s 256": "phase phase gemm",
        "4, 80x40, 11→138, k 1, s 6": "gemm gemm gemm",
        "4, 8x8, 28→24, k 16, s 1": "gemm gemm gemm",
        "4, 2000, 229→1, k 7, s 2": "gemm taps gemm",
        "4, 20x20, 4→33, k 6, s 7": "taps gemm gemm",
        "4, 66x66, 37→4, k 8, s 1": "gemm lax lax",
        "4, 6x6, 213→70, k 4, s 3": "phase lax lax",
        "4, 12x12, 145→27, k 2, s 8": "gemm gemm gemm",
        "4, 900, 170→3, k 5, s 5": "gemm taps gemm",
        "4, 32, 512→256, k 16, s 8": "phase lax gemm",
        "4, 207, 51→74, k 6, s 3": "phase lax gemm",
        "4, 3x3, 32→32, k 5, s 2": "lax gemm gemm",
    },
    "cpu, onednn, float32": {
        # Ordinary convolutions, read backwards: the operator's input is their output.
        "4, 32x32, 64→32, k 3, s 2": "phase lax lax",
        "8, 14x14, 576→96, k 1, s 1": "gemm gemm gemm",
        "4, 4x4, 32→32, k 4, s 4": "gemm gemm gemm",
        "8, 28x28, 1→1, k 7, s 1, groups 192": "taps taps taps",
        "8, 56x56, 8→8, k 3, s 1, groups 32": "lax lax lax",
        "16, 400, 25→25, k 7, s 1, d 4": "lax lax lax",
        "2, 2000, 64→32, k 2, s 1, d 8": "lax lax gemm",
        "4, 14x14, 384→3, k 16, s 16": "phase lax lax",
        "4, 32x32, 256→128, k 4, s 2": "phase lax lax",
        "4, 32x32, 256→128, k 2, s 2": "phase lax lax",
        "4, 32x32, 128→128, k 3, s 1": "lax lax lax",
        "4, 32x32, 1→1, k 4, s 2": "taps taps lax",
        "4, 32x32, 1→8, k 8, s 8": "taps lax lax",
        "4, 32x32, 1→1, k 16, s 8": "taps lax lax",
        "4, 32x32x32, 64→1, k 3, s 2": "gemm taps gemm",
        "4, 16x16x16, 128→64, k 2, s 2": "phase lax lax",
        "4, 500, 513→1, k 1024, s 256": "phase phase lax",
        "4, 80x40, 11→138, k 1, s 6": "phase lax lax",
        "4, 8x8, 28→24, k 16, s 1": "lax lax lax",
        "4, 2000, 229→1, k 7, s 2": "gemm taps gemm",
        "4, 20x20, 4→33, k 6, s 7": "taps lax lax",
        "4, 66x66, 37→4, k 8, s 1": "gemm lax lax",
        "4, 6x6, 213→70, k 4, s 3": "gemm lax lax",
        "4, 12x12, 145→27, k 2, s 8": "gemm lax gemm",
        "4, 900, 170→3, k 5, s 5": "gemm taps gemm",
        "4, 32, 512→256, k 16, s 8": "gemm lax lax",
        "4, 207, 51→74, k 6, s 3": "phase lax gemm",
        "4, 14x14, 16→8, k 3, s 2, groups 8": "gemm lax lax",
        "4, 14x14, 8→8, k 3, s 2, groups 8": "phase lax lax",
        "4, 14x14, 32→8, k 3, s 2, groups 2": "gemm lax lax",
        "4, 14x14, 128→128, k 4, s 2, groups 2": "phase lax phase",
        "4, 14x14, 32→32, k 4, s 2, groups 16": "phase lax lax",
        "4, 14x14, 128→128, k 2, s 2, groups 2": "phase lax gemm",
        "4, 6x6x6, 8→16, k 5, s 3, groups 16": "phase lax lax",
        "4, 6x6x6, 64→4, k 5, s 3, groups 16": "gemm lax lax",
        "4, 32x32, 1→1, k 4, s 2, groups 64": "taps taps taps",
    },
    "cpu, xla, int32": {
        "4, 16x16, 128→64, k 4, s 2": "gemm gemm gemm",
        "4, 8x8, 64→32, k 4, s 2": "gemm gemm gemm",
        "4, 16x16, 8→8, k 3, s 2, groups 8": "gemm taps gemm",
    },
    "cpu, xla, float64": {
        "4, 16x16, 64→32, k 4, s 2": "gemm lax gemm",
        "4, 200, 32→16, k 16, s 8": "gemm gemm gemm",
    },
    "cpu, xla, complex128": {
        "4, 16x16, 64→32, k 4, s 2": "gemm lax gemm",
    },
    "cpu, xla, complex64": {
        "4, 16x16, 64→32, k 4, s 2": "phase lax gemm",
        "4, 16x16, 8→8, k 3, s 2, groups 8": "gemm taps gemm",
    },
    "cpu, onednn, bfloat16": {
        "4, 32x32, 256→128, k 4, s 2": "gemm gemm gemm",
        "4, 32x32, 128→64, k 4, s 2": "phase lax lax",
    },
    "cpu, onednn bfloat16, bfloat16": {
        "4, 32x32, 256→128, k 4, s 2": "phase lax lax",
        "4, 32x32, 128→64, k 2, s 2": "phase lax lax",
        "4, 32x32, 128→128, k 3, s 1": "lax lax lax",
        "4, 8x8, 93→14, k 5, s 3": "gemm lax lax",
        "4, 2000, 64→32, k 10, s 5": "phase lax gemm",
        "4, 3000, 64→2, k 4, s 2": "gemm lax gemm",
        "4, 32x32, 1→1, k 4, s 2": "taps taps lax",
    },
    "cpu, onednn bfloat16 amx, bfloat16": {
        "4, 8x8, 93→14, k 5, s 3": "gemm lax gemm",
    },
    "gpu, xla, float32": {
        "4, 32x32, 64→64, k 4, s 2": "lax lax lax",
        "4, 32x32, 64→1, k 3, s 1": "lax lax lax",
        "4, 9x9, 64→2, k 10, s 3": "gemm lax gemm",  # kernel larger than the input,
        "4, 9x9, 64→2, k 10x4, s 3": "lax lax lax",  # in one dimension,
        "4, 9x9, 64→2, k 10x4, s 1": "lax lax gemm",  # with stride 1,
        "4, 4x4, 64→2, k 9, s 1": "gemm gemm gemm",  # larger than the output too
        "4, 6x6x6, 4→9, k 11, s 1": "lax gemm gemm",
        "4, 1x1, 100→64, k 4, s 1": "gemm gemm gemm",
        "4, 8x8, 8→8, k 3, s 2, d 2": "gemm gemm gemm",
        "4, 8x8, 8→8, k 3, s 1, d 2": "lax lax gemm",
        "4, 32x32, 64→64, k 4, s 2, groups 8": "lax lax lax",
        "4, 32x32, 64→64, k 4, s 2, groups 9": "gemm lax lax",
        "4, 32x32, 1→1, k 4, s 2, groups 64": "taps lax lax",
        "4, 32x32, 1→1, k 3, s 2, groups 64": "gemm lax lax",
    },
    "gpu, xla, int32": {
        "4, 5, 64→64, k 3, s 2": "gemm gemm gemm",
    },
    "tpu, xla, bfloat16": {
        "4, 84x47, 11→138, k 1, s 6": "gemm gemm gemm",
        "14, 14x9, 54→46, k 1, s 6": "gemm lax lax",
        "4, 32x32, 512→256, k 2, s 2": "pallas gemm lax",
        "1, 128x128, 128→64, k 2, s 2": "pallas gemm gemm",
        "9, 32x32, 1→42, k 3, s 3": "lax lax lax",
        "11, 17x17, 74→140, k 2, s 2": "pallas lax lax",
        "5, 14x14, 34→36, k 5, s 5": "lax gemm lax",
        "2, 64x64, 56→1, k 9, s 3": "gemm lax phase",
        "1, 64x64x32, 64→1, k 3, s 2": "gemm lax phase",
        "5, 60x60, 23→1, k 15, s 3": "gemm lax lax",
        "4, 500, 513→1, k 1024, s 256": "phase gemm phase",
        "1, 32x32, 21→21, k 16, s 8": "phase lax lax",
        "1, 32x32, 1→1, k 16, s 8, groups 21": "phase lax phase",
        "11, 84x84, 52→5, k 2, s 3": "gemm lax lax",
        "6, 8x8, 76→47, k 3, s 5": "lax lax lax",
        "16, 16x16, 256→128, k 4, s 2": "pallas lax lax",
        "16, 8x8, 256→128, k 4, s 2": "pallas lax lax",
        "1, 4x4, 256→128, k 4, s 2": "lax lax lax",
        "16, 16x16, 256→128, k 9, s 2": "lax lax lax",
        "16, 16x16, 256→60, k 4, s 2": "lax lax lax",
        "4, 32x32, 1→1, k 4, s 2, groups 64": "lax lax lax",
        "8, 2048, 128→64, k 4, s 2": "pallas lax lax",
    },
    "tpu, xla, float32": {
        "4, 32x32, 512→256, k 2, s 2": "lax gemm lax",
        "1, 128x128, 128→64, k 2, s 2": "gemm gemm gemm",
        "1, 16x16x16, 128→64, k 2, s 2": "lax gemm lax",
    },
    "*, xla, float32": {
        "4, 5, 64→64, k 3, s 2": "lax lax lax",
    },
}


def described(text, result, dtype):
    """The problem that a line of the table describes."""
    batch, size, channels, kernel, stride, *others = text.split(", ")
    size, (inputs, outputs) = tuple(map(int, size.split("x"))), map(int, channels.split("→"))
    more = dict(each.split() for each in (kernel, stride, *others))

    def each(name):
        given = tuple(map(int, more.get(name, "1").split("x")))
        return given if len(given) == len(size) else given * len(size)

    geometry = build(size, each("k"), each("s"), each("d"), "SAME")
    return Problem(geometry, result, int(batch), int(more.get("groups", 1)), inputs, outputs, dtype)


@pytest.mark.parametrize(("where", "case"), [(where, case) for where, found in CHOICES.items() for case in found])
def test_the_choice(where, case):
    platform, engine, dtype = where.split(", ")
    problems = (described(case, result, dtype) for result in ("output", "input", "kernel"))
    assert " ".join(choose(platform, engine, p, "auto", METHODS).method for p in problems) == CHOICES[where][case]


def test_unknown_sizes_count_as_large_on_gpu():
    unknown = dataclasses.replace(GEOMETRY, input=("n",), output=("2*n",))
    chosen = {
        choose("gpu", "xla", Problem(unknown, result, 4, 1, 64, 64, "float32"), "auto", METHODS).method
        for result in ("output", "kernel")
    }
    assert chosen == {"lax"}


def test_flops_blocks_and_their_padding():
    p = Problem(build((5, 5), (3, 4), (2, 2), (1, 1), "SAME"), "output", 4, 2, 3, 7, "float32")
    assert p.flops == 2 * 4 * 5 * 5 * 3 * 4 * 2 * 3 * 7
    assert (p.block_count, p.padding_factor) == (2 * 2, 16 / 12)


def test_every_variant_is_chosen_by_a_row_and_every_row_chooses_one():
    rows = {
        (method, result, row.name)
        for row in planning.VARIANT_RULES
        for method in row.method.split()
        if method in METHODS
        for result in (("output", "input", "kernel") if row.result == "*" else row.result.split())
    }
    held = {
        (method, result, name)
        for method in METHODS
        for result, some in METHODS[method].VARIANTS.items()
        for name in some
    }
    assert rows == held


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu", "other"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("result", ["output", "input", "kernel"])
def test_every_method_has_a_variant_everywhere(method, platform, result, engine):
    for sizes in (
        ((5, 5), (4, 4), (2, 2)),
        ((5, 5), (3, 3), (2, 2)),
        ((1, 1), (4, 4), (1, 1)),
        ((8, 8), (2, 2), (2, 2)),
    ):
        geometry = build(*sizes, (1, 1), "SAME")
        choice = choose(platform, engine, Problem(geometry, result, 4, 1, 64, 64, "float32"), method, METHODS)
        assert choice.variant in METHODS[method].VARIANTS[result]
