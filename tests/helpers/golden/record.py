"""Records TensorFlow's answers for fixed geometries: `python tests/helpers/golden/record.py`, where TensorFlow is.

The tests read them where TensorFlow is not. Everything is drawn from seeds, so only answers are stored.
"""

import dataclasses
import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from cases import Case  # noqa: E402
from peers import peer, tensorflow_run  # noqa: E402

A, B = (5, 7), (3, 3)
GOLDEN = [
    Case(2, A, B, (2, 2), (1, 1), "SAME", (10, 14), 1, 4, 6),
    Case(2, A, B, (2, 2), (1, 1), "SAME", (9, 13), 1, 4, 6, dtype="float64"),
    Case(2, A, B, (2, 2), (1, 1), "VALID", (11, 15), 1, 4, 6),
    Case(2, A, B, (2, 2), (1, 1), "VALID", (12, 16), 1, 4, 6, channels_first=True),
    Case(2, A, B, (2, 2), (1, 1), ((1, 1), (2, 1)), (9, 12), 1, 4, 6),
    Case(1, A, B, (2, 2), (1, 1), ((6, 5), (1, 1)), (1, 13), 1, 2, 3, dtype="float64"),
    Case(2, A, B, (2, 2), (1, 1), "SAME", (10, 14), 2, 2, 6),
    Case(2, A, B, (2, 2), (1, 1), "SAME", (9, 14), 2, 2, 3, channels_first=True),
    Case(1, A, (4, 4), (2, 2), (1, 1), "SAME", (10, 14), 5, 1, 1),
    Case(2, A, B, (1, 1), (2, 2), "SAME", A, 1, 4, 6),
    Case(2, A, B, (2, 2), (2, 3), "SAME", (10, 13), 1, 4, 6, dtype="float64"),
    Case(1, A, (1, 2), (3, 4), (1, 1), "SAME", (13, 26), 1, 2, 2),
    Case(1, (2, 3), (16, 16), (8, 8), (1, 1), "SAME", (16, 24), 1, 2, 2),
    Case(3, (4, 4), (2, 2), (2, 2), (1, 1), "VALID", (8, 8), 1, 5, 3),
    Case(1, (4, 3), (5, 7), (3, 1), (1, 1), "SAME", (11, 3), 1, 3, 2),
    Case(2, A, B, (2, 2), (1, 1), "SAME", (10, 14), 1, 4, 6, dtype="bfloat16"),
    Case(2, A, B, (2, 2), (1, 1), "SAME", (10, 14), 1, 4, 6, dtype="float16"),
    Case(2, (9,), (5,), (3,), (1,), "SAME", (26,), 1, 4, 3),
    Case(2, (9,), (4,), (2,), (2,), "VALID", (23,), 1, 4, 3, channels_first=True),
    Case(2, (3, 4, 2), (3, 2, 2), (2, 1, 2), (1, 1, 1), "SAME", (5, 4, 4), 1, 2, 3),
    Case(2, (3, 4, 2), (3, 2, 3), (2, 2, 2), (1, 1, 1), "VALID", (7, 8, 6), 2, 2, 3, dtype="float64"),
]


def main():
    tf = peer("tensorflow")
    answers = {}
    for number, case in enumerate(GOLDEN):
        for name, array in zip(("y", "x_bar", "w_bar"), tensorflow_run(tf, case), strict=True):
            wide = "float64" if case.dtype == "float64" else "float32"  # NumPy's files know no bfloat16
            answers[f"{number}/{name}"] = array.astype(wide)
    np.savez_compressed(HERE / "tensorflow.npz", **answers)
    cases = [dataclasses.asdict(case) for case in GOLDEN]
    (HERE / "tensorflow.json").write_text(json.dumps({"tensorflow": tf.__version__, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
