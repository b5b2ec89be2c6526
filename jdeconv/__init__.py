"""Transposed convolution for JAX: TensorFlow's numbers, every derivative, gradients without the slowdown."""

from ._explain import Explanation as Explanation
from ._explain import explain as explain
from ._geometry import OutputSizes as OutputSizes
from ._geometry import output_sizes as output_sizes
from ._onednn import use_onednn as use_onednn
from ._tf import conv1d_transpose as conv1d_transpose
from ._tf import conv2d_transpose as conv2d_transpose
from ._tf import conv3d_transpose as conv3d_transpose
from ._tf import conv_transpose as conv_transpose

__version__ = "0.1.0"
