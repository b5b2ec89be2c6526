"""Interpreters: with the asked version of jaxlib, and what the processor can do."""

import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[3]
# oneDNN's names of the instruction sets that it can be limited to, and what of Linux's flags each needs.
LIMITS = {"avx2": "AVX2", "avx512": "AVX512_CORE", "avx512_bf16": "AVX512_CORE_BF16", "amx": "AVX512_CORE_AMX"}
FLAGS = {
    "avx2": {"avx2"},
    "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
    "avx512_bf16": {"avx512_bf16"},
    "amx": {"amx_tile", "amx_int8", "amx_bf16"},
}
NEEDED = {"float32": ("avx2", "avx512"), "bfloat16": ("avx512_bf16", "amx")}
"""The instruction sets that make a difference to calls in each type, from the least to the best."""


def _cpuinfo(field: str) -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(field)), "")


def processor() -> str:
    return _cpuinfo("model name") or platform.processor()


def supported(dtype: str) -> list[str]:
    """The instruction sets for calls in this type that the processor has; the best, which oneDNN takes, comes last."""
    present = set(_cpuinfo("flags").split())
    return [isa for isa in NEEDED[dtype] if FLAGS[isa] <= present]


def limits(isa: str, dtype: str) -> dict[str, str]:
    """Variables that keep oneDNN to the instruction set; none where it takes that one by itself, or isn't called."""
    return {} if isa not in LIMITS or supported(dtype)[-1:] == [isa] else {"ONEDNN_MAX_CPU_ISA": LIMITS[isa]}


def _interpreters() -> list[str]:
    """That run, on the PATH or of pyenv (whose shims may be there without running)."""
    found = []
    versions = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"), "versions")
    for version in ("3.13", "3.12", "3.11", "3.14"):
        candidates = [shutil.which(f"python{version}"), *sorted(map(str, versions.glob(f"{version}.*/bin/python")))]
        for candidate in filter(None, candidates):
            if not subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode:
                found.append(candidate)
                break
    return [*found, sys.executable]


def interpreter(jaxlib: str, folder: pathlib.Path) -> str:
    """A Python with this version of jaxlib: this one, or that of a virtual environment, which is made if need be."""
    try:
        if importlib.metadata.version("jaxlib") == jaxlib:
            return sys.executable
    except importlib.metadata.PackageNotFoundError:
        pass
    path = folder / f"jaxlib-{jaxlib}"
    python, complete = str(path / "bin/python"), path / "complete"
    if complete.exists():
        return python
    for candidate in _interpreters():
        subprocess.run([candidate, "-m", "venv", "--clear", str(path)], check=True)
        wanted = [f"jax=={jaxlib}", f"jaxlib=={jaxlib}", "numpy>=2.0", "hypothesis>=6.100"]
        if not subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted]
        ).returncode:
            complete.touch()
            return python
    raise SystemExit(f"no Python here installs jaxlib {jaxlib}")


def variables(isa: str, dtype: str, pool: int) -> dict[str, str]:
    """The environment of a worker, without guard pages."""
    dropped = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "JDECONV_ONEDNN", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    paths = [str(ROOT / "tests/engine"), str(ROOT / "tests/helpers"), str(ROOT)]
    return {
        **kept,
        **limits(isa, dtype),
        "PYTHONPATH": os.pathsep.join(paths),
        "NPROC": str(pool),  # how many threads XLA gives oneDNN
        "OPENBLAS_NUM_THREADS": "1",
        "JAX_PLATFORMS": "cpu",
    }
