"""Policies for `jax.checkpoint` that know this library's operator. JAX's own policies do not.

`jax.checkpoint_policies.dots_saveable` saves the results of `jax.lax`'s products and convolutions, and of nothing else.
Under it a transposed convolution of this library is computed twice.
"""

from typing import Any

import jax

from ._operator.primitive import transposed_convolution_p


def convolutions_saveable(primitive: Any, *_: Any, **parameters: Any) -> bool:
    """Saves the results of convolutions for the backward pass, and computes all else again.

    Convolutions are this library's, in every direction, and `jax.lax.conv_general_dilated`. Like JAX's own policies, it
    is the `policy` of `jax.checkpoint`, `flax.linen.remat` or `flax.nnx.remat`.
    `jax.checkpoint_policies.save_from_both_policies` joins it to another policy.

    Args:
      primitive, parameters: the operation that JAX asks about, and its parameters; JAX passes them.

    Returns: whether the operation's result is saved.

    Example:
      >>> import jax, jax.numpy as jnp, jdeconv
      >>> def layer(x, w):
      ...     return jnp.tanh(jdeconv.conv1d_transpose(x, w, None, 2))
      >>> layer = jax.checkpoint(layer, policy=jdeconv.checkpoint_policies.convolutions_saveable)
      >>> gradient = jax.grad(lambda w: layer(jnp.ones((1, 3, 2)), w).sum())(jnp.ones((4, 5, 2)))
    """
    return primitive is transposed_convolution_p or primitive is jax.lax.conv_general_dilated_p


def dots_and_convolutions_saveable(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
    """As `jax.checkpoint_policies.dots_saveable`, and saves this library's convolutions too.

    Args:
      primitive, arguments, parameters: the operation that JAX asks about, its operands and its parameters; JAX passes
        them.

    Returns: whether the operation's result is saved.

    Example:
      >>> import jax
      >>> dots_and_convolutions_saveable(jax.lax.dot_general_p), dots_and_convolutions_saveable(jax.lax.exp_p)
      (True, False)
    """
    saved = jax.checkpoint_policies.dots_saveable(primitive, *arguments, **parameters)
    return saved or convolutions_saveable(primitive)
