"""TPU: what takes the fewest of the cycles that its compiler estimates."""

from .rule import Rule

RULES: tuple[Rule, ...] = ()
