"""How oneDNN is switched off, as a whole or in classes; the warning on a version of jaxlib that nobody has tested."""

import os
import re
import subprocess
import sys
import threading
import warnings

import jax
import numpy as np
import pytest
from onednn_sample import CALL, SAMPLE, calls, needs_onednn, ours, sample

import jdeconv
from jdeconv import _settings
from jdeconv._engine import engine, evidence, onednn, untested
from jdeconv._onednn_switch import read_switch
from jdeconv._plan.engine_kind import EngineKind

KIND = "strided convolution"  # the sample's


X, W = np.ones((4, 16, 16, 32), "float32"), np.ones((3, 3, 32, 32), "float32")


def upsampled(x, w):
    return jdeconv.conv2d_transpose(x, w, None, 2)


@pytest.fixture
def switch():
    yield onednn.use_onednn
    onednn.use_onednn(True)


@needs_onednn
@pytest.mark.parametrize(
    ("text", "sample_is_off", "grouped_is_off"),
    [
        ("off:grouped", False, True),
        ("off:strided,dilated", True, True),
        ("off:strided grouped", False, True),
        ("off:dilated strided", False, False),
        ("off:strided convolution", True, False),
        ("off:convolution grouped strided", False, True),
        ("off:convolution", False, False),
        ("off:bfloat16", False, False),
        ("off:bfloat16 strided,float32 grouped", False, True),
        ("off:float32", True, True),
    ],
)
def test_classes_are_switched_off(text, sample_is_off, grouped_is_off, switch):
    """Of the sample, which is strided, and of one that has groups too."""
    switch(text)
    x, w = sample()
    found = [onednn.refuses_conv(*operands, **SAMPLE, feature_group_count=groups)
             for groups, operands in ((1, (x, w)), (2, (x, w[:, :, :4])))]  # fmt: skip
    assert [reason is not None for reason in found] == [sample_is_off, grouped_is_off]
    for reason, kind in zip(found, [KIND, f"grouped {KIND}"], strict=True):
        assert reason is None or reason.startswith(f"a {kind} in float32 is switched off by 'off:"), reason
    assert calls(ours, x, w) == (not sample_is_off)


@needs_onednn
def test_a_type_that_is_off_is_unavailable(switch):
    problem = jdeconv.explain(*(np.ones(shape, "float32") for shape in ((4, 16, 16, 32), (3, 3, 32, 32))), strides=2)
    problem = problem.passes[0].problem
    assert engine.cpu_engine_kind(problem) == EngineKind(onednn=True)
    switch("off:float32")
    assert onednn.unavailable() == "float32 is switched off by 'off:float32' (use_onednn or JDECONV_ONEDNN)"
    assert not engine.cpu_engine_kind(problem).onednn


@needs_onednn
@pytest.mark.parametrize(
    ("dtype", "text", "types"),
    [
        ("bfloat16", True, {"bf16"}),
        ("bfloat16", "off:bfloat16", {"f32"}),
        ("bfloat16", "off:float32", {"bf16"}),
        ("bfloat16", "off:float32,bfloat16", set()),
        ("float32", "off:bfloat16", {"f32"}),
        ("float32", "off:float32", set()),
        ("float16", "off:bfloat16", {"f32"}),
        ("float16", "off:float32", set()),
    ],
)
def test_bfloat16_is_widened_where_it_is_off(dtype, text, types, switch, monkeypatch):
    """On a processor with AMX, or on one that is taken for such: the program isn't run."""
    flags = {*evidence.INSTRUCTIONS["bfloat16"]["amx"], "avx2"}
    monkeypatch.setattr(evidence, "processor", lambda: frozenset(flags))
    monkeypatch.setattr(onednn, "_probed", lambda *_: None)
    switch(text)
    program = jax.jit(jax.grad(lambda x, w: upsampled(x, w).astype("float32").sum(), (0, 1)))
    lowered = program.lower(X.astype(dtype), W.astype(dtype)).as_text()
    found = re.findall(r"@__onednn\$convolution.*: \(tensor<[\dx]+x(\w+)>, tensor<[\dx]+x(\w+)>\)", lowered)
    assert {each for pair in found for each in pair} == types


GIVEN = {"plain": dict(strides=1), "strided": dict(strides=2), "dilated": dict(strides=1, dilations=2)}


@needs_onednn
@pytest.mark.sampled(2)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("text", ["off:grouped", "off:strided,dilated", "off:convolution"])
def test_results_are_right_whatever_is_off(text, given, groups, switch):
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape, "float32") for shape in ((2, 9, 8, 16), (3, 3, 8, 16)))

    def gradients(x, w):
        size = (2, *(n * GIVEN[given]["strides"] for n in (9, 8)), 8 * groups)
        return jax.grad(lambda x, w: (jdeconv.conv2d_transpose(x, w, size, **GIVEN[given]) ** 2).sum(), (0, 1))(x, w)

    switch(False)
    expected = jax.jit(gradients)(x, w)
    switch(text)
    for found, wanted in zip(jax.jit(gradients)(x, w), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * abs(wanted).max())


@needs_onednn
def test_the_probe_calls_nothing_that_is_off(switch, monkeypatch, fresh_probe):
    seen, call = [], onednn._call
    monkeypatch.setattr(onednn, "_call", lambda config, *a: seen.append(config["feature_groups"]) or call(config, *a))
    switch("off:grouped")
    assert onednn.unavailable() is None
    assert set(seen) == {"1"}
    switch(True)
    assert onednn.unavailable() is None
    assert set(seen) == {"1", "2"}


