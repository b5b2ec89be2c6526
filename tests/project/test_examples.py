"""Every example runs in its quick mode, draws something, and does what it says it does."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jdeconv

EXAMPLES = Path(__file__).parents[2] / "examples"
DRAWING = ("matplotlib", "PIL", "sklearn", "tqdm")


def numbers(pattern, text):
    """The numbers in the groups of the one place where the pattern matches."""
    (match,) = re.finditer(pattern, text, re.MULTILINE)
    return [float(group) for group in match.groups()]


def decibels(name, text):
    return numbers(rf"^  {re.escape(name)} +(\d+\.\d+) dB$", text)[0]


def learned_kernel_beats_bilinear(text):
    assert decibels("learned", text) > decibels("bilinear", text) > decibels("input (nearest)", text)


def loss_falls(text):
    before, after = numbers(r"(\d+\.\d+) nats before training, (\d+\.\d+) after", text)
    assert after < 0.7 * before


def noise_is_taken_out(text):
    assert decibels("U-Net", text) > decibels("best Gaussian blur", text) > decibels("noisy", text)


def digits_are_read(text):
    (right,) = numbers(r"reads (\d+\.\d+) % of 1000 generated digits", text)
    assert right > 25


def pictures_are_the_same(text):
    differences = re.findall(r"largest difference between the pictures, white being 1: (\S+)$", text, re.M | re.I)
    assert differences
    assert all(float(difference) < 1e-5 for difference in differences)


def network_beats_bicubic(text):
    assert decibels("network", text) > decibels("bicubic", text) + 0.1  # which it starts as


def served_equals_trained(text):
    packages = ["StableHLO", *(["TensorFlow"] if importlib.util.find_spec("tensorflow") else [])]
    for package in packages:
        (difference,) = numbers(rf"^{package} equals what was trained .* they differ by (\S+) at most$", text)
        assert difference <= 1e-5
    assert ("SavedModel: skipped" in text) == ("TensorFlow" not in packages)
    network, blocks = numbers(r"held-out digits: (\d+\.\d+) of ink, input (\d+\.\d+)$", text)
    assert network < blocks


def devices_agree_and_gather_nothing(text):
    ways = dict(
        re.findall(r"^(.*): devices exchange (.*); gradients differ from one device's by .*$", text, re.MULTILINE)
    )
    assert ways["one device"] == "nothing"
    assert ways["batch split"] == "1 all-reduce"
    assert re.fullmatch(r"1 all-reduce, \d+ collective-permute", ways["images split, shard_map"])
    assert "all-gather" in ways["images split, jit alone"]  # when this fails, the example says too much
    for way in "one device", "batch split", "images split, shard_map":
        first, last = numbers(rf"^{way}: loss (\d+\.\d+) in the first step, (\d+\.\d+) in the last$", text)
        assert last < 0.9 * first


def both_trainings_are_one(text):
    (difference,) = numbers(r"^losses of the same step differ by (\S+) of them at most$", text)
    assert difference < 1e-3
    (difference,) = numbers(r"^cleaned photographs differ by (\S+) at most, white being 1$", text)
    assert 0 < difference < 1e-2  # equal to the last bit, both would come from one program
    for name in "plain", "patched":
        first, last = numbers(rf"^{name}: loss (\d+\.\d+) in the first step, (\d+\.\d+) in the last$", text)
        assert last < 0.9 * first
    assert abs(decibels("plain", text) - decibels("patched", text)) < 0.02
    assert decibels("patched", text) > decibels("noisy", text)


def warned_of(text):
    """The warnings whose cause is a line of an example or of the package; other libraries' own are theirs."""
    ours = "|".join(re.escape(str(folder)) for folder in (EXAMPLES, Path(jdeconv.__file__).parent))
    return re.findall(rf"^(?:{ours})/\S+:\d+: \w*Warning: .*", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "arguments", "packages", "check"),
    [
        ("upsample_photo", ("--steps", "60", "--max-size", "200"), (), learned_kernel_beats_bilinear),
        ("digits_vae", ("--quick",), ("flax", "optax"), loss_falls),
        ("denoise_unet", ("--quick",), ("equinox", "optax"), noise_is_taken_out),
        ("digits_dcgan", ("--quick",), ("flax", "optax"), digits_are_read),
        ("super_resolution", ("--quick",), ("optax",), network_beats_bicubic),
        ("from_keras", ("--quick",), ("keras", "tensorflow"), pictures_are_the_same),
        ("from_pytorch", ("--quick",), ("flax", "torch"), pictures_are_the_same),
        ("serve", ("--quick",), ("optax",), served_equals_trained),
        ("many_devices", ("--quick",), ("optax",), devices_agree_and_gather_nothing),
        ("train_unedited", ("--quick",), ("flax", "optax"), both_trainings_are_one),
    ],
)
def test_example(name, arguments, packages, check, tmp_path):
    absent = [package for package in (*DRAWING, *packages) if importlib.util.find_spec(package) is None]
    if absent and os.environ.get("JDECONV_ORACLES") != "1":
        pytest.skip(f"{', '.join(absent)} not installed (pip install 'jdeconv[models]')")
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-W", "always", EXAMPLES / f"{name}.py", *arguments, "--out", picture]
    # Which the benchmarks set, where their tests run in this process.
    variables = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert warned_of(done.stderr) == []
    assert done.stdout.splitlines()[-1].endswith(f": {picture}")
    check(done.stdout)

    from PIL import Image

    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"), np.float32)
    assert min(pixels.shape) > 300
    assert pixels.std() > 10


def test_every_example_is_tested():
    (mark,) = test_example.pytestmark
    assert {row[0] for row in mark.args[1]} == {path.stem for path in EXAMPLES.glob("[!_]*.py")}


def test_a_warning_of_ours_is_seen():
    code = "import warnings; warnings.warn_explicit('old', DeprecationWarning, {!r}, 3)"
    text = ""
    for file in (EXAMPLES / "serve.py", Path(jdeconv.__file__), Path(np.__file__)):
        command = [sys.executable, "-W", "always", "-c", code.format(str(file))]
        text += subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert warned_of(text) == [
        f"{file}:3: DeprecationWarning: old" for file in (EXAMPLES / "serve.py", jdeconv.__file__)
    ]
