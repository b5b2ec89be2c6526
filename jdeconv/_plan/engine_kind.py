"""Which library runs a program's convolutions and products, as the planner is told. No JAX here."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class EngineKind:
    """XLA, or the oneDNN that jaxlib holds for CPUs, and the instructions that oneDNN multiplies bfloat16 by."""

    onednn: bool = False
    bfloat16: bool = False
    """oneDNN is given bfloat16 as it is, and not widened to float32."""
    amx: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """The words of a rule's `engine` that fit: 'xla', or 'onednn' and the names of its instructions."""
        if not self.onednn:
            return ("xla",)
        return ("onednn", *(name for name in ("bfloat16", "amx") if getattr(self, name)))

    def __str__(self) -> str:
        return " ".join(self.words)


XLA = EngineKind()
