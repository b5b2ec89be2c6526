"""Layers found in the parameter trees of other libraries, by the names of paths and leaves; no layouts, no shapes."""

import dataclasses
import fnmatch
import os
import re
from collections.abc import Callable, Collection, Mapping
from types import NoneType
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_flatten_with_path

from ._arguments import shown
from ._errors import either, refusal
from ._jax_operations import jnp
from ._operands import described

KINDS = ("conv", "conv_transpose", "dense", "embedding", "norm")
_CONVOLUTIONS = ("conv", "conv_transpose")
_MATRICES = ("dense", *_CONVOLUTIONS)
_NORM, _TABLE = ("norm",), ("embedding",)
KINDS_OF_RANK = {1: _NORM, 2: ("dense", "embedding")}  # of a weight; of more dimensions: convolutions

# What each library calls a leaf: its role, and the kinds of layers that have such a leaf (none: any).
_PYTORCH = {
    "weight": ("weight", ()),
    "bias": ("bias", ()),
    "running_mean": ("mean", _NORM),
    "running_var": ("var", _NORM),
    "num_batches_tracked": ("kept", _NORM),
}
_KERAS = {
    "kernel": ("weight", _MATRICES),
    "gamma": ("weight", _NORM),
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
_EQUINOX: dict[str, tuple[str, tuple[str, ...]]] = {"weight": ("weight", ()), "bias": ("bias", ())}
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
    "haiku": ("0", "1"),
}
ROLES = ("weight", "bias", "mean", "var")  # what is converted; leaves of other roles are kept or settled

# Of a running average that has forgotten its start: 0.99 to this power is 0, and as many steps again fit in an int32.
SETTLED = 2**30

Names = Mapping[str, str] | Callable[[str], str] | None


@dataclasses.dataclass
class Layer:
    """Leaves with a common path. `kinds`: what it can be; `transposed`: whether its name says that a convolution is."""

    name: str
    transposed: bool | None
    leaves: dict[str, Any] = dataclasses.field(default_factory=dict)
    positions: dict[str, int] = dataclasses.field(default_factory=dict)
    kinds: set[str] = dataclasses.field(default_factory=lambda: set(KINDS))

    @property
    def roles(self) -> set[str]:
        return self.leaves.keys() & set(ROLES)


@dataclasses.dataclass
class Tree:
    argument: str
    layers: dict[str, Layer]
    values: list[Any]
    structure: Any
    norms: dict[str, Any]
    """Equinox's batch norms, whose statistics are in `state`."""
    state: Any


def read(argument: str, tree: Any, library: str) -> Tree:
    """The layers of a tree; refuses leaves of unknown names."""
    tree, state = tree if library == "equinox" and isinstance(tree, tuple) and len(tree) == 2 else (tree, None)
    try:
        flat, structure = tree_flatten_with_path(tree)
    except (TypeError, ValueError, Warning):  # keys that can't be sorted; iterators, of which JAX warns
        flat, structure = [], None
    if not any(path and hasattr(value, "shape") for path, value in flat):
        raise refusal(
            TypeError,
            argument,
            described(tree),
            "no arrays with names",
            "expected a pytree of them, such as a dict",
            "See the docstring for what each library's is.",
        )
    kinds_of_classes, norms = _modules(tree, library)
    layers: dict[str, Layer] = {}
    for position, (path, value) in enumerate(flat):
        if not hasattr(value, "shape"):  # of a module: a name, a number, a function
            continue
        parts = _parts(path, library)
        length = next((n for n in (2, 1) if "/".join(parts[-n:]) in LEAVES[library]), None)
        if length is None or len(parts) <= length:
            raise refusal(
                ValueError,
                argument,
                f"{{{'/'.join(parts)!r}: ...}}",
                f"not a leaf of {library}'s convolutions, dense layers, norms and embeddings",
                f"expected a layer's {either(map(repr, LEAVES[library]))}",
                "Leave it out, and convert it yourself.",
            )
        name, (role, kinds) = "/".join(parts[:-length]), LEAVES[library]["/".join(parts[-length:])]
        if role == "kept":
            continue
        layer = layers.setdefault(name, Layer(name, _name_says(parts[-length - 1])))
        layer.leaves[role], layer.positions[role] = value, position
        if role == "weight" and kinds in ((), _MATRICES):  # Haiku's scales have the dimensions of images
            layer.kinds &= set(KINDS_OF_RANK.get(len(value.shape), _CONVOLUTIONS))
        layer.kinds &= set(kinds or KINDS) & {kinds_of_classes.get(name, kind) for kind in layer.kinds}
    for name, norm in norms.items() if state is not None else ():
        layer = layers.setdefault(name, Layer(name, None))
        layer.leaves["mean"], layer.leaves["var"] = _statistics(norm, state)
    return Tree(argument, layers, [value for _, value in flat], structure, norms, state)


