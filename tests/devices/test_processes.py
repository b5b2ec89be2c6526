"""Two processes that train together agree with one that trains alone."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import process_child

CHILD = pathlib.Path(process_child.__file__)


def test_two_processes_train_a_step():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join(each for each in sys.path if each)
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    children = [
        subprocess.Popen(
            [sys.executable, str(CHILD), str(port), str(number), "2"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        printed = [child.communicate(timeout=240)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(printed)
    found = [line.split()[1:] for text in printed for line in text.splitlines() if line.startswith("numbers")]
    assert found[0] == found[1]
    loss, w = process_child.step(*process_child.operands())
    # Means of 4096 squares, and sums of 1024 products over 2048: of the order of 1, rounded.
    np.testing.assert_allclose(np.array(found[0], float), [loss, *np.ravel(w)], rtol=0, atol=2e-5)
