"""Names in parameter trees: the words of a path, and the role in its layer that a leaf's name says."""

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

CONVOLUTIONS = ("conv", "conv_transpose")
KINDS = (*CONVOLUTIONS, "dense", "embedding", "norm", "prelu")
_MATRICES = ("dense", *CONVOLUTIONS)
_NORM, _EMBEDDING, _PRELU = ("norm",), ("embedding",), ("prelu",)
KINDS_OF_RANK = {
    0: _PRELU,
    1: (*_NORM, *_PRELU),
    2: ("dense", "embedding"),
}  # of a weight; with more dimensions: convolutions

# By the name of a leaf: its role, and the kinds of layers that have such a leaf (none: any).
_PYTORCH = {
    "weight": ("weight", ()),
    "bias": ("bias", ()),
    "running_mean": ("mean", _NORM),
    "running_var": ("var", _NORM),
    "num_batches_tracked": ("unchanged", _NORM),
    "weight_g": ("magnitude", _MATRICES),
    "weight_v": ("direction", _MATRICES),
    "parametrizations/weight/original0": ("magnitude", _MATRICES),
    "parametrizations/weight/original1": ("direction", _MATRICES),
}
_KERAS = {
    "kernel": ("weight", _MATRICES),
    "depthwise_kernel": ("weight", ("conv",)),
    "gamma": ("weight", _NORM),
    "alpha": ("weight", _PRELU),
    "embeddings": ("weight", _EMBEDDING),
    "bias": ("bias", ()),
    "beta": ("bias", _NORM),
    "moving_mean": ("mean", _NORM),
    "moving_variance": ("var", _NORM),
    "seed_generator_state": ("unchanged", ()),
}
_FLAX = {
    "kernel": ("weight", _MATRICES),
    "scale": ("weight", _NORM),
    "embedding": ("weight", _EMBEDDING),
    "negative_slope": ("weight", _PRELU),
    "bias": ("bias", ()),
    "mean": ("mean", _NORM),
    "var": ("var", _NORM),
    "rngs/key": ("unchanged", ()),
    "rngs/count": ("unchanged", ()),
}
_HAIKU = {
    "w": ("weight", _MATRICES),
    "scale": ("weight", _NORM),
    "embeddings": ("weight", _EMBEDDING),
    "b": ("bias", ()),
    "offset": ("bias", _NORM),
    "mean_ema/average": ("mean", _NORM),
    "mean_ema/hidden": ("settled mean", _NORM),
    "mean_ema/counter": ("settled count", _NORM),
    "var_ema/average": ("var", _NORM),
    "var_ema/hidden": ("settled var", _NORM),
    "var_ema/counter": ("settled count of var", _NORM),
}
_EQUINOX: dict[str, tuple[str, tuple[str, ...]]] = {
    "weight": ("weight", (*_MATRICES, *_EMBEDDING, *_NORM)),
    "negative_slope": ("weight", _PRELU),
    "bias": ("bias", ()),
}
LEAVES: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "tf": _KERAS,
    "keras": _KERAS,
    "torch": _PYTORCH,
    "onnx": _PYTORCH,
    "flax": _FLAX,
    "flax_transposed": _FLAX,
    "equinox": _EQUINOX,
    "haiku": _HAIKU,
}
# First parts of a path that name a collection or one half of a pair, not a layer.
COLLECTIONS = {
    "flax": ("params", "batch_stats"),
    "flax_transposed": ("params", "batch_stats"),
    "haiku": ("0", "1", "params", "state"),
}
ROLES = ("weight", "bias", "mean", "var")  # converted; other roles stay unchanged, are set to settled or are fused

# Names of TensorFlow's and Keras's optimizer variables.
_OPTIMIZER = (
    "optimizer|adam|adamw|adamax|nadam|adagrad|adadelta|adafactor|ftrl|lamb|lion|muon|rmsprop|sgd|loss_scale_optimizer"
)
_OPTIMIZERS = re.compile(rf"({_OPTIMIZER})(_\d+)?", re.IGNORECASE)
_SLOT = re.compile(r"(Adam|Adagrad|Adadelta|Ftrl|Momentum|RMSProp)(_\d+)?")  # TensorFlow 1: after the variable's name
_STEPS = ("beta1_power", "beta2_power", "global_step", "iteration", "iterations", "learning_rate", "save_counter")


class Leaf(NamedTuple):
    """What a leaf's path says."""

    layer: str
    role: str
    kinds: tuple[str, ...]
    """The kinds of layer that this can be."""


def leaf(parts: list[str], library: str) -> Leaf | None:
    """What a path says; None if no layer of this library has a leaf of that name."""
    for length in (3, 2, 1):
        if found := LEAVES[library].get("/".join(parts[-length:])):
            role, kinds = found
            return Leaf("/".join(parts[:-length]), role, kinds or KINDS)
    return None


def is_optimizer_variable(parts: list[str], library: str) -> bool:
    """Whether a variable of TensorFlow or Keras belongs to an optimizer."""
    if library not in ("tf", "keras"):
        return False
    *outer, last = parts
    owned = any(_OPTIMIZERS.fullmatch(part) for part in outer[:2])  # 'adam/...', 'training/Adam/...'
    return owned or last in _STEPS or (bool(outer) and _SLOT.fullmatch(last) is not None)


def path_words(path: tuple[Any, ...], library: str) -> list[str]:
    """A pytree's path as words, without a collection's name."""
    keys = [next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)) for key in path]
    if library.startswith("flax") and keys[-1] == "value":  # nnx: inside the variable
        keys.pop()
    parts = [word for key in keys for word in words(str(key))]
    if library in ("tf", "keras"):
        parts[-1] = re.sub(r":\d+$", "", parts[-1])
    return parts[1:] if len(parts) > 1 and parts[0] in COLLECTIONS.get(library, ()) else parts


def words(name: str) -> list[str]:
    """The words of a name, which `.` and `/` separate; Haiku's `~` (inside the module) is none."""
    return [word for word in re.split(r"[./]", name) if word not in ("", "~")]


def joined(name: str) -> str:
    return "/".join(words(name))


def name_says_transposed(layer: str) -> bool:
    """Whether the name suggests a transposed convolution. Only an error's proposal uses it; it decides nothing."""
    return re.search("conv.*transpose|deconv", layer.rpartition("/")[2], re.IGNORECASE) is not None


def without_prefix(names: Iterable[str]) -> dict[str, str]:
    """Each name without the words that all names begin with."""
    split = {name: name.split("/") for name in names}
    common = min((len(os.path.commonprefix([*split.values()])), *(len(parts) - 1 for parts in split.values())))
    return {name: "/".join(parts[common:]) for name, parts in split.items()}
