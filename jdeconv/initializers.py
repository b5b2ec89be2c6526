"""Kernel initialisers for up-sampling: interpolation, and nearest neighbours of what a smaller kernel computes.

Each is a factory in the manner of `jax.nn.initializers`: it returns `init(key, shape, dtype=jnp.float32,
out_sharding=None)`. On a mesh with explicit axes `out_sharding` is the kernel's sharding.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from numpy.typing import NDArray

from . import convert
from ._arguments import integers, shown
from ._call.arrays import python_values
from ._dtypes import dtype_of
from ._errors import blames_caller, refusal
from ._jax_operations import jnp
from .convert._kernel_layouts import KERNEL_LAYOUTS, layout_named, moved

Initializer: TypeAlias = Callable[..., jax.Array]


@blames_caller
def bilinear(strides: int | Sequence[int] = 2, *, layout: str = "tf", groups: int = 1) -> Initializer:
    """A transposed convolution that interpolates linearly, each channel by itself.

    With SAME padding and the default output size it enlarges images as `jax.image.resize(..., 'linear')` does (pixel
    centres at half pixels), except for borders, which darken: beyond them there are zeros.

    Args:
      strides: of the convolution, in pixels; an int, or one for each spatial dimension. Default 2.
      layout: the layout of `shape`, a name in `convert.kernel`'s table. Default: `[*k, out / groups, in]`.
      groups: of the convolution. Default 1; with as many as channels (depthwise) the kernel has few zeros.

    Returns:
      `init(key, shape, dtype=jnp.float32, out_sharding=None)`; the key isn't used.

    Raises (from `init`):
      ValueError: kernel sizes other than `2*strides - strides%2` plus an even number (further taps are zero);
        unequal numbers of input and output channels; a layout or `groups` that `convert.kernel` refuses.
      TypeError: a dtype of integers, which would round the weights to 0.

    Example:
      >>> bilinear(2)(None, (4, 1, 1))[:, 0, 0]
      Array([0.25, 0.75, 0.75, 0.25], dtype=float32)

    Semantics: the kernels of FCN (Long, Shelhamer and Darrell 2015), against `jax.image.resize`.
    """
    return _interpolation("bilinear", 1, lambda x: np.maximum(1 - x, 0), strides, layout, groups)


@blames_caller
def bicubic(strides: int | Sequence[int] = 2, *, a: float = -0.5, layout: str = "tf", groups: int = 1) -> Initializer:
    """A transposed convolution that interpolates cubically, each channel by itself.

    As `bilinear`, but as `jax.image.resize(..., 'cubic')`, and with kernel sizes of `4*strides - strides%2`, or larger
    by an even number.

    Args:
      strides, layout, groups: as in `bilinear`.
      a: the slope of the interpolating function at distance 1. Default -0.5, as in JAX, TensorFlow and Pillow; PyTorch
        and OpenCV have -0.75.

    Returns: `init(key, shape, dtype=jnp.float32, out_sharding=None)`. Raises: as `bilinear`.

    Example:
      >>> bicubic(2)(None, (8, 1, 1)).sum()  # 1 for each of the two phases
      Array(2., dtype=float32)

    Semantics: Keys 1981, "Cubic convolution interpolation for digital image processing", against `jax.image.resize`.
    """

    number = python_values(a)
    if not isinstance(number, numbers.Real) or not math.isfinite(number):
        raise refusal(
            TypeError, "a", shown(a), "not a number", "expected the slope of a function", "Use -0.5 or -0.75."
        )
    slope = float(number)

    def keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
        near = ((slope + 2) * x - (slope + 3)) * x * x + 1
        far = ((x - 5) * x + 8) * slope * x - 4 * slope
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return _interpolation("bicubic", 2, keys, strides, layout, groups)


@blames_caller
def icnr(
    strides: int | Sequence[int] = 2,
    initializer: Initializer | None = None,
    *,
    layout: str = "tf",
    groups: int = 1,
    shuffle: str | None = None,
) -> Initializer:
    """Initialised to no checkerboard: all `strides` x `strides` pixels from one input position are equal.

    The kernel of a transposed convolution repeats each tap of a smaller kernel `strides` times. So the output is the
    smaller kernel's output, enlarged by nearest neighbours. With `shuffle` the kernel is an ordinary convolution's,
    whose channels are then rearranged to pixels; it repeats output channels.

    Args:
      strides: in pixels; an int, or one for each spatial dimension. Default 2.
      initializer: draws the smaller kernel, of shape `[*k / strides, in / groups, out]`, or with `shuffle`
        `[*k, in / groups, out / (strides x strides)]`. Default: `jax.nn.initializers.he_normal()`.
      layout: the layout of `init`'s `shape`. Default: TensorFlow's, `[*k, out / groups, in]`, or with `shuffle`
        `[*k, in / groups, out]`.
      groups: of the transposed convolution. Default 1.
      shuffle: None (default): a transposed convolution. `'depth_to_space'`: a pixel's offset is the slower index of
        the channels, as in TensorFlow's function of that name. `'pixel_shuffle'`: the faster one, as in PyTorch's.

    Returns:
      `init(key, shape, dtype=jnp.float32, out_sharding=None)`.

    Raises (from `init`):
      ValueError: a kernel size that is no multiple of `strides`; with `shuffle`, output channels that are no multiple
        of the strides' product; an unknown layout or `shuffle`.

    Example:
      >>> w = icnr(2)(jax.random.key(0), (4, 4, 8, 16))
      >>> bool((w[::2, ::2] == w[1::2, 1::2]).all())
      True

    Semantics: Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution".
    """
    if initializer is not None and not callable(initializer):
        raise refusal(
            TypeError,
            "initializer",
            shown(initializer),
            "not a function",
            "expected one of key, shape and dtype",
            "Use None, or one that jax.nn.initializers makes.",
        )
    draw = initializer or jax.nn.initializers.he_normal()
    groups = python_values(groups)

    @blames_caller
    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        shape, dtype = _sizes(shape), _floats(dtype)
        if initializer is None and not isinstance(key, (jax.Array, np.ndarray)):
            raise refusal(TypeError, "key", shown(key), "not a key", "expected a random key", "Pass jax.random.key(0).")
        if shuffle is None:
            *kernel, outputs, inputs = _tensorflow_shape(shape, layout, groups)
            steps = _steps(strides, len(kernel))
            _check("icnr", shape, all(k % s == 0 for k, s in zip(kernel, steps, strict=True)),
                   f"kernel sizes {tuple(kernel)}", f"expected multiples of strides={steps}")  # fmt: skip
            small = tuple(k // s for k, s in zip(kernel, steps, strict=True))
            weights = draw(key, (*small, inputs // groups, outputs * groups), dtype)
            for dim, step in enumerate(steps):
                weights = jnp.repeat(weights, step, axis=dim)
            return _placed(convert.kernel(weights, "flax", layout, groups), out_sharding)
        order = layout_named("layout", layout).conv
        blank = moved(np.broadcast_to(np.int8(0), shape), order, KERNEL_LAYOUTS["tf"].conv, 1, False)
        *kernel, inputs, outputs = blank.shape
        steps = _steps(strides, len(kernel))
        pixels = math.prod(steps)
        _check("icnr", shape, outputs % pixels == 0, f"{outputs} output channels", f"expected a multiple of {pixels}")
        weights = draw(key, (*kernel, inputs, outputs // pixels), dtype)
        axis = {"depth_to_space": -2, "pixel_shuffle": -1}[shuffle]
        weights = jnp.repeat(jnp.expand_dims(weights, axis), pixels, axis=axis).reshape(blank.shape)
        return _placed(moved(weights, KERNEL_LAYOUTS["tf"].conv, order, 1, False), out_sharding)

    if shuffle is not None and not (isinstance(shuffle, str) and shuffle in ("depth_to_space", "pixel_shuffle")):
        raise refusal(
            ValueError,
            "shuffle",
            shown(shuffle),
            "unknown",
            "expected None, 'depth_to_space' or 'pixel_shuffle'",
            "Use None for a transposed convolution.",
        )
    return init


def _interpolation(
    name: str,
    reach: int,
    curve: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    strides: int | Sequence[int],
    layout: str,
    groups: int,
) -> Initializer:
    """`curve` of the distance from the kernel's centre in input pixels, zero from `reach` on."""
    groups = python_values(groups)

    @blames_caller
    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        shape, dtype = _sizes(shape), _floats(dtype)
        *kernel, outputs, inputs = _tensorflow_shape(shape, layout, groups)
        steps = _steps(strides, len(kernel))
        weights = np.ones(())
        for size, step in zip(kernel, steps, strict=True):
            least = 2 * reach * step - step % 2
            _check(name, shape, size >= least and (size - least) % 2 == 0,
                   f"kernel size {size}", f"expected {least}, {least + 2} and so on, for stride {step}")  # fmt: skip
            weights = np.multiply.outer(weights, curve(np.abs(np.arange(size) - (size - 1) / 2) / step))
        _check(name, shape, inputs == outputs * groups, f"{inputs} input and {outputs * groups} output channels",
               f"expected as many, for groups={groups}")  # fmt: skip
        channels = np.tile(np.eye(outputs), groups)  # one to one inside each group
        whole = jnp.asarray(np.multiply.outer(weights, channels), dtype)
        return _placed(convert.kernel(whole, "tf", layout, groups), out_sharding)

    return init


