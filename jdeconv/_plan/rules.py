"""Which formulation computes a result: one table of rules, each with its evidence, a file for each platform."""

from . import cpu, gpu, tpu
from .rule import Rule, always

# The first rule that applies, and whose method supports the case, wins; the last one always does.
RULES = (
    *cpu.RULES,
    *gpu.RULES,
    *tpu.RULES,
    Rule(
        "*",
        "*",
        "*",
        always,
        "lax",
        "the definition, and for gradients the strided convolution's; no other was measured to be faster here",
    ),
)
