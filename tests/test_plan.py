"""The table of rules: the first that applies and is supported wins, and a method asked for is used or refused."""

import dataclasses
import re
import types

import pytest

from jdeconv._formulations import METHODS
from jdeconv._geometry import build
from jdeconv._plan import choose as planning
from jdeconv._plan.engine_kind import XLA, EngineKind
from jdeconv._plan.problem import Problem
from jdeconv._plan.rule import Rule, always
from jdeconv._plan.variants import Variant

ENGINES = {str(kind): kind for kind in (XLA, EngineKind(True), EngineKind(True, True), EngineKind(True, True, True))}
GEOMETRY = build((5,), (3,), (2,), (1,), "SAME")


def choose(platform, engine, *arguments):
    return planning.choose(platform, ENGINES[engine], *arguments)


@pytest.fixture(autouse=True)
def only_variant(monkeypatch):
    """Of the formulations that are made up here."""
    monkeypatch.setattr(planning, "VARIANTS", (*planning.VARIANTS, Variant("*", "*", "fast", "*", always, "only")))


def problem(result="output"):
    return Problem(GEOMETRY, result, 1, 1, 1, 1, "float32")


def formulation(reason=None):
    return types.SimpleNamespace(supports=lambda problem: reason)


OURS = {"lax": formulation(), "fast": formulation(), "picky": formulation("kernel 3; expected an even kernel")}
METHODS_HERE = METHODS | OURS


def with_rules(monkeypatch, *rules):
    monkeypatch.setattr(planning, "RULES", (*rules, *planning.RULES))


def test_the_first_rule_that_applies_wins(monkeypatch):
    never = Rule("*", "*", "*", lambda problem: False, "fast", "")
    other_platform, other_result = (
        Rule("tpu", "*", "*", always, "fast", ""),
        Rule("*", "*", "kernel", always, "fast", ""),
    )
    unsupported = Rule("cpu", "xla", "output", always, "picky", "")
    wins = Rule("cpu", "xla", "output", always, "fast", "measured")
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


def test_every_rule_says_by_itself_where_it_holds():
    """The documentation shows each in a row of its own, where no other one is the one before it."""
    for rule in planning.RULES:
        assert not re.search(r"^(The same|As [`a-z_]+[,.])|\brule\b|than that", rule.when.__doc__), rule


def sized(result, geometry=GEOMETRY, groups=1, inputs=64, outputs=64):
    return Problem(geometry, result, 4, groups, inputs, outputs, "float32")


def on_cpu(engine, size, steps, channels, dtype="float32", groups=1):
    """The methods for output, input and kernel."""
    kernel, stride = ((step,) * len(size) for step in steps)
    geometry = build(size, kernel, stride, (1,) * len(size), "SAME")
    problems = (sized(result, geometry, groups, *channels) for result in ("output", "input", "kernel"))
    typed = (dataclasses.replace(problem, dtype=dtype) for problem in problems)
    return " ".join(choose("cpu", engine, p, "auto", METHODS).method for p in typed)


