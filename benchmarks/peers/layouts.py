"""The peers' own layouts, made from jdeconv's before anything is timed, and made back to compare results."""

import numpy as np

from ..work.cases import Array


def convolution_kernel(w: Array, groups: int) -> Array:
    """`(*K, o, g*i)` to the kernel `(*K, i, g*o)` of the ordinary convolution that does the same; its own inverse."""
    *kernel, a, gb = w.shape
    swapped = w.reshape(*kernel, a, groups, gb // groups).swapaxes(-3, -1)
    return np.flip(swapped, tuple(range(len(kernel)))).reshape(*kernel, gb // groups, groups * a)


def channels_first(image: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(image, -1, 1))


def channels_last(image: Array) -> Array:
    return np.moveaxis(image, 1, -1)


def io_kernel(w: Array) -> Array:
    """`(*K, o, i)` to the `(i, o, *K)` of PyTorch and ONNX."""
    return np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))


def from_io_kernel(w: Array) -> Array:
    return np.moveaxis(w, (0, 1), (-1, -2))
