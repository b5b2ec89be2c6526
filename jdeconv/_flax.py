"""What Flax's two `ConvTranspose` layers share: jdeconv's convolution in place of lax's, and grouped kernels."""

import inspect
from collections.abc import Callable
from typing import Any

import flax
import jax

from ._arguments import described, integers, shown
from ._call.apply import convolve
from ._call.arrays import Names
from ._call.lax_calls import LAYOUTS, prepare
from ._errors import either, refusal
from ._jax_operations import copied, jnp, lax

NAMES = Names("inputs", "kernel", "Give the layer as many features as it was made for.", dilations="kernel_dilation")
TESTED = "0.12.1 to 0.12.12"


def call_layer(
    layer: Any,
    method: Callable[..., jax.Array],
    inputs: jax.Array,
    output_shape: Any,
    *,
    mask: Any = None,
) -> jax.Array:
    """Flax's own `__call__` of the layer, its one `lax.conv_transpose` exchanged; `mask` is one that Flax doesn't see.

    The function below Flax's wrappers runs, so that whatever wraps calls (linen's scopes and interceptors, nnx's
    captures) wraps the caller's alone. It runs with a `lax` of its own: nothing is put into `jax.lax`, where another
    thread or a function that the user gave the layer would meet it.
    """
    padding = layer.padding
    if output_shape is not None and isinstance(padding, str) and padding == "CIRCULAR":
        raise refusal(
            ValueError,
            "output_shape",
            shown(output_shape),
            "given with CIRCULAR padding",
            "expected None",
            "The output wraps around at input size times stride; crop or pad it.",
        )
    calls = 0

    def conv_transpose(inputs: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
        nonlocal calls
        calls += 1
        if mask is not None:
            if getattr(mask, "shape", None) != kernel.shape:
                raise refusal(
                    ValueError,
                    "mask",
                    described(mask),
                    "not of the kernel's shape",
                    f"expected {kernel.shape}",
                    "Give a number for each of the kernel's; with feature_group_count its channels are a group's.",
                )
            kernel = kernel * jnp.asarray(mask, kernel.dtype)
        if kernel.ndim > max(LAYOUTS):  # lax has no layout for more, nor has Flax
            raise refusal(
                ValueError,
                "kernel",
                described(kernel),
                f"{kernel.ndim} dimensions",
                f"expected {either(LAYOUTS)}",
                "Call jdeconv.lax.conv_transpose, with dimension_numbers.",
            )
        options |= dict(
            feature_group_count=layer.feature_group_count, method=layer.method, output_shape=output_shape, names=NAMES
        )
        return convolve(prepare(inputs, kernel, *arguments, **options))

    result: jax.Array = copied(inspect.unwrap(method), lax=_Lax(conv_transpose))(layer, inputs)
    if calls != 1:
        raise ImportError(
            f"Flax {flax.__version__}: its ConvTranspose calls lax.conv_transpose {calls} times; jdeconv expected "
            f"once, as in Flax {TESTED}. Install one of these, or a jdeconv that knows this one."
        )
    return result


class _Lax:
    """`jax.lax` with another `conv_transpose`."""

    def __init__(self, conv_transpose: Callable[..., jax.Array]) -> None:
        self.conv_transpose = conv_transpose

    def __getattr__(self, name: str) -> Any:
        return getattr(lax, name)


def grouped_shape(kernel_shape: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """The grouped kernel's shape: its first channel size, input or with `transpose_kernel` output, is one group's.

    >>> grouped_shape((3, 3, 8, 4), 2)
    (3, 3, 4, 4)
    """
    *kernel, first, second = kernel_shape
    groups = groups_from(groups)
    if first % groups or second % groups:
        raise refusal(
            ValueError,
            "feature_group_count",
            groups,
            f"{first} and {second} input and output features",
            "expected a divisor of both",
            "Use 1, the default, for one group.",
        )
    return (*kernel, first // groups, second)


def groups_from(value: Any) -> int:
    """The number of groups, an int from 1."""
    (groups,) = integers("feature_group_count", value, lengths=(1,), least=1)
    return groups
