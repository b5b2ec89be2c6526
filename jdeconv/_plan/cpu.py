"""CPU: what was measured to be fastest, by XLA's convolutions or oneDNN's.

Evidence: N, spatial, channels, kernel k, stride s: milliseconds in float32 on two cores of an AMD EPYC, the least or
the median of interleaved runs, over 24 cases of networks and 260 random geometries (`benchmarks/work`). A row that
names an engine was measured with that engine; a figure from another engine says so. Rows that name bfloat16, and
oneDNN's kernel gradients, were measured on an Intel Xeon with AMX as well; rows that name amx, there alone.
"""

from .rule import Rule, above, at_least, at_most, below, between, other_than

MOST_TAPS = 512  # each is an operation of a formulation that adds up tap by tap
FEW_CONVOLUTIONS = 9  # every one is compiled
MANY_PHASES = between(FEW_CONVOLUTIONS + 1, 64)

SEVERAL = dict(groups=above(1))
FULL = dict(strided=True, full=True)
FROM_ONE_POSITION = dict(groups=1, positions=1)
TAPS_EXCEED_POSITIONS = dict(taps_per_position=above(1), taps=at_most(MOST_TAPS))
IN_FEW_CONVOLUTIONS = dict(strided=True, convolutions=at_most(FEW_CONVOLUTIONS))
# One group: with little work, what a convolution costs beside its work counts.
POINTWISE = dict(taps=1, groups=1, strided=False, work=below(2e8))
LEAST_WORK_IN_ONE_BLOCK = dict(blocks=1, groups=1, work=below(3e6))
LITTLE_WORK = dict(groups=1, strided=True, work=below(3e8))
BFLOAT16_FROM_MANY = dict(dtype="bfloat16", inputs_per_block=at_least(64)) | FULL
# XLA's convolutions multiply integers one by one, its products by vectors. XLA runs 2-D convolutions of float64 in one
# group fast: 8, 28x28, 128 to 128, k 3, s 1: 28 ms; gemm 51.
FLOATS = ("float32", "bfloat16", "float16")
INTEGERS = dict(dtype="integers", taps=at_most(MOST_TAPS))
DOUBLE = dict(dtype=("float64", "complex128"))
NOT_2D_OR_GROUPED = (dict(rank=other_than(2)), SEVERAL)