def _parts(path: tuple[Any, ...], library: str) -> list[str]:
    """A path as words, without the ones that name no layer."""
    keys = [next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)) for key in path]
    if library.startswith("flax") and keys[-1] == "value":  # nnx: inside the variable
        keys.pop()
    words = [word for key in keys for word in _words(str(key))]
    if library in ("tf", "keras"):
        words[-1] = re.sub(r":\d+$", "", words[-1])
    return words[1:] if words[0] in COLLECTIONS.get(library, ()) else words


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[./]", name) if word != "~"]  # which in Haiku is "inside the module"


def _name_says(word: str) -> bool | None:
    """Whether a layer of this name is a transposed convolution; None: it may be any."""
    if re.search("conv.*transpose|deconv", word, re.IGNORECASE):
        return True
    return False if re.fullmatch(r"(Conv|conv[123]_?d)(_\d+)?", word) else None  # what Flax, Keras and Haiku call them


def _kind_of_class(node: Any) -> str | None:
    """What an nnx or Equinox module with a convolution's class is."""
    for cls in type(node).__mro__:
        if found := re.fullmatch("Conv(Transpose)?([123]d)?", cls.__name__):
            return "conv_transpose" if found[1] else "conv"
    return None


def _of_interest(node: Any) -> bool:
    return _kind_of_class(node) is not None or hasattr(node, "ema_state_index")


