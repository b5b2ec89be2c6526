"""GPU: what makes XLA call the right cuDNN kernel, or a matrix product, without extra work.

Evidence: the kernels that programs compiled ahead of time for an H100 call (XLA of jaxlib 0.12; float32 and bfloat16
alike), and how many times the definition's products these compute (`python -m benchmarks gpu-kernels`).
"""

from .problem import FEW_GROUPS
from .rule import Rule, above, at_most

RULES = (
    Rule("gpu", "*", "*", dict(dtype="integers"),
         "gemm", "8x8, int32, k 3, s 2: compiles; lax is refused by XLA, as cuDNN has no 32-bit integers"),
    Rule("gpu", "*", "output", dict(strided=True, inputs=1, groups=above(1), full=True, blocks=at_most(64)),
         "taps", "4, 32x32, depthwise 64, k 4, s 2: one loop, no extra work; lax convForward 4x"),
    Rule("gpu", "*", "output",
         dict(strided=True,
              either=(dict(groups=above(FEW_GROUPS)), dict(inputs=1, groups=above(1)), dict(dilated=True))),
         "gemm", "4, 32x32, 64 to 64 in 16 groups, k 3, s 2: one product; lax convForward 4x"),
    Rule("gpu", "*", "output", dict(rank=2, groups=at_most(FEW_GROUPS), taps_per_position=above(1)),
         "gemm", "10, 9x9, 61 to 2, k 10, s 3: one product; lax convForward 56x, the input being its kernel"),
    Rule("gpu", "*", "input",
         dict(either=(dict(groups=1, taps_per_output_position=above(1)), dict(strided=True, dilated=True))),
         "gemm", "5, 6x6x6, 4 to 9, k 11, s 1: one product; lax convBackwardFilter"),
    Rule("gpu", "*", "kernel", dict(either=(dict(dilated=True), dict(covering=True))),
         "gemm", "5, 4x4x4, 21 to 6, k 4, s 3: one product; lax convForward 16x, the input being its kernel"),
)  # fmt: skip
