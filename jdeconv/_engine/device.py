"""What a measured time depends on: the device's kind, by a name that is the same wherever the device is the same."""

import functools
import os
import platform as host

import jax

# Of the instruction sets, what oneDNN and XLA compile for.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "asimddp", "bf16", "sve", "sve2")
PLATFORMS = ("cpu", "gpu", "tpu")


@functools.lru_cache(maxsize=8)
def device_kind(platform: str) -> str | None:
    """The kind of this process's devices of a platform, as the planner names it; None if there are none.

    Of a CPU: the processor, its instruction sets, and the threads that XLA runs on it.
    """
    if platform == "cpu":
        model, words = _processor()
        known = " ".join(word for word in INSTRUCTIONS if word in words)
        return f"cpu: {', '.join(filter(None, (model, known, f'{threads()} threads')))}"
    try:
        return f"{platform}: {jax.local_devices(backend=platform)[0].device_kind}"
    except (RuntimeError, IndexError):
        return None


@functools.cache
def device_kinds() -> tuple[str, ...]:
    """The kinds of all devices of this process."""
    return tuple(kind for platform in PLATFORMS if (kind := device_kind(platform)))


def threads() -> int:
    """The threads that XLA uses on a CPU: one for each processor that this process may run on, or `NPROC`."""
    given = os.environ.get("NPROC", "")
    if given.isdigit() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> tuple[str, frozenset[str]]:
    """The model's name, and the names of instruction sets, as Linux has them; elsewhere the machine's name alone."""
    try:
        with open("/proc/cpuinfo") as file:
            pairs = [line.partition(":") for line in file]
    except OSError:
        pairs = []
    found = {name.strip(): value.strip() for name, _, value in reversed(pairs)}
    model = found.get("model name") or host.processor() or host.machine()
    return model, frozenset((found.get("flags") or found.get("Features") or "").split())