# Rows that name bfloat16 come before rows of any engine: those are for XLA, and for oneDNN that is given float32.
RULES = (
    Rule("cpu", "*", "output",
         dict(inputs=1, either=(SEVERAL, dict(strided=True, blocks=at_most(60)), dict(rank=3, blocks=at_most(60)))),
         "taps", "4, 32x32, depthwise 64, k 4, s 2: 0.2; gemm 0.3, lax 413"),
    Rule("cpu", "*", "output", SEVERAL | dict(pair_blocks=at_most(24)),
         "taps", "16, 20x20x20, 32 times 3 to 8, k 1, s 1: 39; lax 50"),
    Rule("cpu", "*", "output",
         dict(inputs=at_most(5), strided=True, output_terms=at_most(16), either=(SEVERAL, dict(outputs=above(3)))),
         "taps", "2, 72x15, 2 to 23, k 5x12, s 2x7: 1; phase 2.3"),
    Rule("cpu", "*", "output",
         dict(taps=at_most(MOST_TAPS), either=(dict(dtype="integers"), DOUBLE | dict(strided=True),
              *(DOUBLE | each for each in NOT_2D_OR_GROUPED), DOUBLE | dict(taps=1))),
         "gemm", "8, 16x16, 128 to 64, k 4, s 2, float64: 2.6; lax 95"),
    Rule("cpu", "*", "output", FROM_ONE_POSITION, "gemm", "16, 1x1, 100 to 1024, k 4, s 1: 0.4; lax 3.2, phase 2.7"),
    Rule("cpu", "onednn", "output",
         IN_FEW_CONVOLUTIONS | dict(groups=at_least(8), outputs=between(4, 8),
                                    either=(dict(full=True), dict(inputs=below(16)), dict(dtype="bfloat16"))),
         "phase", "8, 28x14, 8 times 4 to 4, k 5x9, s 2x4: 1.1; gemm 4.5"),
    Rule("cpu", "onednn", "output",
         dict(strided=True, inputs=at_most(64), outputs=above(3), tap_outputs_per_input=above(24),
              group_phases=at_most(512),
              either=(dict(rank=3, phases=at_most(64)) | SEVERAL, dict(rank=3, phases=MANY_PHASES),
                      dict(phases=MANY_PHASES) | SEVERAL, dict(phases=MANY_PHASES, work=at_least(4e8)))),
         "phase", "2, 6x6x12, 16 times 8 to 16, k 5, s 3: 5; gemm 33"),
    Rule("cpu", "*", "output",
         dict(strided=True, taps=at_most(128), either=(dict(outputs=at_most(3)), dict(outputs=at_most(8), full=False))),
         "gemm", "1, 64x64x32, 64 to 1, k 3, s 2: 5.4; phase 52"),
    Rule("cpu", "onednn", "output", dict(groups=1, strided=True, blocks=at_most(8), kernel_per_images=above(1)),
         "gemm", "8, 32, 512 to 256, k 16, s 8: 5.2; phase 7.8"),
    Rule("cpu", "*", "output", dict(groups=1, rank=2, strided=True, full=False, work=below(2.5e6)),
         "lax", "1, 6x6, 32 to 32, k 5, s 2: 0.04, compiled in 90; phase 0.07, 320"),
    Rule("cpu", "bfloat16", "output", dict(groups=1, full=False, inputs_per_output=at_least(1), work=below(8e7)),
         "gemm", "1, 16x16, 93 to 14, k 5, s 3: 0.3; phase 1.2"),
    Rule("cpu", "bfloat16", "output", IN_FEW_CONVOLUTIONS, "phase", "16, 32x32, 128 to 64, k 4, s 2: 6; gemm 35"),
    Rule("cpu", "*", "output", BFLOAT16_FROM_MANY, "gemm", "4, 32x32, 512 to 256, k 2, s 2: 11; phase 21, lax 25"),
    Rule("cpu", "*", "output", dict(strided=False, inputs=at_least(28), outputs=at_most(4), taps=between(8, 128)),
         "gemm", "8, 15x15x15, 30 to 2, k 3, s 1: 1.4; lax 3.4"),
    Rule("cpu", "onednn", "output", POINTWISE, "gemm", "16, 7x7, 1280 to 320, k 1, s 1: 3.7; lax 4.1"),
    Rule("cpu", "onednn", "output", LEAST_WORK_IN_ONE_BLOCK, "gemm", "4, 4x4, 32 to 32, k 4, s 4: 0.12; lax 0.16"),
    Rule("cpu", "onednn", "output", LITTLE_WORK | dict(blocks=1, inputs=at_least(100)),
         "gemm", "1, 30x30, 145 to 27, k 2, s 8: 0.5; phase 0.7"),
    Rule("cpu", "onednn", "output",
         LITTLE_WORK | dict(full=False, phases=at_most(9), inputs=at_least(96), inputs_per_output=at_least(2)),
         "gemm", "1, 11x11, 213 to 70, k 4, s 3: 1.1; phase 1.7"),
    Rule("cpu", "onednn", "output", IN_FEW_CONVOLUTIONS, "phase", "16, 32x32, 128 to 64, k 4, s 2: 23; gemm 81"),
    Rule("cpu", "xla", "output", TAPS_EXCEED_POSITIONS,
         "gemm", "3, 13x13, 28 to 24, k 16, s 1: 3.2; lax 31, phase 31"),
    Rule("cpu", "xla", "output", dict(blocks=1), "gemm", "4, 32x32, 512 to 256, k 2, s 2: 21; lax 23, phase 27"),
    Rule("cpu", "xla", "output",
         IN_FEW_CONVOLUTIONS | dict(either=(dict(rank=other_than(2)), dict(longest=above(3)), dict(inputs=below(64)))),
         "phase", "16, 16x16, 256 to 128, k 4, s 2: 24; gemm 36"),
    Rule("cpu", "*", "output", dict(strided=True, rank=3), "gemm", "1, 16x16x16, 128 to 64, k 2, s 2: 3; lax 333"),
    Rule("cpu", "bfloat16", "input", FROM_ONE_POSITION, "gemm", "16, 1x1, 100 to 1024, k 4, s 1: 0.3; lax 2.6"),
    Rule("cpu", "bfloat16", "input", dict(groups=1, inputs=at_least(16), taps=at_most(64)),
         "lax", "4, 3000, 64 to 2, k 4, s 2: 0.14; taps 0.5"),
    Rule("cpu", "*", "input",
         dict(either=(SEVERAL | dict(pairs=at_most(2), taps=at_most(4096)), dict(pairs=at_most(2), taps=at_most(64)),
                      dict(outputs=1, taps=at_most(32)), dict(groups=1, strided=True, tap_outputs=at_most(16)))),
         "taps", "1, 64x64x32, 64 to 1, k 3, s 2: 4; phase 88, gemm 11"),
    Rule("cpu", "*", "input", FROM_ONE_POSITION, "gemm", "16, 1x1, 100 to 1024, k 4, s 1: 0.4; lax 2.4, phase 2.5"),
    Rule("cpu", "*", "input", SEVERAL | dict(weights=at_most(110)),
         "taps", "16, 20x20x20, 32 times 3 to 8, k 1, s 1: 26; lax 37"),
    Rule("cpu", "*", "input", SEVERAL | dict(dtype=other_than(*FLOATS), tap_outputs=at_most(128)),
         "taps", "4, 16x16, 8 times 8, k 3, s 2, int32: 0.2; lax 0.8"),
    Rule("cpu", "*", "input",
         INTEGERS | dict(either=(SEVERAL, dict(outputs=1), dict(outputs=at_least(8), inputs=at_least(4)))),
         "gemm", "8, 16x16, 128 to 64, k 4, s 2, int32: 13; lax 122, phase 179"),
    Rule("cpu", "*", "input", DOUBLE | dict(taps=at_most(MOST_TAPS), either=NOT_2D_OR_GROUPED),
         "gemm", "2, 200, 32 to 16, k 16, s 8, float64: 0.1; lax 2.4"),
    Rule("cpu", "*", "input", SEVERAL | FULL | dict(pairs=at_most(2)),
         "phase", "1, 32x32, depthwise 21, k 16, s 8: 1.9; lax 3.9, gemm 4.3"),
    Rule("cpu", "*", "input", FULL | dict(rank=1, taps=above(64)),
         "phase", "4, 500, 513 to 1, k 1024, s 256: 10; by AVX2 lax 109, gemm 14"),
    Rule("cpu", "bfloat16", "input", {}, "lax", "16, 32x32, 128 to 64, k 4, s 2: 5; phase 11, gemm 30"),
    Rule("cpu", "onednn", "input", POINTWISE, "gemm", "16, 7x7, 1280 to 320, k 1, s 1: 3.8; lax 3.9"),
    Rule("cpu", "onednn", "input", LEAST_WORK_IN_ONE_BLOCK, "gemm", "4, 4x4, 32 to 32, k 4, s 4: 0.12; lax 0.15"),
    Rule("cpu", "*", "input",
         dict(dtype="bfloat16", rank=other_than(3), phase_outputs_per_block=at_least(128)) | FULL,
         "gemm", "16, 8x8, 512 to 256, k 4, s 2: 12; lax 18, phase 22"),
    Rule("cpu", "xla", "input", dict(blocks=1, gaps=True),
         "gemm", "4, 84x47, 11 to 138, k 1, s 6: 1.0; lax 81, phase 1.1"),
    Rule("cpu", "xla", "input", dict(gaps=True, full=True),
         "phase", "7, 74x17, 1 to 113, k 3x12, s 7x2: 16; lax 23, gemm 74"),
    Rule("cpu", "xla", "input", dict(rank=3, blocks=1), "phase", "1, 16x16x16, 128 to 64, k 2, s 2: 4.5; gemm 5.3"),
    Rule("cpu", "xla", "input", dict(strided=True, rank=3),
         "gemm", "1, 16x6x16, 14 to 45, k 6x4x4, s 2x1x1: 5.0; lax 14"),
    Rule("cpu", "xla", "input", TAPS_EXCEED_POSITIONS, "gemm", "3, 13x13, 28 to 24, k 16, s 1: 6.1; lax 31, phase 31"),
    Rule("cpu", "*", "kernel", SEVERAL | dict(pair_blocks=at_most(100)),
         "taps", "4, 32x32, depthwise 64, k 4, s 2: 0.9; gemm 15, lax 22"),
    Rule("cpu", "*", "kernel", SEVERAL | dict(inputs=1, outputs=at_most(16)),
         "taps", "4, 28x28, depthwise 192, k 15, s 1: 18; lax 54, gemm 463"),
    Rule("cpu", "xla", "kernel", SEVERAL | dict(dtype=FLOATS, pair_blocks=at_most(500)),
         "taps", "2, 14x14, 64 times 2 to 2, k 11, s 1: 5.6; lax 18, gemm 25"),
    Rule("cpu", "*", "kernel", INTEGERS, "gemm", "8, 16x16, 128 to 64, k 4, s 2, int32: 14; lax 204, phase 230"),
    Rule("cpu", "*", "kernel",
         dict(dtype=("float64", "complex128", "complex64"), taps=at_most(MOST_TAPS), either=NOT_2D_OR_GROUPED),
         "gemm", "1, 8x8x8, 16 to 8, k 3, complex64: 0.3; lax 4.2"),
    Rule("cpu", "*", "kernel",
         dict(rank=other_than(2), inputs=at_least(16), outputs=at_most(3), strided=True, taps=at_most(64)),
         "gemm", "1, 64x64x32, 64 to 1, k 3, s 2: 7; lax 27"),
    Rule("cpu", "xla", "kernel", dict(blocks=1), "gemm", "4, 32x32, 512 to 256, k 2, s 2: 24; phase 65"),
    Rule("cpu", "onednn", "kernel",
         dict(blocks=1, either=(dict(inputs=at_least(16), work=below(1.5e8)), SEVERAL, dict(rank=1))),
         "gemm", "1, 11x42, 16 to 182, k 2x1, s 8x2: 0.6; lax 0.9"),
    Rule("cpu", "onednn", "kernel",
         dict(rank=1, groups=1, work=below(8e7),
              either=(dict(strided=True), dict(taps=at_most(2)), dict(dilated=True, taps=at_most(3)))),
         "gemm", "4, 207, 51 to 74, k 6, s 3: 1.1; lax 1.6, phase 1.5"),
    Rule("cpu", "bfloat16", "kernel", dict(rank=1, groups=1, work=below(5e8)),
         "gemm", "2, 4000, 64 to 32, k 10, s 5: 3.1; lax 3.7"),
    Rule("cpu", "amx", "kernel", dict(groups=1, outputs=above(3), work=below(5e7)),
         "gemm", "5, 7x5, 110 to 89, k 1x5, s 8x3: 0.4; lax 0.65"),
    Rule("cpu", "bfloat16", "kernel", {}, "lax", "4, 32x32, 512 to 256, k 2, s 2: 10; gemm 14"),
    Rule("cpu", "onednn", "kernel", POINTWISE, "gemm", "16, 7x7, 1280 to 320, k 1, s 1: 4.7; lax 6.7"),
    Rule("cpu", "onednn", "kernel", FULL | dict(groups=between(2, 8), blocks=above(1)),
         "phase", "4, 14x14, 2 times 128, k 4, s 2: 5; lax 6.6"),
    Rule("cpu", "*", "kernel", BFLOAT16_FROM_MANY, "gemm", "8, 256, 256 to 128, k 16, s 8: 8; lax 15, phase 20"),
    Rule("cpu", "xla", "kernel", dict(batch_positions=at_most(4096), pairs=at_most(1024), taps=at_most(MOST_TAPS)),
         "gemm", "1, 57x35, 2 to 67, k 8x4, s 3x1: 1.6; phase 13, lax 16"),
    Rule("cpu", "xla", "kernel",
         dict(either=(dict(rank=2, blocks=at_most(4), fill=at_most(1.8), inputs=at_least(32)),
                      dict(rank=other_than(2), strided=True, blocks=at_most(8)))),
         "gemm", "16, 8x8, 512 to 256, k 4, s 2: 26; phase 35"),
    Rule("cpu", "xla", "kernel", dict(strided=True, inputs=at_most(16), fill=at_most(1.8)),
         "phase", "2, 100x100, 8 to 21, k 7, s 3: 87; lax 155, gemm 353"),
)  # fmt: skip
