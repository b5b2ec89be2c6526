"""Transposed convolution for JAX: TensorFlow's numbers, every derivative, gradients without the slowdown."""

import importlib
from typing import TYPE_CHECKING, Any

from . import lax as lax
from ._explain import Explanation as Explanation
from ._explain import explain as explain
from ._geometry import OutputSizes as OutputSizes
from ._geometry import output_sizes as output_sizes
from ._onednn import use_onednn as use_onednn
from ._overlap import Overlap as Overlap
from ._overlap import overlap as overlap
from ._patch import Patch as Patch
from ._patch import patch as patch
from ._tf import conv1d_transpose as conv1d_transpose
from ._tf import conv2d_transpose as conv2d_transpose
from ._tf import conv3d_transpose as conv3d_transpose
from ._tf import conv_transpose as conv_transpose

if TYPE_CHECKING:
    from . import convert as convert
    from . import equinox as equinox
    from . import initializers as initializers
    from . import keras as keras
    from . import linen as linen
    from . import nnx as nnx
    from . import onnx as onnx
    from . import torch as torch

__version__ = "0.1.0"

# Modules that load when they are asked for, so that `import jdeconv` stays light.
_LAZY = ("convert", "equinox", "initializers", "keras", "linen", "nnx", "onnx", "torch")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
