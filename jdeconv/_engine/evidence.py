"""Which of oneDNN's calls are proven: the table of evidence, and its rows for this processor.

`evidence.json` has a row for each version of jaxlib, instruction set, type and class of calls: how many random calls
were drawn, from which seeds, when, on what processor, and how many were wrong (`faults`); which reasons of `onednn` for
refusing a call they gave rise to (`refusals`); and whether arrays lay beside pages that nobody may touch (`guarded`).
Rows with `same_onednn_as` have the draws of that version, which holds the same commit of oneDNN.
"""

import functools
import importlib.resources
import json
from typing import Any

# For each type, the instruction sets that have kernels of their own in oneDNN's sources, and Linux's names of what each
# asks for; the first that the processor has is taken. AVX-VNNI, AVX2-VNNI-2, AVX512-FP16 (AVX10.1) and AMX-FP16 by
# themselves change no kernel of these types.
AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
BFLOAT16 = {*AVX512, "avx512_vnni", "avx512_bf16"}
INSTRUCTIONS = {
    "float32": {"avx10_2": {"avx10_2"}, "avx512": AVX512, "avx2": {"avx2"}},
    "bfloat16": {
        "avx10_2": {"avx10_2"},
        "amx": {*BFLOAT16, "amx_tile", "amx_int8", "amx_bf16", "avx512_fp16", "avx_vnni"},
        "avx512_bf16": BFLOAT16,
    },
}


@functools.cache
def rows() -> tuple[dict[str, Any], ...]:
    """The table. Raises whatever reading a file of another form raises."""
    table = json.loads(importlib.resources.files(__package__).joinpath("evidence.json").read_text("utf-8"))
    if table["schema"] != 1:
        raise ValueError(f"schema {table['schema']}")
    return tuple(table["rows"])


@functools.cache
def proven() -> dict[tuple[str, str, str], frozenset[str]]:
    """The classes of calls that have evidence and no fault, by version of jaxlib, instruction set and type."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for row in rows():
        if row["draws"] > 0 and row["faults"] == 0:
            found.setdefault((row["jaxlib"], row["isa"], row["dtype"]), set()).add(row["class"])
    return {key: frozenset(classes) for key, classes in found.items()}


def versions() -> tuple[str, ...]:
    """The versions of jaxlib with proven calls, the oldest first."""
    found = {jaxlib for jaxlib, _, _ in proven()}
    return tuple(sorted(found, key=lambda version: [int(part) for part in version.split(".")]))


def instruction_set(dtype: str) -> str | None:
    """What oneDNN dispatches calls in this type to, by the table's name; None where the processor has none of it."""
    return next((isa for isa, needed in INSTRUCTIONS[dtype].items() if needed <= processor()), None)


@functools.cache
def processor() -> frozenset[str]:
    """The processor's instruction sets, by their names in Linux."""
    try:
        with open("/proc/cpuinfo") as file:
            return _instructions(file.read().split("\n\n")[0])
    except OSError:
        return frozenset()


def _instructions(cpuinfo: str) -> frozenset[str]:
    """Of the processor that Linux describes so. It names no AVX10.2, which Intel's have beyond family 6."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = frozenset(fields.get("flags", "").split())
    intel, family = fields.get("vendor_id") == "GenuineIntel", fields.get("cpu family", "")
    newer = (intel and family != "6") or any(flag == "apx" or flag.startswith("avx10") for flag in flags)
    return flags | {"avx10_2"} if newer else flags
