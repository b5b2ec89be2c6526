"""Tests that compile for an H100, with no GPU present.

Skipped where XLA's compiler for GPUs is not installed (pip install 'jdeconv[gpu-aot]'), unless JDECONV_GPU_AOT=1: then
its absence is an error.
"""

import os
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parent.parent))  # last, so that jdeconv is the installed one

from benchmarks import gpu_kernels

try:
    gpu_kernels.h100()
    ABSENCE = None
except gpu_kernels.NoCompiler as error:
    if os.environ.get("JDECONV_GPU_AOT") == "1":
        raise
    ABSENCE = str(error)

compiles = pytest.mark.skipif(ABSENCE is not None, reason=str(ABSENCE))
