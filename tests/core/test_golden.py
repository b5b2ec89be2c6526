"""TensorFlow's recorded answers (golden/record.py says how), where TensorFlow itself is not installed."""

import dataclasses
import json

import numpy as np
import pytest
from golden.record import GOLDEN, HERE

ANSWERS = np.load(HERE / "tensorflow.npz", allow_pickle=False)
# Of the largest magnitude; half precision: TensorFlow's own rounding of sums in that precision.
ROOM = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-2, "bfloat16": 1e-1}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_equals_what_tensorflow_answered(number):
    case = GOLDEN[number]
    for name, got in zip(("y", "x_bar", "w_bar"), case.run(), strict=True):
        want = ANSWERS[f"{number}/{name}"]
        assert got.shape == want.shape
        assert np.abs(got.astype("float64") - want).max() <= ROOM[case.dtype] * np.abs(want).max()


def test_the_record_is_of_these_cases():
    record = json.loads((HERE / "tensorflow.json").read_text())
    assert record["tensorflow"] == "2.21.0"
    assert record["cases"] == [json.loads(json.dumps(dataclasses.asdict(case))) for case in GOLDEN]