def _placed(weights: jax.Array, out_sharding: Any) -> jax.Array:
    return weights if out_sharding is None else jax.sharding.reshard(weights, out_sharding)


def _sizes(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = integers("shape", shape, least=1)
    _check("a kernel", sizes, len(sizes) > 2, f"{len(sizes)} dimensions", "expected 3 or more, two of them of channels")
    return sizes


def _floats(dtype: Any) -> np.dtype[Any]:
    found = dtype_of(jnp.float32 if dtype is None else dtype)
    if found is None or not jnp.issubdtype(found, jnp.inexact):
        raise refusal(
            TypeError,
            "dtype",
            shown(dtype),
            "no weights are of that type",
            "expected a float or complex dtype",
            "Leave it out for float32.",
        )
    return found


def _tensorflow_shape(shape: tuple[int, ...], layout: str, groups: int) -> tuple[int, ...]:
    layout_named("layout", layout)
    return convert.kernel(np.broadcast_to(np.int8(0), shape), layout, "tf", groups).shape


def _steps(strides: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return integers("strides", strides, lengths=(rank,), least=1)


def _check(name: str, shape: tuple[int, ...], good: bool, problem: str, expected: str) -> None:
    if not good:
        raise refusal(ValueError, "shape", shown(shape), f"{name}, {problem}", expected, "Change the layer's sizes.")
