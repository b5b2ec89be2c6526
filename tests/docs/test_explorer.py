"""The explorer's arithmetic and its calls, run in a headless Chromium, against jdeconv's and against the libraries.

Without Chromium these tests are skipped, unless JDECONV_BROWSER=1 (CI sets it).
"""

import html
import json
import os
import pathlib
import random
import shutil
import subprocess
from collections import Counter

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import Case
from peers import needs, peer

import jdeconv
from jdeconv._geometry import build

EXPLORER = pathlib.Path(__file__).parents[2] / "docs" / "pages" / "explorer"
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ANSWERS = """
const answers = SETTINGS.map((setting) => {
  const sizes = geometry.outputSizes(setting);
  const outputs = [];
  for (let size = sizes.smallest; size <= sizes.largest; size++) {
    outputs.push({
      size,
      cut: geometry.cut(setting, size),
      joins: geometry.joins(setting, size),
      counts: geometry.counts(setting, size),
      calls: Object.fromEntries(Object.entries(calls).map(([name, call]) => [name, call(setting, size)])),
    });
  }
  return { sizes, outputs, phases: geometry.tapsPerPhase(setting) };
});
document.body.textContent = JSON.stringify(answers);
"""
# The sliders as a reader would move them: (name, value) one after another, then what is shown.
MOVES = """
const form = document.querySelector("#geometry-explorer form");
for (const [name, value] of MOVES) {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
}
document.querySelector("#geometry-explorer g[data-output='2']")?.dispatchEvent(new Event("click"));
const shown = (name) => document.querySelector(`#geometry-explorer .${name}:not([hidden])`);
document.body.textContent = JSON.stringify({
  sizes: shown("sizes").textContent,
  readout: shown("readout")?.textContent ?? "",
  code: [...(shown("calls")?.querySelectorAll("code") ?? [])].map((code) => code.textContent),
  map: shown("map")?.querySelector("p").textContent ?? "",
  lines: shown("drawing")?.querySelectorAll("line").length ?? 0,
  hidden: [...form.parentElement.querySelectorAll("[hidden]")].map((part) => part.dataset.for ?? part.className),
});
"""

if CHROMIUM is None and os.environ.get("JDECONV_BROWSER") == "1":
    raise RuntimeError("JDECONV_BROWSER=1, but there is no chromium on the PATH")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def some_settings(count):
    """Settings as the sliders give them, and beyond."""
    draw = random.Random(11)
    for _ in range(count):
        padding = draw.choice(["SAME", "VALID", [draw.randrange(9), draw.randrange(9)]])
        yield dict(
            input=draw.randint(1, 9),
            kernel=draw.randint(1, 9),
            stride=draw.randint(1, 6),
            dilation=draw.randint(1, 4),
            padding=padding,
        )


SETTINGS = list(some_settings(400))


def browsed(folder, body, scripts, script):
    """What `script` leaves, as JSON, on a page that has the explorer's scripts."""
    sources = "".join(f'<script src="{(EXPLORER / name).as_uri()}.js"></script>' for name in scripts)
    page = folder / "page.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body>{body}{sources}<script>{script}</script></body>')
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return json.loads(html.unescape(dom[dom.index("<body>") + len("<body>") : dom.index("</body>")]))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The page's answers to each of SETTINGS."""
    script = ANSWERS.replace("SETTINGS", json.dumps(SETTINGS))
    return browsed(tmp_path_factory.mktemp("browser"), "", ("geometry", "calls"), script)


def pads(setting):
    return setting["padding"] if isinstance(setting["padding"], str) else [tuple(setting["padding"])]


def case_of(setting, size, rank):
    """The case that has the setting in each of `rank` dimensions."""
    padding = setting["padding"] if isinstance(setting["padding"], str) else (tuple(setting["padding"]),) * rank
    each = [(setting[name],) * rank for name in ("input", "kernel", "stride", "dilation")]
    return Case(1, *each, padding, (size,) * rank)


