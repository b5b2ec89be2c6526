"""What oneDNN may be called for: the table of evidence, and what else closes the gate."""

import ast
import json
import pathlib
import re

import jax
import pytest
from onednn_sample import SAMPLE, calls, needs_onednn, ours, sample

from jdeconv._engine import evidence, onednn
from jdeconv._onednn_switch import ADJECTIVES, DTYPES

KEY = ("jaxlib", "isa", "dtype", "class")
CLASSES = {onednn._kind(stride, dilation, groups) for stride in (1, 2) for dilation in (1, 2) for groups in (1, 2)}
HERE = dict(jaxlib=onednn.version.__version__, isa=evidence.instruction_set("float32"), dtype="float32")


# The table.


def reasons():
    """What `onednn` refuses calls for: its strings, and patterns of those with values in them."""
    for node in ast.walk(ast.parse(pathlib.Path(onednn.__file__).read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.escape(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (re.escape(each.value) if isinstance(each, ast.Constant) else ".+" for each in node.values)
            yield "".join(parts)


def test_the_table_is_well_formed():
    """In the form that the tests' harness writes: sorted, a row a line."""
    rows = evidence.rows()
    keys = [tuple(row[name] for name in KEY) for row in rows]
    assert len(set(keys)) == len(keys)
    assert keys == sorted(keys, key=lambda key: ([int(part) for part in key[0].split(".")], *key[1:]))
    known = [re.compile(pattern) for pattern in {*reasons()} if len(pattern) > 10]
    shape = dict(
        jaxlib=str, isa=str, dtype=str, draws=int, seeds=list, date=(str, type(None)), processor=(str, type(None)),
        faults=int, refusals=list, guarded=bool,
    ) | {"class": str}  # fmt: skip
    versions = {row["jaxlib"] for row in rows}
    for row in rows:
        assert {name: isinstance(row[name], kind) for name, kind in shape.items()} == dict.fromkeys(shape, True), row
        assert set(row) <= {*shape, "same_onednn_as"}
        assert row.get("same_onednn_as", row["jaxlib"]) in versions
        assert row["isa"] in evidence.INSTRUCTIONS[row["dtype"]]
        assert row["class"] in CLASSES
        assert row["draws"] >= 0 <= row["faults"]
        assert row["date"] is None or re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"])
        assert row["seeds"] == sorted(set(row["seeds"]))
        for reason in row["refusals"]:
            assert any(pattern.fullmatch(reason) for pattern in known), reason
    lines = pathlib.Path(evidence.__file__).with_name("evidence.json").read_text().splitlines()
    assert [json.loads(line.strip().rstrip(",")) for line in lines[1:-1]] == [*rows]


def test_words_and_instruction_sets_agree():
    assert set(DTYPES) == set(evidence.INSTRUCTIONS)
    assert {word for kind in CLASSES for word in kind.split()} == {*ADJECTIVES, "convolution"}


@pytest.fixture
def table(monkeypatch, fresh_probe):
    """Puts another table in the place of the committed one."""

    def put(rows):
        monkeypatch.setattr(evidence, "rows", lambda: tuple(rows))
        evidence.proven.cache_clear()

    yield put
    evidence.proven.cache_clear()


def without(kind, **changes):
    """The rows for this process, that of `kind` changed, or left out."""
    for row in evidence.rows():
        if {**HERE, "class": kind}.items() <= row.items():
            if changes:
                yield row | changes
        else:
            yield row


KIND = "strided convolution"  # the sample's


@needs_onednn
@pytest.mark.parametrize("changes", [{}, dict(faults=1), dict(draws=0), dict(isa="avx10_2"), dict(jaxlib="0.0.1")])
def test_a_class_without_a_row_is_not_called(changes, table):
    x, w = sample()
    assert onednn.refuses_conv(x, w, **SAMPLE) is None
    table([*without(KIND, **changes)])
    assert onednn.refuses_conv(x, w, **SAMPLE) == f"a {KIND} in float32 by {HERE['isa']} is unproven"
    assert not calls(ours, x, w)
    assert onednn.refuses_conv(x, w, **(SAMPLE | dict(window_strides=(1, 1)))) is None  # another class


PLAIN = "sse2 avx avx2 fma avx_vnni"
AVX512 = f"{PLAIN} avx512f avx512bw avx512vl avx512dq"
BFLOAT16 = f"{AVX512} avx512_vnni avx512_bf16"
SAPPHIRE_RAPIDS = f"{BFLOAT16} avx512_fp16 amx_tile amx_int8 amx_bf16"


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "float32", "bfloat16"),
    [
        ("AuthenticAMD", 25, "sse2 avx", None, None),
        ("AuthenticAMD", 25, PLAIN, "avx2", None),
        ("GenuineIntel", 6, f"{PLAIN} avx512f avx512cd avx512er", "avx2", None),  # Knights Landing
        ("GenuineIntel", 6, f"{PLAIN} avx_vnni_int8 avx_ne_convert", "avx2", None),
        ("GenuineIntel", 6, AVX512, "avx512", None),
        ("AuthenticAMD", 26, BFLOAT16, "avx512", "avx512_bf16"),
        ("GenuineIntel", 6, SAPPHIRE_RAPIDS, "avx512", "amx"),
        ("GenuineIntel", 6, f"{SAPPHIRE_RAPIDS} amx_fp16", "avx512", "amx"),
        ("GenuineIntel", 6, SAPPHIRE_RAPIDS.replace("avx512_fp16", ""), "avx512", "avx512_bf16"),
        ("GenuineIntel", 19, SAPPHIRE_RAPIDS, "avx10_2", "avx10_2"),  # Diamond Rapids, by a Linux that doesn't know it
        ("GenuineIntel", 6, f"{SAPPHIRE_RAPIDS} apx", "avx10_2", "avx10_2"),
        ("AuthenticAMD", 27, f"{BFLOAT16} avx10_2", "avx10_2", "avx10_2"),
    ],
)
def test_what_onednn_dispatches_to(vendor, family, flags, float32, bfloat16, monkeypatch):
    text = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 1\nflags\t\t: {flags}\n"
    found = evidence._instructions(text)
    monkeypatch.setattr(evidence, "processor", lambda: found)
    assert (evidence.instruction_set("float32"), evidence.instruction_set("bfloat16")) == (float32, bfloat16)


@needs_onednn
def test_a_processor_without_a_row_is_left_to_lax_in_silence(monkeypatch):
    monkeypatch.setattr(evidence, "processor", lambda: frozenset([*SAPPHIRE_RAPIDS.split(), "avx10_2"]))
    reason = f"float32 by avx10_2 is unproven on jaxlib {HERE['jaxlib']}"
    assert onednn.unavailable() == onednn.refuses_conv(*sample(), **SAMPLE) == reason
    assert not calls(ours, *sample())  # in the tests a warning is an error


@needs_onednn
def test_bfloat16_needs_its_products(monkeypatch):
    monkeypatch.setattr(evidence, "processor", lambda: frozenset(AVX512.split()))
    x, w = sample("bfloat16")
    assert onednn.refuses_conv(x, w, **SAMPLE) == "a processor without avx512_bf16"
    assert not calls(ours, x, w)


# The gate.


@pytest.fixture(
    params=["version", "machine", "variable", "processor", "cache", "switch", "table", "probe raises", "probe differs"]
)
def closed(request, monkeypatch, tmp_path, table):
    """Each thing that closes the gate, and what the reason then says."""
    match request.param:
        case "version":
            monkeypatch.setattr(onednn.version, "__version__", "0.99.0")
            yield "jaxlib 0.99.0; tested: 0.10.2, "
        case "machine":
            monkeypatch.setattr(onednn.platform, "machine", lambda: "aarch64")
            yield "aarch64"
        case "variable":
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
            yield "ONEDNN_MAX_CPU_ISA"
        case "processor":
            monkeypatch.setattr(evidence, "processor", frozenset)
            yield "without avx2"
        case "cache":
            jax.config.update("jax_compilation_cache_dir", str(tmp_path))
            yield "jax_compilation_cache_dir"
            jax.config.update("jax_compilation_cache_dir", None)
        case "switch":
            onednn.use_onednn(False)
            yield "use_onednn"
            onednn.use_onednn(True)
        case "table":
            table([{"jaxlib": "0.10.2"}])
            yield "the table of evidence can't be read: KeyError: 'draws'"
        case "probe raises":
            monkeypatch.setattr(onednn, "_call", lambda *_: 1 / 0)
            yield "ZeroDivisionError"
        case "probe differs":
            call = onednn._call
            monkeypatch.setattr(onednn, "_call", lambda *a: call(*a) + 1)
            yield "differs"


@needs_onednn
def test_a_closed_gate_leaves_all_to_lax(closed):
    x, w = sample()
    assert closed in onednn.refuses_conv(x, w, **SAMPLE)
    assert closed in onednn.unavailable()
    if closed != "jax_compilation_cache_dir":  # this test shall store nothing
        assert not calls(ours, x, w)
