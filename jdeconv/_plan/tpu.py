"""TPU: what takes the fewest cycles by the compiler's estimate; in doubt, what lax itself emits.

Evidence: N, spatial, channels, kernel k, stride s: thousands of estimated cycles on v5e in bfloat16, with movement
that the compiler leaves unpriced (`python -m benchmarks tpu-estimate`). An estimate is not a measured time.
"""

from .rule import Rule, above, at_least, at_most, between

MOST_WRITTEN_OUT = 64
"""The most taps with which the Pallas kernel compiles in seconds."""

IN_SPACE = dict(groups=1, strided=True, rank=above(1))
ONE_TAP = IN_SPACE | dict(taps=1, inputs=at_least(8), images=at_most(12))
IN_16_BITS = dict(dtype=("bfloat16", "float16"))
# With more images gemm takes 1.5 to 2 times lax's cycles (11, 17x17, 74 to 140, k 2, s 2: 63 thousand, lax 41), from
# one channel 4 (9, 32x32, 1 to 42, k 3, s 3), to 8 in float32 1.1 to 2.8 (2, 74x74, 39 to 8, k 4, s 4, v6e).
KERNEL_IS_STRIDE = IN_SPACE | dict(kernel_is_stride=True, images=at_most(5), inputs=at_least(32))
MANY_POSITIONS = KERNEL_IS_STRIDE | dict(known=True, batch_positions=at_least(4096))
TO_ONE = dict(groups=1, rank=above(1), all_strided=True, outputs=1)
LONG_1D_TO_ONE = dict(rank=1, groups=1, outputs=1, strided=True, full=True, taps=at_least(128))
LARGE_KERNEL = dict(rank=above(1), all_strided=True, full=True, taps=at_least(64))

RULES = (
    Rule("tpu", "*", "output",
         IN_SPACE | dict(kernel_is_stride=False, full=True,
                         either=(dict(taps=1), dict(outputs=at_most(8), taps=at_most(16), blocks=1))),
         "gemm", "4, 84x47, 11 to 138, k 1, s 6: 613; lax 10643"),
    # Issue cycles of the kernel's schedule, plus the estimate for the rest of its program (`benchmarks tpu-pallas`).
    Rule("tpu", "*", "output",
         dict(dtype="bfloat16", inputs=at_least(64), outputs=at_least(64), taps=at_most(MOST_WRITTEN_OUT),
              step_positions=at_least(256)),
         "pallas", "16, 32x32, 128 to 64, k 4, s 2: 85; lax 239"),
    Rule("tpu", "*", "output",
         MANY_POSITIONS | dict(either=(IN_16_BITS, dict(outputs=above(8), pairs=at_most(8192), rank=2))),
         "gemm", "4, 32x32, 512 to 256, k 2, s 2: 298; lax 401"),
    Rule("tpu", "*", "output", TO_ONE | dict(taps=at_least(27)),
         "gemm", "2, 64x64, 56 to 1, k 9, s 3: 97; phase 125, lax 798"),
    Rule("tpu", "*", "output", LONG_1D_TO_ONE,
         "phase", "4, 500, 513 to 1, k 1024, s 256: 169; gemm 649, lax 126035"),
    Rule("tpu", "*", "output", LARGE_KERNEL | dict(outputs=at_most(32)),
         "phase", "1, 32x32, 21 to 21, k 16, s 8: 597; lax 1175, gemm 2376"),
    Rule("tpu", "*", "input", ONE_TAP, "gemm", "4, 84x47, 11 to 138, k 1, s 6: 459; lax 8105"),
    Rule("tpu", "*", "input", KERNEL_IS_STRIDE | dict(either=(IN_16_BITS, dict(outputs=above(8)))),
         "gemm", "4, 32x32, 512 to 256, k 2, s 2: 98; lax 185"),
    Rule("tpu", "*", "input", LONG_1D_TO_ONE, "gemm", "4, 500, 513 to 1, k 1024, s 256: 107; phase 143, lax 176"),
    Rule("tpu", "*", "kernel", ONE_TAP, "gemm", "4, 84x47, 11 to 138, k 1, s 6: 436; lax 13085"),
    Rule("tpu", "*", "kernel",
         MANY_POSITIONS | dict(pairs=at_most(8192), either=(IN_16_BITS, dict(outputs=above(8), rank=2))),
         "gemm", "1, 128x128, 128 to 64, k 2, s 2: 76; phase 111, lax 254"),
    # With 225 taps (5, 60x60, 23 to 1, k 15, s 3, float32) phase takes 170, lax 69.
    Rule("tpu", "*", "kernel", TO_ONE | dict(taps=between(27, 128)),
         "phase", "1, 64x64x32, 64 to 1, k 3, s 2: 1438; lax 14041"),
    Rule("tpu", "*", "kernel", LONG_1D_TO_ONE, "phase", "4, 500, 513 to 1, k 1024, s 256: 92; gemm 136, lax 348"),
    Rule("tpu", "*", "kernel", LARGE_KERNEL | dict(inputs=1, outputs=1),
         "phase", "1, 32x32, depthwise 21, k 16, s 8: 362; lax 1632"),
)  # fmt: skip