def test_the_sizes_are_those_of_output_sizes(answers):
    none = 0
    for setting, answer in zip(SETTINGS, answers, strict=True):
        default, reachable = jdeconv.output_sizes(
            setting["input"], setting["kernel"], setting["stride"], pads(setting), setting["dilation"]
        )
        assert [output["size"] for output in answer["outputs"]] == list(reachable), setting
        none += not reachable
        if reachable:
            assert answer["sizes"]["byDefault"] == default, setting
    assert 0 < none < 40


def test_the_cut_is_the_geometrys(answers):
    for setting, answer in zip(SETTINGS, answers, strict=True):
        one = [(setting[name],) for name in ("input", "kernel", "stride", "dilation")]
        for output in answer["outputs"]:
            geometry = build(*one, pads(setting), (output["size"],))
            assert (output["cut"]["low"], output["cut"]["high"]) == (*geometry.low, *geometry.high), setting


def test_the_lines_are_the_definitions(answers):
    for setting, answer in zip(SETTINGS, answers, strict=True):
        for output in answer["outputs"]:
            case = case_of(setting, output["size"], 1)
            want = {(p, t, q) for (p,), (t,), (q,) in oracle.joins(case)}
            every = output["joins"]
            assert {(join["input"], join["tap"], join["output"]) for join in every if join["kept"]} == want, setting
            assert len(every) == setting["input"] * setting["kernel"]
            assert output["counts"] == [sum(q == at for _, _, q in want) for at in range(output["size"])], setting


def test_the_phases_are_those_of_a_long_input(answers):
    for setting, answer in zip(SETTINGS, answers, strict=True):
        many = 100
        case = case_of({**setting, "input": many, "padding": "VALID"}, many * setting["stride"], 1)
        reached = Counter(q for _, _, (q,) in oracle.joins(case))
        middle = range(50 * setting["stride"], 51 * setting["stride"])
        span = oracle.window_span(setting["kernel"], setting["dilation"])
        assert span <= middle.start <= case.out_sizes[0] - span
        assert answer["phases"] == [reached[q] for q in middle], setting


tensorflow, torch, flax = peer("tensorflow"), peer("torch"), peer("flax")


def in_jdeconv(code, x, w):
    return eval(code, dict(jdeconv=jdeconv, x=x, w=w))


def in_tensorflow(code, x, w):
    names = dict(tf=tensorflow, x=x, w=w, n=1, c_out=1)
    return tensorflow.function(lambda: eval(code, names), jit_compile="dilations" in code)().numpy()


def in_torch(code, x, w):
    names = dict(F=torch.nn.functional, x=torch.tensor(np.moveaxis(x, 3, 1)), w=torch.tensor(w).permute(3, 2, 0, 1))
    return np.moveaxis(eval(code, names).numpy(), 1, 3)


def in_flax(code, x, w):
    from flax import nnx

    layer = eval(code, dict(nnx=nnx, c_in=1, c_out=1, rngs=nnx.Rngs(0)))
    layer.kernel[...] = jnp.asarray(w)
    return layer(x)


@pytest.mark.parametrize(
    ("library", "run", "count"),
    [
        ("jdeconv", in_jdeconv, 25),
        pytest.param("tensorflow", in_tensorflow, 25, marks=needs(tensorflow, "TensorFlow")),
        pytest.param("torch", in_torch, 60, marks=needs(torch, "PyTorch")),
        pytest.param("flax", in_flax, 25, marks=needs(flax, "Flax")),
    ],
)
def test_the_calls_do_what_is_drawn(answers, library, run, count):
    rng = np.random.default_rng(5)
    draw = random.Random(7)
    for setting, answer in zip(SETTINGS[:count], answers[:count], strict=True):
        if not any(output["size"] for output in answer["outputs"]):
            continue
        output = draw.choice([output for output in answer["outputs"] if output["size"]])
        call = output["calls"][library]
        if "wrong numbers" in call["note"]:  # the page says that this one can't be trusted
            continue
        case = case_of(setting, output["size"], 2)
        x = rng.standard_normal((1, *case.in_sizes, 1)).astype(np.float32)
        w = rng.standard_normal((*case.kernel, 1, 1)).astype(np.float32)
        want = oracle.transpose_conv(case, x, w)
        bound = case.kernel[0] ** 2 * np.finfo(np.float32).eps * oracle.transpose_conv(case, abs(x), abs(w))
        found = np.asarray(run(call["code"], x, w))
        assert found.shape == want.shape, call
        assert (abs(found - want) <= bound).all(), call


