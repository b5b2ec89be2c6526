"""Tests that compile for an H100, with no GPU present.

Skipped where XLA's compiler for GPUs is not installed (pip install 'jdeconv[gpu-aot]'), unless JDECONV_GPU_AOT=1: then
its absence is an error.
"""

import contextlib
import os

import jax
import pytest

from benchmarks.ahead_of_time import gpu_kernels

try:
    gpu_kernels.h100()
    ABSENCE = None
except gpu_kernels.NoCompiler as error:
    if os.environ.get("JDECONV_GPU_AOT") == "1":
        raise
    ABSENCE = str(error)

compiles = pytest.mark.skipif(ABSENCE is not None, reason=str(ABSENCE))


def on_h100():
    """A context in which JAX lowers for an H100. JAX before 0.11 does so wherever there is no GPU."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    explicit = (jax.sharding.AxisType.Explicit,)
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), explicit, abstract_device=device))
