"""Transposed convolution for JAX: TensorFlow's numbers, every derivative, gradients without the slowdown."""

import importlib
from typing import TYPE_CHECKING, Any

from ._engine.onednn import use_onednn as use_onednn
from ._output_sizes import OutputSizes as OutputSizes
from ._output_sizes import output_sizes as output_sizes
from ._tf import conv1d_transpose as conv1d_transpose
from ._tf import conv2d_transpose as conv2d_transpose
from ._tf import conv3d_transpose as conv3d_transpose
from ._tf import conv_transpose as conv_transpose

if TYPE_CHECKING:
    from . import checkpoint_policies as checkpoint_policies
    from . import convert as convert
    from . import equinox as equinox
    from . import initializers as initializers
    from . import keras as keras
    from . import lax as lax
    from . import linen as linen
    from . import nnx as nnx
    from . import onnx as onnx
    from . import torch as torch
    from ._autotune import autotune as autotune
    from ._explain import Explanation as Explanation
    from ._explain import explain as explain
    from ._overlap import Overlap as Overlap
    from ._overlap import overlap as overlap
    from ._patch import Patch as Patch
    from ._patch import patch as patch
    from ._to_lax import to_lax as to_lax
    from ._tuning import Tuning as Tuning
    from ._tuning import TuningInUse as TuningInUse
    from ._tuning import use_tuning as use_tuning

__version__ = "0.1.0"

# What loads when it is asked for, so that `import jdeconv` stays light: modules, and names with the module they are in.
_MODULES = (
    "checkpoint_policies",
    "convert",
    "equinox",
    "initializers",
    "keras",
    "lax",
    "linen",
    "nnx",
    "onnx",
    "torch",
)
_NAMES = {
    "autotune": "_autotune",
    "Explanation": "_explain",
    "explain": "_explain",
    "Overlap": "_overlap",
    "overlap": "_overlap",
    "Patch": "_patch",
    "patch": "_patch",
    "to_lax": "_to_lax",
    "Tuning": "_tuning",
    "TuningInUse": "_tuning",
    "use_tuning": "_tuning",
}


if not TYPE_CHECKING:  # to a type checker every name would exist, misspelt ones too

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name in _NAMES:
            return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_NAMES})