UNEVEN = "Uneven, a checkerboard: along one dimension 2, 1 taps in turn, away from the borders."
SHOWN = {
    "at first": (
        [],
        dict(
            sizes="Reachable output sizes: 7, 8 (default).",
            readout="y[2] = x[0]·w[2] + x[1]·w[0]",
            code=[
                'jdeconv.conv2d_transpose(x, w, (8, 8), strides=2, padding="SAME")',
                'tf.nn.conv2d_transpose(x, w, (n, 8, 8, c_out), strides=2, padding="SAME")',
                "F.conv_transpose2d(x, w, stride=2)[..., 0:8, 0:8]",
                'nnx.ConvTranspose(c_in, c_out, (3, 3), strides=2, padding="SAME", transpose_kernel=True, rngs=rngs)',
            ],
            map=f"Taps per pixel of an image: 1, 2, 4. {UNEVEN}",
            lines=12,
            hidden=["low", "high"],
        ),
    ),
    "a smaller size": (
        [("output", 7)],
        dict(
            sizes="Reachable output sizes: 7, 8 (default).",
            readout="y[2] = x[1]·w[1]",
            code=[
                'jdeconv.conv2d_transpose(x, w, (7, 7), strides=2, padding="SAME")',
                'tf.nn.conv2d_transpose(x, w, (n, 7, 7, c_out), strides=2, padding="SAME")',
                "F.conv_transpose2d(x, w, stride=2, padding=1)",
                "nnx.ConvTranspose(c_in, c_out, (3, 3), strides=2, "
                "padding=((1, 1), (1, 1)), transpose_kernel=True, rngs=rngs)",
            ],
            map=f"Taps per pixel of an image: 1, 2, 4. {UNEVEN}",
            lines=12,
            hidden=["low", "high"],
        ),
    ),
    "even": (
        [("kernel", 4)],
        dict(
            sizes="Reachable output sizes: 7, 8 (default).",
            readout="y[2] = x[0]·w[3] + x[1]·w[1]",
            code=[
                'jdeconv.conv2d_transpose(x, w, (8, 8), strides=2, padding="SAME")',
                'tf.nn.conv2d_transpose(x, w, (n, 8, 8, c_out), strides=2, padding="SAME")',
                "F.conv_transpose2d(x, w, stride=2, padding=1)",
                'nnx.ConvTranspose(c_in, c_out, (4, 4), strides=2, padding="SAME", transpose_kernel=True, rngs=rngs)',
            ],
            map="Taps per pixel of an image: 1, 2, 4. Away from the borders every pixel gets 4.",
            lines=16,
            hidden=["low", "high"],
        ),
    ),
    "nothing left": (
        [("padding", "explicit"), ("input", 1), ("stride", 1), ("low", 8)],
        dict(
            sizes="The padding leaves nothing: no output size is reachable.",
            readout="",
            code=[],
            map="",
            lines=0,
            hidden=["legend", "drawing", "readout", "map", "calls"],
        ),
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_page_shows(tmp_path, name):
    moves, want = SHOWN[name]
    scripts = ("geometry", "calls", "explorer")
    assert (
        browsed(tmp_path, '<div id="geometry-explorer"></div>', scripts, MOVES.replace("MOVES", json.dumps(moves)))
        == want
    )
