"""GPU: what makes XLA call the right cuDNN kernel, or a matrix product, without extra work."""

from .rule import Rule

RULES: tuple[Rule, ...] = ()
