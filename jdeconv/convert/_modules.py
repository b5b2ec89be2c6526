"""What the classes of Flax's and Equinox's modules say about the layers of a model. Neither library is imported."""

import sys
from typing import Any

from jax.tree_util import tree_flatten_with_path

from .._jax_operations import jnp
from ._leaves import path_words

# The count of batches of a settled running average: 0.99 to this power is 0, and twice as many fit in an int32.
SETTLED = 2**30


def by_path(model: Any, library: str) -> dict[str, tuple[str, Any]]:
    """The modules that matter, by their paths, each with its kind of layer, 'statistics' or 'wrapper'."""
    classes = _classes()

    def what(node: Any) -> str | None:
        return next((name for name, of in classes.items() if isinstance(node, of)), None)

    found: dict[str, tuple[str, Any]] = {}

    def look(node: Any, outer: tuple[Any, ...]) -> None:
        """Looks inside layers too: a subclass of `Conv` may have a norm."""
        if kind := what(node):
            found["/".join(path_words(outer, library)) if outer else ""] = kind, node
        nodes, _ = tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node and what(inner) is not None)
        for path, inner in nodes:
            if inner is not node and what(inner):
                look(inner, (*outer, *path))

    if classes:
        look(model, ())
    return found


def _classes() -> dict[str, tuple[type, ...]]:
    """The libraries' classes. A library that isn't loaded has no modules in any tree."""
    nnx, nn = sys.modules.get("flax.nnx"), sys.modules.get("equinox.nn")
    wanted = {
        "conv": ("Conv",),
        "conv_transpose": ("ConvTranspose",),
        "wrapper": ("WeightNorm", "SpectralNorm"),
    }
    loaded = [module for module in (nnx, nn) if module is not None]
    classes = {
        what: tuple(getattr(module, name) for module in loaded for name in names if hasattr(module, name))
        for what, names in wanted.items()
    }
    if nn is not None:
        classes["statistics"] = (nn.BatchNorm,)
    return {what: of for what, of in classes.items() if of}


def statistics(norm: Any, state: Any) -> tuple[Any, Any]:
    """The mean and variance that an Equinox batch norm uses at inference."""
    if norm.mode == "ema":
        return state.get(norm.ema_state_index)  # type: ignore[no-any-return]
    count = state.get(norm.batch_counter)
    weight = jnp.where(count == 0, 1, 1 - norm.momentum**count)
    mean, var = state.get(norm.batch_state_index)
    return mean / weight, var / weight


def with_statistics(norm: Any, state: Any, mean: Any, var: Any) -> Any:
    """Equinox's `state` with new statistics for one batch norm."""
    if norm.mode == "ema":
        return state.set(norm.ema_first_time_index, jnp.array(False)).set(norm.ema_state_index, (mean, var))
    return state.set(norm.batch_counter, jnp.array(SETTLED)).set(norm.batch_state_index, (mean, var))
