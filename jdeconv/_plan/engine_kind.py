"""Which library runs a program's convolutions and products, as the planner sees it. No JAX here."""

import dataclasses
import functools


@dataclasses.dataclass(frozen=True)
class EngineKind:
    """XLA, or jaxlib's own oneDNN for CPUs with the instructions that it multiplies bfloat16 by."""

    onednn: bool = False
    bfloat16: bool = False
    """Whether oneDNN is given bfloat16 unchanged, not widened to float32."""
    amx: bool = False

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """The values of a rule's `engine` that include this one: 'xla', or 'onednn' and its instructions."""
        if not self.onednn:
            return ("xla",)
        return ("onednn", *(name for name in ("bfloat16", "amx") if getattr(self, name)))

    def __str__(self) -> str:
        return " ".join(self.words)


XLA = EngineKind()
