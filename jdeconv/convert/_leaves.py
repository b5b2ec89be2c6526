"""What each library calls the leaves of a parameter tree: paths as words, and the role that a leaf's name says."""

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

CONVOLUTIONS = ("conv", "conv_transpose")
KINDS = (*CONVOLUTIONS, "dense", "embedding", "norm", "prelu")
_MATRICES = ("dense", *CONVOLUTIONS)
_NORM, _TABLE, _PRELU = ("norm",), ("embedding",), ("prelu",)
KINDS_OF_RANK = {0: _PRELU, 1: (*_NORM, *_PRELU), 2: ("dense", "embedding")}  # of a weight; more: convolutions

# What each library calls a leaf: its role, and the kinds of layers that have such a leaf (none: any).
_PYTORCH = {
    "weight": ("weight", ()),
    "bias": ("bias", ()),
    "running_mean": ("mean", _NORM),
    "running_var": ("var", _NORM),
    "num_batches_tracked": ("kept", _NORM),
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
    "embeddings": ("weight", _TABLE),
    "bias": ("bias", ()),
    "beta": ("bias", _NORM),
    "moving_mean": ("mean", _NORM),
    "moving_variance": ("var", _NORM),
    "seed_generator_state": ("kept", ()),
}
_FLAX = {
    "kernel": ("weight", _MATRICES),
    "scale": ("weight", _NORM),
    "embedding": ("weight", _TABLE),
    "negative_slope": ("weight", _PRELU),
    "bias": ("bias", ()),
    "mean": ("mean", _NORM),
    "var": ("var", _NORM),
    "rngs/key": ("kept", ()),
    "rngs/count": ("kept", ()),
}
_HAIKU = {
    "w": ("weight", _MATRICES),
    "scale": ("weight", _NORM),
    "embeddings": ("weight", _TABLE),
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
    "weight": ("weight", (*_MATRICES, *_TABLE, *_NORM)),
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
# The first part of a path that names a collection, or the half of a pair, and no layer.
COLLECTIONS = {
    "flax": ("params", "batch_stats"),
    "flax_transposed": ("params", "batch_stats"),
    "haiku": ("0", "1", "params", "state"),
}
ROLES = ("weight", "bias", "mean", "var")  # what is converted; leaves of other roles are kept, settled or fused

# What TensorFlow's and Keras's optimizers call their variables.
_OPTIMIZER = (
    "optimizer|adam|adamw|adamax|nadam|adagrad|adadelta|adafactor|ftrl|lamb|lion|muon|rmsprop|sgd|loss_scale_optimizer"
)
_OPTIMIZERS = re.compile(rf"({_OPTIMIZER})(_\d+)?", re.IGNORECASE)
_SLOT = re.compile(r"(Adam|Adagrad|Adadelta|Ftrl|Momentum|RMSProp)(_\d+)?")  # TensorFlow 1: after the variable's name
_STEPS = ("beta1_power", "beta2_power", "global_step", "iteration", "iterations", "learning_rate", "save_counter")


class Leaf(NamedTuple):
    """A leaf's name, taken apart."""

    layer: str
    role: str
    kinds: tuple[str, ...]
    """What the layer can be."""


def leaf(parts: list[str], library: str) -> Leaf | None:
    """The leaf at a path; None: its name isn't a layer's."""
    for length in (3, 2, 1):
        if found := LEAVES[library].get("/".join(parts[-length:])):
            role, kinds = found
            return Leaf("/".join(parts[:-length]), role, kinds or KINDS)
    return None


def of_optimizer(parts: list[str], library: str) -> bool:
    """Whether a variable of TensorFlow or Keras belongs to an optimizer."""
    if library not in ("tf", "keras"):
        return False
    *outer, last = parts
    owned = any(_OPTIMIZERS.fullmatch(part) for part in outer[:2])  # 'adam/...', 'training/Adam/...'
    return owned or last in _STEPS or (bool(outer) and _SLOT.fullmatch(last) is not None)


def parts_of(path: tuple[Any, ...], library: str) -> list[str]:
    """A pytree's path as words, without those that name no layer."""
    keys = [next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)) for key in path]
    if library.startswith("flax") and keys[-1] == "value":  # nnx: inside the variable
        keys.pop()
    parts = [word for key in keys for word in words(str(key))]
    if library in ("tf", "keras"):
        parts[-1] = re.sub(r":\d+$", "", parts[-1])
    return parts[1:] if len(parts) > 1 and parts[0] in COLLECTIONS.get(library, ()) else parts


def words(name: str) -> list[str]:
    """The words of a name that `.` and `/` part; `~` is Haiku's "inside the module"."""
    return [word for word in re.split(r"[./]", name) if word not in ("", "~")]


def joined(name: str) -> str:
    return "/".join(words(name))


def name_says_transposed(layer: str) -> bool:
    """Whether the name suggests a transposed convolution: a suggestion to the user, which decides nothing."""
    return re.search("conv.*transpose|deconv", layer.rpartition("/")[2], re.IGNORECASE) is not None


def without_prefix(names: Iterable[str]) -> dict[str, str]:
    """The names, without the words that all of them begin with."""
    split = {name: name.split("/") for name in names}
    common = min((len(os.path.commonprefix([*split.values()])), *(len(parts) - 1 for parts in split.values())))
    return {name: "/".join(parts[common:]) for name, parts in split.items()}