@pytest.mark.parametrize(
    ("size", "steps", "channels", "xla", "onednn"),
    [
        # output, input and kernel on CPU, as measured
        ((32, 32), (4, 2), (256, 128), "phase lax gemm", "phase lax lax"),
        ((32, 32), (2, 2), (256, 128), "gemm lax gemm", "phase lax lax"),
        ((32, 32), (3, 1), (128, 128), "lax lax lax", "lax lax lax"),
        ((32, 32), (4, 2), (1, 1), "taps taps gemm", "taps taps lax"),
        ((32, 32), (8, 8), (1, 8), "taps lax gemm", "taps lax gemm"),
        ((32, 32), (16, 8), (1, 1), "taps lax gemm", "taps lax lax"),
        ((32, 32, 32), (3, 2), (64, 1), "gemm taps gemm", "gemm taps gemm"),
        ((16, 16, 16), (2, 2), (128, 64), "gemm phase gemm", "phase lax lax"),
        ((500,), (1024, 256), (513, 1), "phase phase gemm", "phase phase lax"),
        ((80, 40), (1, 6), (11, 138), "gemm gemm gemm", "phase lax gemm"),
        ((8, 8), (16, 1), (28, 24), "gemm gemm gemm", "lax lax lax"),
        ((2000,), (7, 2), (229, 1), "gemm taps gemm", "gemm taps gemm"),
        ((20, 20), (6, 7), (4, 33), "taps gemm gemm", "taps lax gemm"),
        ((66, 66), (8, 1), (37, 4), "gemm lax lax", "gemm lax lax"),
        ((6, 6), (4, 3), (213, 70), "phase lax lax", "gemm lax lax"),
        ((12, 12), (2, 8), (145, 27), "gemm gemm gemm", "gemm lax gemm"),
        ((900,), (5, 5), (170, 3), "gemm taps gemm", "gemm taps gemm"),
        ((32,), (16, 8), (512, 256), "phase lax gemm", "gemm lax lax"),
        ((207,), (6, 3), (51, 74), "phase lax gemm", "phase lax gemm"),
    ],
)
def test_the_choice_on_cpu(size, steps, channels, xla, onednn):
    for engine, methods in (("xla", xla), ("onednn", onednn)):
        assert on_cpu(engine, size, steps, channels) == methods


@pytest.mark.parametrize(
    ("size", "steps", "channels", "groups", "dtype", "methods"),
    [
        ((16, 16), (4, 2), (128, 64), 1, "int32", "gemm gemm gemm"),
        ((8, 8), (4, 2), (64, 32), 1, "int32", "gemm gemm gemm"),
        ((16, 16), (4, 2), (64, 32), 1, "float64", "gemm lax gemm"),
        ((16, 16), (4, 2), (64, 32), 1, "complex128", "gemm lax gemm"),
        ((16, 16), (4, 2), (64, 32), 1, "complex64", "phase lax gemm"),
        ((200,), (16, 8), (32, 16), 1, "float64", "gemm gemm gemm"),
        ((16, 16), (3, 2), (8, 8), 8, "int32", "gemm taps gemm"),
        ((16, 16), (3, 2), (8, 8), 8, "complex64", "gemm taps gemm"),
        ((3, 3), (5, 2), (32, 32), 1, "float32", "lax gemm gemm"),
    ],
)
def test_other_types_and_little_work_on_cpu(size, steps, channels, groups, dtype, methods):
    assert on_cpu("xla", size, steps, channels, dtype, groups=groups) == methods


def test_bfloat16_is_multiplied_as_such_between_many_channels_on_cpu():
    for channels, methods in (((256, 128), "gemm gemm gemm"), ((128, 64), "phase lax lax")):
        assert on_cpu("onednn", (32, 32), (4, 2), channels, "bfloat16") == methods


@pytest.mark.parametrize(
    ("size", "steps", "channels", "methods"),
    [
        ((32, 32), (4, 2), (256, 128), "phase lax lax"),
        ((32, 32), (2, 2), (128, 64), "phase lax lax"),
        ((32, 32), (3, 1), (128, 128), "lax lax lax"),
        ((8, 8), (5, 3), (93, 14), "gemm lax lax"),
        ((2000,), (10, 5), (64, 32), "phase lax gemm"),
        ((3000,), (4, 2), (64, 2), "gemm lax gemm"),
        ((32, 32), (4, 2), (1, 1), "taps taps lax"),
    ],
)
def test_bfloat16_on_a_cpu_that_multiplies_it(size, steps, channels, methods):
    assert on_cpu("onednn bfloat16", size, steps, channels, "bfloat16") == methods


def test_little_bfloat16_by_amx():
    assert on_cpu("onednn bfloat16 amx", (8, 8), (5, 3), (93, 14), "bfloat16") == "gemm lax gemm"


