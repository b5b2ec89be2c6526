"""The benchmark's machinery, on work too small to tell a speed."""

import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import measure, peers, report
from benchmarks.peers import jax as peer_jax
from benchmarks.peers import torch as peer_torch
from benchmarks.peers.layouts import convolution_kernel
from benchmarks.report import summary
from benchmarks.work import cases, models, ordinary, stacks

ODD = cases.Case("odd", 2, (4, 3), 4, 6, (3, 5), (2, 2))
GROUPED = cases.Case("grouped", 2, (5,), 4, 6, (4,), (2,), groups=2)
WIDE_STRIDE = cases.Case("wide stride", 1, (2, 3, 2), 2, 3, (2, 1, 3), (3, 2, 1))
NETWORK = stacks.Stack(
    "network",
    (
        stacks.Layer(cases.cube("first", 2, 3, (4, 6), 3, 2), "relu"),
        stacks.Layer(cases.cube("last", 2, 6, (8, 3), 3, 1), "tanh", skip=2),
    ),
)
ENSEMBLE = cases.Ensemble("ensemble", 3, ODD)
CONVOLUTIONS = (
    ordinary.Ordinary("strided", 2, (9, 7), 4, 6, (3, 5), (2, 2)),
    ordinary.Ordinary("depthwise", 2, (6, 5), 4, 8, (3, 3), (1, 1), groups=4),
    ordinary.Ordinary("causal", 2, (12,), 4, 6, (3,), (1,), dilation=2, padding="causal"),
    ordinary.Ordinary("patches", 1, (4, 8, 4), 3, 5, (2, 4, 2), (2, 4, 2), padding="valid"),
)


def every_layer(layers, x, noise, target):
    """A model with each kind of layer once."""
    y = layers.activate(layers.norm(layers.conv(x, 8, 3, padding=1, groups=4, bias=False), "batch"), "relu")
    y = layers.join([y, layers.up(layers.max_pool(y, 3, 2, padding=1), 4, 4, 2, padding=1)])
    y = y + layers.scale(layers.dense(layers.activate(layers.norm(y, "layer"), "gelu"), 12))
    flat = layers.flatten(layers.image(layers.dense(layers.flatten(y), 24), (2, 3)))
    mean, log_variance = layers.dense(flat, 5), layers.dense(flat, 5)
    drawn = layers.join([layers.sample(mean, log_variance, noise), layers.mean(y)])
    drawn = layers.batch([layers.activate(drawn, "leaky_relu"), layers.activate(drawn, "sigmoid")])
    return layers.squared_error(drawn, target) + layers.divergence(mean, log_variance)


def gates(layers, x, target):
    value, gate = (layers.conv(x, 3, 2, padding="causal", dilation=2) for _ in range(2))
    y = layers.activate(value, "tanh") * layers.activate(layers.norm(gate, "batch"), "sigmoid")
    return layers.squared_error(y, target)


MODEL = models.Model("every layer", every_layer, {"x": (2, 4, 6, 4), "noise": (2, 5), "target": (4, 17)})
GATES = models.Model("gates", gates, {"x": (2, 9, 4), "target": (2, 9, 3)})
CHECKED = [name for name in peers.PEERS if name.startswith(("jdeconv", "lax", "zero"))]
if os.environ.get("JDECONV_ORACLES") == "1":
    CHECKED += ["torch:channels-last", "torch:contiguous"]


def test_to_import_it_changes_no_environment():
    """What it sets for Keras would hold for whatever runs after it in the process: tests, snippets of the pages."""
    program = "import os, jax; before = dict(os.environ); import benchmarks.__main__; assert dict(os.environ) == before"
    bare = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    subprocess.run([sys.executable, "-c", program], cwd=pathlib.Path(__file__).parents[2], env=bare, check=True)


