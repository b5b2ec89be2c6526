"""Who is measured: each peer's name, what it can be asked, and what must be installed for it."""

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from jax import lax

import jdeconv
from jdeconv._formulations import METHODS

from ..work.cases import Case, Ensemble
from ..work.models import Model
from ..work.ordinary import Ordinary
from ..work.stacks import Stack
from . import jax as peer_jax
from . import onnx as peer_onnx
from . import tensorflow as peer_tensorflow
from . import torch as peer_torch
from .entry import Builder

SUBJECT = "jdeconv"


@dataclasses.dataclass(frozen=True)
class Peer:
    """`asked` has a builder for each kind of work that it is part of."""

    asked: Mapping[type, Builder]
    needs: tuple[str, ...] = ()
    cpu_only: bool = False

    def absence(self, device: str) -> str | None:
        """Why it can't be measured here, if it can't."""
        if missing := [name for name in self.needs if importlib.util.find_spec(name) is None]:
            return f"{' and '.join(missing)} not installed"
        return f"on CPU only, and this is {device}" if self.cpu_only and device != "cpu" else None


def _bound(function: Any, *arguments: Any) -> Builder:
    return functools.partial(function, *arguments)


def _of_models(framework: str, *arguments: Any) -> Builder:
    """The builder of `models_<framework>`, which is imported when it is asked: the framework need not be there."""

    def build(model: Model, given: Any, dtype: str, pass_: str) -> Any:
        module = importlib.import_module(f".models_{framework}", __name__)
        return module.model_entry(*arguments, model, given, dtype, pass_)

    return build


def _jax(operation: Any, *needs: str, stacks: bool = False, ensembles: bool = False, **more: Builder) -> Peer:
    """`more` may have the builders of `models` and of `ordinary` convolutions."""
    asked: dict[type, Builder] = {Case: _bound(peer_jax.case_entry, operation)}
    if stacks:
        asked[Stack] = _bound(peer_jax.stack_entry, operation)
    if ensembles:
        asked[Ensemble] = _bound(peer_jax.ensemble_entry, operation, False)
    kinds = {"models": Model, "ordinary": Ordinary}
    asked |= {kinds[kind]: builder for kind, builder in more.items()}
    return Peer(asked, needs)


def _torch(memory: str) -> Peer:
    asked = {
        Case: _bound(peer_torch.case_entry, memory),
        Stack: _bound(peer_torch.stack_entry, memory),
        Ordinary: _bound(peer_torch.ordinary_entry, memory),
        Model: _of_models("torch", memory),
    }
    return Peer(asked, ("torch",))


AUTO = peer_jax.of_jdeconv("auto")

PEERS: dict[str, Peer] = {
    SUBJECT: _jax(
        AUTO,
        stacks=True,
        ensembles=True,
        models=_of_models("flax", True),
        ordinary=_bound(peer_jax.ordinary_entry, jdeconv.lax.conv_general_dilated),
    ),
    **{f"jdeconv:{method}": _jax(peer_jax.of_jdeconv(method)) for method in METHODS},
    "jdeconv:loop": Peer({Ensemble: _bound(peer_jax.ensemble_entry, AUTO, True)}),
    "lax": _jax(
        peer_jax.of_lax,
        stacks=True,
        ensembles=True,
        ordinary=_bound(peer_jax.ordinary_entry, lax.conv_general_dilated),
    ),
    "lax:loop": Peer({Ensemble: _bound(peer_jax.ensemble_entry, peer_jax.of_lax, True)}),
    "zero-stuffing": _jax(peer_jax.ZERO_STUFFING, stacks=True),
    "flax": _jax(peer_jax.of_flax, "flax", models=_of_models("flax", False)),
    "keras": _jax(peer_jax.of_keras, "keras"),
    "tensorflow": Peer(
        {
            Case: peer_tensorflow.case_entry,
            Ordinary: peer_tensorflow.ordinary_entry,
            Model: _of_models("tensorflow"),
        },
        ("tensorflow",),
        cpu_only=True,
    ),
    "torch:channels-last": _torch("channels-last"),
    "torch:contiguous": _torch("contiguous"),
    "onnxruntime": Peer({Case: peer_onnx.case_entry}, ("onnx", "onnxruntime"), cpu_only=True),
}
