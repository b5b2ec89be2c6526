"""What Flax's two `ConvTranspose` layers share: the convolution that they call instead, and their kernel's groups."""

from collections.abc import Callable
from typing import Any

import jax

from ._arguments import integers, shown
from ._dilated import Names
from ._errors import either, refusal
from ._jax_operations import jnp
from ._operands import described
from ._patch import Handlers
from .lax import LAYOUTS, prepare

NAMES = Names("inputs", "kernel", "kernel_dilation", channels="Give the layer as many features as it was made for.")


def convolution(
    padding: Any, output_shape: Any, *, feature_group_count: int, method: str, mask: Any = None
) -> Handlers:
    """Handles the layer's one call of `jax.lax.conv_transpose`; `mask` is one that the layer has not applied."""
    if output_shape is not None and isinstance(padding, str) and padding == "CIRCULAR":
        raise refusal(
            ValueError,
            "output_shape",
            shown(output_shape),
            "given with CIRCULAR padding",
            "expected None",
            "The output wraps around at input size times stride; crop or pad it.",
        )

    def conv_transpose(
        stood: Callable[..., jax.Array], inputs: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any
    ) -> jax.Array:
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
        options |= dict(feature_group_count=feature_group_count, method=method, output_shape=output_shape, names=NAMES)
        both, parameters = prepare(inputs, kernel, *arguments, **options)
        return both.convolve(**parameters)

    return {"conv_transpose": conv_transpose}


def grouped(kernel_shape: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """The kernel's shape where its first channels, the input's or with `transpose_kernel` the output's, are a group's.

    >>> grouped((3, 3, 8, 4), 2)
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
