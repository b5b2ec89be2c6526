"""The known faults, each with what watches it: of the oneDNN inside jaxlib, which calls are refused for, and of XLA.

The harness must find those of oneDNN again, where a processor and a jaxlib have them and jdeconv's refusal is off
(`--no-refusals`). What our formulations emit must not hit those of XLA.
"""

import dataclasses
from typing import Any

from .draws import Call, Program


@dataclasses.dataclass(frozen=True)
class OneDnnFault:
    reason: str
    """Why jdeconv refuses such calls."""
    seen: str
    jaxlibs: tuple[str, ...]
    isas: tuple[str, ...]
    """Instruction sets that have it. No fault of AVX2's kernels is known."""
    programs: tuple[Program, ...]
    dtype: str = "float32"


def _program(lhs: Any, rhs: Any, dtype: str = "float32", **given: Any) -> Program:
    rank = len(lhs) - 2
    arguments = dict(
        window_strides=(1,) * rank,
        padding=((0, 0),) * rank,
        rhs_dilation=(1,) * rank,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=1,
    )
    return Program((Call(lhs, rhs, arguments | given, dtype, dtype),))


NEW = ("0.11.2", "0.12.0", "0.12.0.1")
BFLOAT16 = ("avx512_bf16", "amx")

ONEDNN = (
    OneDnnFault(
        "a single position in a strided dimension",
        "reads beyond the image",
        ("0.10.2",),
        ("avx512",),
        (_program((2, 5, 1, 1), (5, 7, 1, 3), window_strides=(1, 2), padding=((2, 2), (3, 3))),),
    ),
    OneDnnFault(
        "a stride beyond the kernel",
        "writes 428 bytes beyond an array of 200752",
        ("0.10.2", "0.12.0.1"),
        ("avx512",),
        (_program((2, 357, 158, 1), (1, 7, 1, 16), window_strides=(4, 2), padding=((0, 0), (2, 3))),),
    ),
    OneDnnFault(
        "a window that is the image",
        "wrong numbers, of a product of a matrix and a vector",
        NEW,
        ("avx512",),
        (_program((3, 9, 13, 32), (9, 13, 32, 1)),),
    ),
    OneDnnFault(
        "an image of one column",
        "reads beyond the image",
        NEW,
        ("avx512",),
        (_program((2, 52, 1, 200), (29, 1, 200, 16), padding=((0, 1), (0, 0))),),
    ),
    OneDnnFault(
        "a window that may lie beyond the image",
        "segmentation fault, NaN",
        ("0.10.2",),
        BFLOAT16,
        (
            _program((1, 8, 3, 1), (3, 2, 1, 5), "bfloat16", padding=((0, 0), (3, 4))),
            _program((9, 1, 3, 3), (2, 2, 3, 48), "bfloat16", padding=((2, 2), (0, 0))),
        ),
        "bfloat16",
    ),
    OneDnnFault(
        "few input channels in long rows",
        "wrong numbers",
        ("0.10.2",),
        BFLOAT16,
        (
            _program((1, 3, 24, 8), (3, 12, 8, 17), "bfloat16", padding=((0, 0), (9, 4)), window_strides=(1, 2)),
            _program((1, 3, 40, 1), (3, 32, 1, 17), "bfloat16", window_strides=(1, 2)),
        ),
        "bfloat16",
    ),
)


@dataclasses.dataclass(frozen=True)
class XlaFault:
    what: str
    jaxlibs: str
    watched: tuple[str, ...]
    """Tests that fail where a program of ours may hit it."""


XLA = (
    XlaFault(
        "A convolution with negative low padding and without input dilation reads beyond its image.",
        "0.10.2",
        ("tests/engine/test_xla_faults.py::test_no_convolution_pads_negatively",),
    ),
    XlaFault(
        "A product and its sum over an array of 7 or more dimensions end the process (YNNPACK).",
        "0.10.2",
        ("tests/engine/test_xla_faults.py::test_no_product_of_seven_dimensions_is_summed",),
    ),
    XlaFault(
        "Barriers are dropped before fusion, which then computes an operand anew for each window.",
        "0.10.2",
        ("tests/engine/test_materialised.py",),
    ),
    XlaFault(
        "Products of matrices by oneDNN can wait for each other forever, or crash.",
        "0.10.2",
        ("tests/engine/test_xla_faults.py::test_no_product_of_matrices_is_onednns",),
    ),
)