@needs_onednn
def test_a_program_is_compiled_once_for_each_switch(switch):
    x, w = sample()
    traced = []
    program = jax.jit(lambda x, w: traced.append(_settings.onednn.value) or ours(x, w))
    for text in ("off:strided", "off:grouped,strided", "off: strided , grouped", "off:strided", True):
        switch(text)
        program(x, w)
    assert traced == [("strided",), ("grouped", "strided"), True]
    assert CALL in program.lower(x, w).compile().as_text()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1", True),
        ("on", True),
        ("0", False),
        ("off", False),
        (np.bool_(False), False),
        ("off:strided grouped,bfloat16", ("bfloat16", "grouped strided")),
        ("off:grouped,grouped", ("grouped",)),
    ],
)
def test_forms_of_the_switch(text, found):
    assert read_switch("enabled", text) == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("false", "unknown; expected '1', '0' or 'off:' and words"),
        ("on:grouped", "unknown; expected"),
        ("off:grouped,striped", "unknown word 'striped'; expected words of grouped, strided, dilated, convolution, "),
        ("off:float16", "unknown word 'float16'"),
        ("off:", "a word is missing"),
        ("off:grouped,", "a word is missing"),
        ("off:float32 bfloat16", "two types at once"),
    ],
)
def test_what_the_switch_is_not(text, problem):
    with pytest.raises(ValueError, match=re.escape(f"JDECONV_ONEDNN='{text}': {problem}")):
        read_switch("JDECONV_ONEDNN", text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0", "switched off by use_onednn(False) or JDECONV_ONEDNN=0"),
        ("", "True"),
        ("off:grouped,striped", "ValueError: JDECONV_ONEDNN='off:grouped,striped': unknown word 'striped'; expected"),
        ("off:grouped", "('grouped',)"),
    ],
)
def test_the_environment_has_the_same_forms(text, found):
    """A word that is misspelt there ends the import: nobody must believe that a fault is off."""
    code = (
        "from jdeconv import _settings\nfrom jdeconv._engine import onednn\n"
        "print(_settings.onednn.value or onednn.unavailable())"
    )
    command, environment = [sys.executable, "-c", code], {**os.environ, "JDECONV_ONEDNN": text}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (run.stdout + run.stderr).splitlines()[-1].startswith(found)


# The warning.


@pytest.fixture
def new_jaxlib(monkeypatch):
    """A version that nobody has tested, and a process that has not warned."""
    monkeypatch.setattr(onednn.version, "__version__", "0.99.0")
    monkeypatch.setattr(untested, "_warned", False)
    jax.clear_caches()


@needs_onednn
@pytest.mark.parametrize("how", ["eager", "jit", "gradient"])
def test_a_version_that_nobody_has_tested_warns_once(how, new_jaxlib):
    call = {"eager": upsampled, "jit": jax.jit(upsampled), "gradient": jax.grad(lambda x, w: upsampled(x, w).sum())}[
        how
    ]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call(X, W)
        jax.jit(lambda x, w: upsampled(x, w) + 1)(X, W)
    assert [(warning.category, warning.filename) for warning in seen] == [(UserWarning, __file__)]
    parts = (
        "oneDNN on jaxlib 0.99.0,",
        "1.1 to 4 times slower",
        "Tested: 0.10.2, ",
        "use_onednn(False) or JDECONV_ONEDNN=0",
    )
    assert [part for part in parts if part not in str(seen[0].message)] == []


@needs_onednn
def test_threads_warn_once(new_jaxlib):
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait()
        jax.jit(lambda x, w: upsampled(x, w) + number)(X, W)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(seen) == 1


@needs_onednn
def test_a_warning_that_is_an_error_is_one_at_each_program(new_jaxlib):
    program = jax.jit(upsampled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (program, program, upsampled):
            with pytest.raises(UserWarning, match="oneDNN"):
                call(X, W)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = program(X, W)
    np.testing.assert_allclose(found, upsampled(X, W))


VERSION = onednn.version.__version__
SILENT = {
    "tested": lambda patch: patch.setattr(onednn.version, "__version__", VERSION),
    "switched off": lambda patch: onednn.use_onednn(False),
    "another machine": lambda patch: patch.setattr(onednn.platform, "machine", lambda: "aarch64"),
    "an old processor": lambda patch: patch.setattr(evidence, "processor", frozenset),
    "a processor without a row": lambda patch: patch.setattr(evidence, "processor", lambda: frozenset({"avx10_2"})),
    "float64": lambda patch: jax.config.update("jax_enable_x64", True),
    "another platform": lambda patch: None,
    "an exported program": lambda patch: None,
}


@needs_onednn
@pytest.mark.parametrize("why", SILENT)
def test_no_warning_where_oneDNN_would_not_be_called(why, new_jaxlib, switch, monkeypatch):  # noqa: N802
    SILENT[why](monkeypatch)
    dtype = "float64" if why == "float64" else "float32"
    x, w = X.astype(dtype), W.astype(dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if why == "another platform":
                jax.jit(upsampled).trace(x, w).lower(lowering_platforms=("tpu",))
            elif why == "an exported program":
                jax.export.export(jax.jit(upsampled), platforms=("cpu",))(x, w)
            else:
                upsampled(x, w)
    finally:
        jax.config.update("jax_enable_x64", False)