def _modules(tree: Any, library: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The modules in a model: the kinds of its convolutions, and Equinox's norms that have a state."""
    nodes, _ = tree_flatten_with_path(tree, is_leaf=_of_interest)
    named = [("/".join(_parts(path, library)), node) for path, node in nodes if path]
    kinds = {name: kind for name, node in named if (kind := _kind_of_class(node))}
    return kinds, {name: node for name, node in named if hasattr(node, "ema_state_index")}


def paired(old: Tree, new: Tree, names: Names) -> list[tuple[str, str]]:
    """Every layer of `old` beside the one of `new` that takes its values."""
    named = isinstance(names, Mapping) and all(isinstance(word, str) for word in (*names, *names.values()))
    if not named and names is not None and not (callable(names) and not isinstance(names, type)):
        raise refusal(
            TypeError,
            "names",
            described(names),
            "neither names nor a function of a name",
            "expected a mapping of strings to strings, a function, or None",
            "Use {'layer of tree': 'layer of like'}.",
        )
    if isinstance(names, Mapping):
        names = {"/".join(_words(name)): "/".join(_words(taker)) for name, taker in names.items()}
        for name in names.keys() - old.layers.keys():
            raise _not_found(old, names, name)
    takers = {short: name for name, short in _short(new).items()}
    pairs: dict[str, str] = {}  # by the taker
    for name, short in _short(old).items():
        given = names(name) if callable(names) else (names or {}).get(name)
        if not isinstance(given, (str, NoneType)):
            raise refusal(
                TypeError,
                "names",
                shown({name: given}),
                "the function returned no name",
                "expected a string or None",
                "Return the name of a layer of like.",
            )
        taker = "/".join(_words(given)) if given else takers.get(short, short)
        if taker not in new.layers:
            raise _not_found(new, {name: taker}, taker)
        if taker in pairs:
            raise refusal(
                ValueError,
                "names",
                shown({name: taker}),
                f"layer {pairs[taker]!r} goes there too",
                "expected one for each",
                "Name another.",
            )
        pairs[taker] = name
    for taker in new.layers.keys() - pairs.keys():
        raise refusal(
            ValueError,
            "tree",
            f"layers {either(map(repr, old.layers))}",
            f"none is for like's layer {taker!r}",
            "expected one for each",
            "Add it to tree, or name it in names.",
        )
    return [(name, taker) for taker, name in pairs.items()]


def _short(tree: Tree) -> dict[str, str]:
    """The names, without the words that all of them begin with."""
    words = [name.split("/") for name in tree.layers]
    common = min(len(os.path.commonprefix(words)), *(len(parts) - 1 for parts in words)) if words else 0
    return {name: "/".join(parts[common:]) for name, parts in zip(tree.layers, words, strict=True)}


def _not_found(tree: Tree, names: Mapping[str, str], missing: str) -> Exception:
    return refusal(
        ValueError,
        "names",
        shown(dict(names)),
        f"{tree.argument} has no layer {missing!r}",
        f"expected {either(map(repr, tree.layers)) if tree.layers else 'a tree with layers'}",
        "Say in names which layer of tree is which of like.",
    )


def kind(old: Layer, new: Layer, transposed: bool | Collection[str] | None) -> str:
    """What both layers are: one of `KINDS`."""
    kinds = old.kinds & new.kinds
    if not kinds:
        raise refusal(
            ValueError,
            "tree",
            f"layer {old.name!r}",
            f"{_described(old)}, but like's {new.name!r} is {_described(new)}",
            "expected layers of one kind",
            "Check names.",
        )
    if len(kinds) == 1 or "conv" not in kinds:
        return min(kinds)  # where it may be a dense layer or a table, both libraries keep the two alike
    if transposed is None:
        told = old.transposed if new.transposed is None else new.transposed
    else:
        told = transposed if isinstance(transposed, bool) else any(fnmatch.fnmatch(old.name, p) for p in transposed)
    if told is None:
        raise refusal(
            ValueError,
            "transposed",
            "None",
            f"nothing says whether the convolution {old.name!r} is transposed",
            "expected True, False, or patterns of the names of those that are",
            f"Pass transposed=True if all are, or transposed=[{old.name!r}, ...].",
        )
    return "conv_transpose" if told else "conv"


def _described(layer: Layer) -> str:
    return f"{either(sorted(layer.kinds)) if layer.kinds else 'of no known kind'} with {_listed(layer.roles)}"


def _listed(roles: set[str]) -> str:
    return " and ".join(role for role in ROLES if role in roles) or "nothing"


def check_patterns(tree: Tree, transposed: bool | Collection[str] | None) -> None:
    good = isinstance(transposed, bool) or (
        isinstance(transposed, Collection)
        and not isinstance(transposed, (str, bytes))
        and all(isinstance(pattern, str) for pattern in transposed)
    )
    if transposed is not None and not good:
        raise refusal(
            TypeError,
            "transposed",
            described(transposed),
            "neither a bool nor patterns",
            "expected True, False, None, or a list of strings",
            "Use a list, of one pattern too.",
        )
    convolutions = [layer.name for layer in tree.layers.values() if layer.kinds & set(_CONVOLUTIONS)]
    for pattern in () if transposed is None or isinstance(transposed, bool) else transposed:
        if not fnmatch.filter(convolutions, pattern):
            raise refusal(
                ValueError,
                "transposed",
                shown(transposed),
                f"{pattern!r} matches no convolution of tree",
                f"expected patterns of {either(map(repr, convolutions)) if convolutions else 'convolutions'}",
                "Names are paths joined by '/'.",
            )


def check_roles(old: Layer, new: Layer) -> None:
    """Both layers must hold the same: nothing stays as it was initialised, and nothing is lost."""
    if old.roles != new.roles:
        raise refusal(
            ValueError,
            "tree",
            f"layer {old.name!r}",
            f"has {_listed(old.roles)}",
            f"expected {_listed(new.roles)}, as like's {new.name!r}",
            "Make the models alike (use_bias, affine, state).",
        )


def filled(tree: Tree, values: dict[str, dict[str, Any]]) -> Any:
    """`tree` with these values, in the types that its own leaves have."""
    leaves, state = list(tree.values), jax.tree.map(lambda leaf: leaf, tree.state)  # Equinox's serves once only
    for name, layer in tree.layers.items():
        settled = {"count": SETTLED, "count of var": SETTLED, **values[name]}
        for role, position in layer.positions.items():
            leaves[position] = _typed(settled[role.removeprefix("settled ")], leaves[position])
    for name, norm in tree.norms.items() if state is not None else ():
        state = _with_statistics(
            norm, state, *(_typed(values[name][role], tree.layers[name].leaves[role]) for role in ("mean", "var"))
        )
    model = jax.tree.unflatten(tree.structure, leaves)
    return model if state is None else (model, state)


def _typed(value: Any, leaf: Any) -> Any:
    if hasattr(leaf, "new_tensor"):  # PyTorch's
        return leaf.new_tensor(np.array(value, np.float32 if value.dtype == jnp.bfloat16 else None, order="C"))
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return jnp.asarray(value, leaf.dtype)
    return np.array(value, np.asarray(leaf).dtype, order="C")


def _statistics(norm: Any, state: Any) -> tuple[Any, Any]:
    """Mean and variance that an Equinox batch norm uses at inference."""
    if norm.mode == "ema":
        return state.get(norm.ema_state_index)
    count = state.get(norm.batch_counter)
    weight = jnp.where(count == 0, 1, 1 - norm.momentum**count)
    mean, var = state.get(norm.batch_state_index)
    return mean / weight, var / weight


def _with_statistics(norm: Any, state: Any, mean: Any, var: Any) -> Any:
    if norm.mode == "ema":
        return state.set(norm.ema_first_time_index, jnp.array(False)).set(norm.ema_state_index, (mean, var))
    return state.set(norm.batch_counter, jnp.array(SETTLED)).set(norm.batch_state_index, (mean, var))