@pytest.mark.parametrize(
    ("groups", "channels", "kernel", "methods"),
    [
        (8, (16, 8), 3, "gemm lax lax"),
        (8, (8, 8), 3, "phase lax lax"),
        (2, (32, 8), 3, "gemm lax lax"),
        (2, (128, 128), 4, "phase lax phase"),
        (16, (32, 32), 4, "phase lax lax"),
        (2, (128, 128), 2, "phase lax gemm"),
    ],
)
def test_groups_on_cpu(groups, channels, kernel, methods):
    assert on_cpu("onednn", (14, 14), (kernel, 2), channels, groups=groups) == methods


def test_groups_of_a_volume_on_cpu():
    assert on_cpu("onednn", (6, 6, 6), (5, 3), (8, 16), groups=16) == "phase lax lax"
    assert on_cpu("onednn", (6, 6, 6), (5, 3), (64, 4), groups=16) == "gemm lax lax"


def test_depthwise_of_many_groups_on_cpu():
    p = sized("kernel", build((32, 32), (4, 4), (2, 2), (1, 1), "SAME"), groups=64, inputs=1, outputs=1)
    assert choose("cpu", "onednn", p, "auto", METHODS).method == "taps"


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "dilations", "channels", "methods"),
    [
        # groups, and channels of each; output, input and kernel on GPU
        ((32, 32), (4, 4), (2, 2), (1, 1), (1, 64, 64), "lax lax lax"),
        ((32, 32), (3, 3), (1, 1), (1, 1), (1, 64, 1), "lax lax lax"),
        ((9, 9), (10, 10), (3, 3), (1, 1), (1, 64, 2), "gemm lax gemm"),  # kernel larger than the input,
        ((9, 9), (10, 4), (3, 3), (1, 1), (1, 64, 2), "lax lax lax"),  # in one dimension,
        ((9, 9), (10, 4), (1, 1), (1, 1), (1, 64, 2), "lax lax gemm"),  # with stride 1,
        ((4, 4), (9, 9), (1, 1), (1, 1), (1, 64, 2), "gemm gemm gemm"),  # larger than the output too
        ((6, 6, 6), (11, 11, 11), (1, 1, 1), (1, 1, 1), (1, 4, 9), "lax gemm gemm"),
        ((1, 1), (4, 4), (1, 1), (1, 1), (1, 100, 64), "gemm gemm gemm"),
        ((8, 8), (3, 3), (2, 2), (2, 2), (1, 8, 8), "gemm gemm gemm"),
        ((8, 8), (3, 3), (1, 1), (2, 2), (1, 8, 8), "lax lax gemm"),
        ((32, 32), (4, 4), (2, 2), (1, 1), (8, 64, 64), "lax lax lax"),
        ((32, 32), (4, 4), (2, 2), (1, 1), (9, 64, 64), "gemm lax lax"),
        ((32, 32), (4, 4), (2, 2), (1, 1), (64, 1, 1), "taps lax lax"),
        ((32, 32), (3, 3), (2, 2), (1, 1), (64, 1, 1), "gemm lax lax"),
    ],
)
def test_the_choice_on_gpu(size, kernel, strides, dilations, channels, methods):
    geometry = build(size, kernel, strides, dilations, "SAME")
    problems = (sized(result, geometry, *channels) for result in ("output", "input", "kernel"))
    assert " ".join(choose("gpu", "xla", p, "auto", METHODS).method for p in problems) == methods


def test_integers_are_multiplied_as_matrices_on_gpu():
    p = dataclasses.replace(sized("output"), dtype="int32")
    assert choose("gpu", "xla", p, "auto", METHODS).method == "gemm"


def test_unknown_sizes_count_as_large_on_gpu():
    unknown = dataclasses.replace(GEOMETRY, input=("n",), output=("2*n",))
    chosen = {choose("gpu", "xla", sized(result, unknown), "auto", METHODS).method for result in ("output", "kernel")}
    assert chosen == {"lax"}