def measured(work, dtype="float32", pass_="train", **more):
    builders = {name: peers.PEERS[name].asked[type(work)] for name in CHECKED if type(work) in peers.PEERS[name].asked}
    return measure.measure(work, dtype, pass_, builders | more, rounds=2, budget=1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("work", "dtype"),
    [
        *((work, "float32") for work in (ODD, GROUPED, WIDE_STRIDE, NETWORK, ENSEMBLE, *CONVOLUTIONS)),
        (ODD, "bfloat16"),
        (CONVOLUTIONS[0], "bfloat16"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_peer_computes_the_same(work, dtype):
    records = measured(work, dtype)
    assert not report.wrongs(records)
    timed = {record.peer: record.rounds for record in records if record.ms}
    assert timed.keys() >= {"jdeconv", "lax"}
    assert set(timed.values()) == {2}
    assert all(record.costs.compile_s > 0 for record in records if record.ms and "torch" not in record.peer)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model", [GATES, MODEL], ids=lambda model: model.name)
def test_a_model_is_the_same_in_every_framework(model, monkeypatch):
    pytest.importorskip("flax")
    # Its threads can't be set any more where an earlier test has used TensorFlow. The numbers don't depend on them.
    for module in ("tensorflow", "models_tensorflow"):
        monkeypatch.setattr(f"benchmarks.peers.{module}.tensorflow", lambda: importlib.import_module("tensorflow"))
    names = [*CHECKED, "flax", *(["tensorflow"] if os.environ.get("JDECONV_ORACLES") == "1" else [])]
    asked = {name: peers.PEERS[name].asked[models.Model] for name in names if models.Model in peers.PEERS[name].asked}

    def half(*given):
        entry = asked["flax"](*given)
        return entry._replace(results=lambda found: [*entry.results(found)[:-1], entry.results(found)[-1] / 2])

    records = {r.peer: r for r in measure.measure(model, "float32", "train", asked | {"half": half}, 2, budget=0)}
    assert [name for name, found in records.items() if found.wrong] == ["half"]
    assert {name for name, found in records.items() if found.ms} >= {"jdeconv", "flax"}
    assert all(records[name].costs.compile_s > 0 for name in ("jdeconv", "flax"))
    rows = report.models(list(records.values())).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == [model.name, "geometric mean", "least", "most"]


def normed(layers, x, target):
    y = layers.activate(layers.norm(layers.conv(x, 3, 2, padding="causal"), "batch"), "relu6")
    return layers.squared_error(layers.dense(layers.mean(y), 2), target)


def test_rounding_excuses_no_wrong_model(monkeypatch):
    pytest.importorskip("flax")
    model = models.Model("normed", normed, {"x": (2, 7, 4), "target": (2, 2)})
    given = model.arrays("float32")
    monkeypatch.setitem(measure.STACK_BOUNDS, ("cpu", "float32"), 0)
    want, allowed = measure.reference(model, given, "float32", "train")
    assert 1e-8 < allowed < 1e-5  # a small model moves by a few roundings
    monkeypatch.undo()
    monkeypatch.setattr(measure, "SENSITIVE", 1e9)  # a model that rounding alone makes another
    _, allowed = measure.reference(model, given, "float32", "train")
    shifted = [np.roll(given.inputs[0], 1, axis=1), *given.inputs[1:]]  # as a wrong padding shifts them
    unbiased = [weights | {"bias": 0 * weights["bias"]} if "scale" in weights else weights for weights in given.weights]
    build = peers.PEERS["flax"].asked[models.Model]

    def results(given):
        entry = build(model, given, "float32", "train")
        return entry.results(entry.run())

    measure.compare(model, "float32", results(given), want, allowed)
    for wrong in (given._replace(inputs=shifted), given._replace(weights=unbiased)):
        with pytest.raises(measure.WrongResult):
            measure.compare(model, "float32", results(wrong), want, allowed)


def test_each_model_fits_its_targets():
    """The shapes alone: the whole step is too dear here."""
    for model in models.MODELS:
        assert model.flops > 1e8
        given = model.arrays("float32")
        assert len(given.weights) == len(given.kinds)
        assert [array.shape for array in given.inputs] == list(model.inputs.values())


def test_the_work_of_ordinary_convolutions():
    work = CONVOLUTIONS[0]  # 9x7 images become 5x4, 15 taps, 4 to 6 channels
    assert work.out_size == (5, 4)
    assert work.flops == 2 * 2 * 5 * 4 * 15 * 4 * 6
    names = {work.name for work in ordinary.ORDINARY}
    assert len(names) == len(ordinary.ORDINARY) >= 30


def test_a_wrong_peer_is_caught_and_not_timed():
    half = peer_jax.Operation(lambda case, x, w: peer_jax.of_jdeconv("auto").apply(case, x, w / 2))
    off = peer_jax.Operation(lambda case, x, w: peer_jax.of_jdeconv("auto").apply(case, x, w * (1 + 1e-4)))
    bad = {name: functools.partial(peer_jax.case_entry, op) for name, op in (("half", half), ("off", off))}
    bad["broken"] = lambda *asked: 1 // 0
    records = {record.peer: record for record in measured(ODD, **bad)}
    assert {peer for peer, record in records.items() if record.wrong} == bad.keys()
    no_kernel = {"jdeconv:pallas"}  # for a CPU
    assert {peer for peer, record in records.items() if record.ms is None} == bad.keys() | no_kernel
    assert [line.split(": ")[0] for line in report.wrongs(records.values())] == [
        "odd, float32, train, half",
        "odd, float32, train, off",
        "odd, float32, train, broken",
    ]
    assert "## Wrong, so not timed" in report.markdown(FACTS, list(records.values()))


@pytest.mark.parametrize("by_norm", [False, True])
def test_a_wrong_array_is_told(by_norm):
    right = [np.ones((2, 3), "float32")]
    measure.check(right, right, 1e-5, by_norm)
    for wrong in ([right[0] * 1.01], [np.full((2, 3), np.nan)], [right[0].T], [*right, *right]):
        with pytest.raises(measure.WrongResult):
            measure.check(wrong, right, 1e-5, by_norm)


def record(peer, ms, **more):
    given = dict(kind="cases", name="a", label="a", dtype="float32", pass_="train", groups=1)
    return measure.Record(peer=peer, ms=ms, flops=1, bytes=1, outputs=1, **given | more)


def test_geometric_mean_and_least():
    assert summary.geometric_mean([1, 4, 16]) == pytest.approx(4)
    records = [
        record("jdeconv", 2.0),
        record("tensorflow", 16.0),
        record("torch:contiguous", 8.0),
        record("jdeconv", 2.0, name="b"),
        record("torch:contiguous", 2.0, name="b"),
        record("jdeconv", 2.0, name="c"),
        record("torch:contiguous", None, name="c"),
    ]
    found = summary.ratios(records, ("tensorflow", "torch:contiguous"))
    assert found == (pytest.approx(2), 1, "b", 2)  # 8/2 in a, where PyTorch is the faster; nobody in c
    assert summary.ratios(records, ("onnxruntime",)) is None
    assert summary.of_target(records, summary.TARGETS[0]) == found


def test_short_work_is_timed_after_some_of_it(monkeypatch):
    turns = []
    measure.interleave({"short": functools.partial(turns.append, "short")}, rounds=1, budget=0)
    assert len(turns) > 2
    monkeypatch.setattr(measure, "SLOW", -1)
    measure.interleave({"slow": functools.partial(turns.append, "slow")}, rounds=1, budget=0)
    assert turns.count("slow") == 1


def test_slow_peers_sit_out_turns(monkeypatch):
    monkeypatch.setattr(measure, "SETTLING", 0)
    monkeypatch.setattr(measure, "TIMING", 0)
    turns = []
    runs = {name: functools.partial(turns.append, name) for name in ("slow", "fast")}
    samples = measure.interleave(runs, rounds=5, budget=0)
    assert [len(samples[name]) for name in runs] == [2, 2]
    assert [len(taken) for taken in measure.interleave(runs, rounds=5, budget=9).values()] == [5, 5]
    assert turns[4:6] == ["slow", "fast"]  # in turns
    assert sorted(turns[6:8]) == ["fast", "slow"]


def test_layouts():
    w = np.arange(3 * 2 * 6).reshape(3, 2, 6)
    assert convolution_kernel(w, 3).shape == (3, 2, 6)
    assert (convolution_kernel(convolution_kernel(w, 3), 3) == w).all()
    assert convolution_kernel(w, 3)[0, 0, 5] == w[2, 1, 4]  # group 2: its output 1 and its input 0, the taps flipped


def test_the_sweep_is_broad_and_the_same_at_every_call():
    sweep = cases.sweep()
    assert len(sweep) >= 60
    assert sweep == cases.sweep()
    assert {case.rank for case in sweep} == {1, 2, 3}
    assert {stride for case in sweep for stride in case.stride} == set(range(1, 9))
    assert sum(case.groups > 1 for case in sweep) >= 5
    names = [work.name for work in command.selected(None, (), False)]
    assert len(names) == len(set(names))


def test_pytorch_is_told_the_mirrored_problem():
    assert peer_torch._geometry(ODD) == dict(stride=(2, 2), padding=[1, 2], output_padding=[1, 1], groups=1)
    with pytest.raises(NotImplementedError, match="stride is 1"):
        peer_torch._geometry(cases.cube("even", 1, 4, (1, 1), 4, 1))


FACTS = {
    "device": "cpu: cpu",
    "processor": "x",
    "threads": 2,
    "python": "3",
    "versions": {"jax": "1"},
    "peak": {"float32": 100.0},
    "environment": {"XLA_FLAGS": "--some"},
}


def test_tables():
    records = [record("jdeconv", 2.0), record("lax", 8.0), record("flax", None, reason="has none")]
    assert report.medians(records).splitlines() == [
        "| ms (times jdeconv's) | jdeconv |          lax |",
        "|----------------------|--------:|-------------:|",
        "| a: a                 |    2.00 | 8.00 (4.00x) |",
    ]
    text = report.markdown(FACTS, records)
    assert "- flax, float32, train: has none" in text
    assert "Matrix product: 100 GFLOP/s in float32. XLA_FLAGS=--some." in text
    assert [line for line in text.splitlines() if line.startswith("| Cases: train")] == [
        "| Cases: train, float32 |     lax |           4.00 |  4.00 |  a |     1 |"
    ]


def test_the_command(tmp_path, capsys):
    device = jax.config.jax_default_device
    try:
        arguments = ["--quick", "--cases", "k9s3", "--peers", "lax", "--pass", "forward", "--costs"]
        assert command.main([*arguments, "--out", str(tmp_path / "new")]) == 0
        assert command.main(["--cases", "no such case"]) == 2
    finally:
        jax.config.update("jax_default_device", device)
    written = (tmp_path / "new/results.md").read_text(encoding="utf-8")
    assert written in capsys.readouterr().out
    assert "## Costs" in written
    found = json.loads((tmp_path / "new/results.json").read_text(encoding="utf-8"))
    assert [(row["name"], row["peer"], row["rounds"]) for row in found["records"]] == [
        ("k9s3", "jdeconv", 2),
        ("k9s3", "lax", 2),
    ]
    assert found["machine"]["threads"] >= 1
    assert found["machine"]["peak"]["float32"] > 0
    assert found["records"][0]["costs"]["compile_s"] > 0
