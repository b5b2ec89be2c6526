"""Where it runs: the device, the threads that every peer is given, and the fastest matrix product."""

import importlib.metadata
import os
import pathlib
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PACKAGES = (
    "jdeconv",
    "jax",
    "jaxlib",
    "numpy",
    "flax",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "torch",
    "onnxruntime",
)
# Environment variables that decide how the C library allocates, and what XLA and jdeconv compile.
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "XLA_FLAGS", "JDECONV_")


def threads() -> int:
    """The number of threads: as many as the processors that this process may run on.

    XLA on CPU takes that number at its start and has no other setting, so the others are set to the same: to measure
    with fewer threads, start the benchmark with fewer processors (`taskset -c 0 python -m benchmarks`).
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class NoDevice(Exception):
    """JAX finds no such device."""


def use(name: str) -> None:
    """Makes `'cpu'`, `'gpu'` or `'tpu'` the device of all JAX peers."""
    try:
        device = jax.devices(name)[0]
    except RuntimeError as error:
        packages = {"gpu": "jax[cuda12]", "tpu": "jax[tpu]"}
        raise NoDevice(
            f"--device={name}: JAX finds none; expected one. Where there is one, run: pip install "
            f"'{packages.get(name, 'jax')}'. JAX says: {error}"
        ) from error
    jax.config.update("jax_default_device", device)


def keep_memory() -> None:
    """Has glibc keep what is freed, up to 64 MiB, as it does in a process that has freed some 32 MiB at once.

    Otherwise what one peer has freed decides whether another's arrays are fresh pages at every run, which cost as
    much as a convolution: 1, 16³, 128→64, k 2, s 2: 8.4 ms, not 3.6.
    """
    np.empty(31 << 20, np.uint8)


def device() -> str:
    """`'cpu'`, `'gpu'` or `'tpu'`."""
    return _device().platform


def _device() -> jax.Device:
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    return chosen or jax.devices()[0]


def facts() -> dict[str, Any]:
    """What a figure must be read with: processor, device, versions, environment."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": f"{_device().platform}: {_device().device_kind}",
        "processor": _processor(),
        "threads": threads(),
        "python": platform.python_version(),
        "versions": versions,
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
    }


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak(dtype: str, size: int = 2048, rounds: int = 5) -> float:
    """GFLOP/s of JAX's matrix product, the best of some rounds: what a convolution at its best could come near to.

    Sums are in float32: so XLA reaches a processor's matrix units for bfloat16.
    """
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    product(a).block_until_ready()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        product(a).block_until_ready()
        taken.append(time.perf_counter() - start)
    return 2 * size**3 / min(taken) / 1e9