@pytest.mark.parametrize(
    ("batch", "size", "steps", "channels", "groups", "methods"),
    [
        # output, input and kernel on TPU, as estimated
        (4, (84, 47), (1, 6), (11, 138), 1, "gemm gemm gemm"),
        (14, (14, 9), (1, 6), (54, 46), 1, "gemm lax lax"),
        (4, (32, 32), (2, 2), (512, 256), 1, "pallas gemm lax"),
        (1, (128, 128), (2, 2), (128, 64), 1, "pallas gemm gemm"),
        (9, (32, 32), (3, 3), (1, 42), 1, "lax lax lax"),
        (11, (17, 17), (2, 2), (74, 140), 1, "pallas lax lax"),
        (5, (14, 14), (5, 5), (34, 36), 1, "lax gemm lax"),
        (2, (64, 64), (9, 3), (56, 1), 1, "gemm lax phase"),
        (1, (64, 64, 32), (3, 2), (64, 1), 1, "gemm lax phase"),
        (5, (60, 60), (15, 3), (23, 1), 1, "gemm lax lax"),
        (4, (500,), (1024, 256), (513, 1), 1, "phase gemm phase"),
        (1, (32, 32), (16, 8), (21, 21), 1, "phase lax lax"),
        (1, (32, 32), (16, 8), (1, 1), 21, "phase lax phase"),
        (11, (84, 84), (2, 3), (52, 5), 1, "gemm lax lax"),
        (6, (8, 8), (3, 5), (76, 47), 1, "lax lax lax"),
        (16, (16, 16), (4, 2), (256, 128), 1, "pallas lax lax"),
        (16, (8, 8), (4, 2), (256, 128), 1, "pallas lax lax"),
        (1, (4, 4), (4, 2), (256, 128), 1, "lax lax lax"),
        (16, (16, 16), (9, 2), (256, 128), 1, "lax lax lax"),
        (16, (16, 16), (4, 2), (256, 60), 1, "lax lax lax"),
        (4, (32, 32), (4, 2), (1, 1), 64, "lax lax lax"),
        (8, (2048,), (4, 2), (128, 64), 1, "pallas lax lax"),
    ],
)
def test_the_choice_on_tpu(batch, size, steps, channels, groups, methods):
    kernel, stride = ((step,) * len(size) for step in steps)
    geometry = build(size, kernel, stride, (1,) * len(size), "SAME")
    problems = (Problem(geometry, r, batch, groups, *channels, "bfloat16") for r in ("output", "input", "kernel"))
    assert " ".join(choose("tpu", "xla", p, "auto", METHODS).method for p in problems) == methods


@pytest.mark.parametrize(
    ("batch", "size", "channels", "methods"),
    [
        (4, (32, 32), (512, 256), "lax gemm lax"),
        (1, (128, 128), (128, 64), "gemm gemm gemm"),
        (1, (16, 16, 16), (128, 64), "lax gemm lax"),
    ],
)
def test_the_choice_on_tpu_beyond_16_bits(batch, size, channels, methods):
    steps = (2,) * len(size)
    geometry = build(size, steps, steps, (1,) * len(size), "SAME")
    problems = (Problem(geometry, r, batch, 1, *channels, "float32") for r in ("output", "input", "kernel"))
    assert " ".join(choose("tpu", "xla", p, "auto", METHODS).method for p in problems) == methods


def test_unknown_platforms_keep_to_the_definition():
    for result in ("output", "input", "kernel"):
        assert choose("*", "xla", sized(result), "auto", METHODS).method == "lax"


def test_flops_blocks_and_their_padding():
    p = sized("output", build((5, 5), (3, 4), (2, 2), (1, 1), "SAME"), groups=2, inputs=3, outputs=7)
    assert p.flops == 2 * 4 * 5 * 5 * 3 * 4 * 2 * 3 * 7
    assert (p.block_count, p.padding_factor) == (2 * 2, 16 / 12)


def test_every_variant_is_chosen_by_a_row_and_every_row_chooses_one():
    rows = {
        (method, result, row.name)
        for row in planning.VARIANTS
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
        choice = choose(platform, engine, sized(result, geometry), method, METHODS)
        assert choice.variant in METHODS[method].VARIANTS[result]
