"""The layers of a library's parameter tree, found by the names of paths and leaves; layouts don't matter here."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_flatten_with_path

from .._arguments import described
from .._errors import either, refusal
from .._jax_operations import jnp
from . import _modules, _onnx_models, _saved_models, _weight_norm
from ._leaves import CONVOLUTIONS, KINDS, KINDS_OF_RANK, LEAVES, ROLES, is_optimizer_variable, leaf, path_words


@dataclasses.dataclass
class Layer:
    """The leaves of one layer, by role."""

    name: str
    leaves: dict[str, Any] = dataclasses.field(default_factory=dict)
    positions: dict[str, int] = dataclasses.field(default_factory=dict)
    kinds: set[str] = dataclasses.field(default_factory=lambda: set(KINDS))
    """The kinds that the layer can be."""
    groups: int | None = None
    """The convolution's groups, where the tree tells them."""

    @property
    def roles(self) -> set[str]:
        return self.leaves.keys() & set(ROLES)


@dataclasses.dataclass
class Tree:
    """A pytree, an ONNX graph or a SavedModel: its leaves by path, and what else it tells about layers."""

    argument: str
    library: str
    leaves: dict[str, Any]
    positions: dict[str, int]
    """Where each leaf is in `values`; empty if the tree is no pytree."""
    values: list[Any] = dataclasses.field(default_factory=list)
    structure: Any = None
    state: Any = None
    """Equinox's state."""
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    """Each layer's kind, where a module's class or a graph's node tells it."""
    groups: dict[str, int] = dataclasses.field(default_factory=dict)
    norms: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Equinox's batch norms by path; their statistics are in `state`."""
    wrappers: dict[str, str] = dataclasses.field(default_factory=dict)
    """The classes of modules that compute another module's weight, by path."""
    graph: bool = False
    """Whether the tree is an ONNX graph."""
    layers: dict[str, Layer] = dataclasses.field(default_factory=dict)


def flattened(argument: str, tree: Any, library: str) -> Tree:
    """The tree with its leaves by path, not yet in layers."""
    if argument == "tree" and library == "onnx" and _onnx_models.is_model(tree):
        graph = _onnx_models.read(tree)
        return Tree(argument, library, graph.leaves, {}, kinds=graph.kinds, groups=graph.groups, graph=True)
    if argument == "tree" and library in ("tf", "keras") and _saved_models.is_saved_model(tree):
        tree = _saved_models.variables(tree)
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
    found = Tree(argument, library, {}, {}, [value for _, value in flat], structure, state)
    for position, (path, value) in enumerate(flat):
        if not hasattr(value, "shape"):  # a module's name, number or function
            continue
        name = "/".join(path_words(path, library))
        if name in found.leaves:
            raise refusal(
                ValueError,
                argument,
                f"{{{name!r}: ...}}",
                "two leaves have this name, words being joined by '/'",
                "expected one",
                "Rename one of them.",
            )
        found.leaves[name], found.positions[name] = value, position
    for name, (what, module) in _modules.by_path(tree, library).items():
        if what == "wrapper":
            found.wrappers[name] = type(module).__name__
        elif what == "statistics":
            found.norms[name] = module
        else:
            found.kinds[name] = what
            _check_layout(found, name, module)
    return found


def _check_layout(tree: Tree, name: str, module: Any) -> None:
    """Refuses an nnx layer whose `transpose_kernel` contradicts the library's name."""
    layouts = {True: "flax_transposed", False: "flax", None: tree.library}
    layout = layouts[getattr(module, "transpose_kernel", None)]
    if layout != tree.library:
        raise refusal(
            ValueError,
            {"tree": "source", "like": "target"}[tree.argument],
            repr(tree.library),
            f"layer {name!r} was made with transpose_kernel={module.transpose_kernel}",
            f"expected {layout!r}",
            "Name the layout that the layers have.",
        )


def group_leaves(tree: Tree, apart: Collection[str]) -> None:
    """Sorts the leaves of a tree into layers, except for those in `apart`; refuses unknown names."""
    left = {path: value for path, value in tree.leaves.items() if path not in apart}
    _weight_norm.check(tree.argument, tree.library, left, tree.wrappers)
    for path, value in left.items():
        parts = path.split("/")
        if is_optimizer_variable(parts, tree.library):
            continue
        found = leaf(parts, tree.library)
        if found is None:
            raise _unknown(tree, path)
        if found.role == "unchanged":
            continue
        layer = tree.layers.setdefault(found.layer, Layer(found.layer, groups=tree.groups.get(found.layer)))
        layer.leaves[found.role] = value
        if path in tree.positions:
            layer.positions[found.role] = tree.positions[path]
        kinds = set(found.kinds)
        if found.role in ("weight", "direction") and len(kinds) > 1:  # Haiku's scales have the dimensions of images
            kinds &= set(KINDS_OF_RANK.get(len(value.shape), CONVOLUTIONS))
        layer.kinds &= kinds & {tree.kinds.get(found.layer, kind) for kind in kinds}
    for name, norm in tree.norms.items() if tree.state is not None else ():
        layer = tree.layers.setdefault(name, Layer(name))
        layer.leaves["mean"], layer.leaves["var"] = _modules.statistics(norm, tree.state)
    for layer in tree.layers.values():
        _weight_norm.fuse(tree.argument, layer.name, layer.leaves)


def _unknown(tree: Tree, path: str) -> Exception:
    if tree.argument == "tree":
        mend = f"Leave it out: ignore=[{path!r}]; or fill a leaf of like as it is: copy={{{path!r}: 'leaf of like'}}."
        if tree.library == "onnx" and not tree.graph:
            mend = f"Give the whole onnx.ModelProto, whose nodes say what it is. {mend}"
    else:
        mend = f"Fill it with a leaf of tree as it is: copy={{'leaf of tree': {path!r}}}."
    known = [name for name, (role, _) in LEAVES[tree.library].items() if role in ROLES]
    return refusal(
        ValueError,
        tree.argument,
        f"{{{path!r}: ...}}",
        f"not a leaf of {tree.library}'s convolutions, dense layers, norms, embeddings and PReLUs",
        f"expected a layer's {either(map(repr, known))}",
        mend,
    )


def filled(tree: Tree, values: dict[str, dict[str, Any]], copies: dict[str, Any]) -> Any:
    """`tree` with `values` (by layer and role) and `copies` (by path), in the types of its own leaves."""
    leaves, state = (
        list(tree.values),
        jax.tree.map(lambda leaf: leaf, tree.state),
    )  # Equinox's state can be used once only
    for name, layer in tree.layers.items():
        settled = {"count": _modules.SETTLED, "count of var": _modules.SETTLED, **values[name]}
        for role, position in layer.positions.items():
            leaves[position] = _in_type_of(settled[role.removeprefix("settled ")], leaves[position])
    for path, value in copies.items():
        leaves[tree.positions[path]] = _in_type_of(value, tree.leaves[path])
    for name, norm in tree.norms.items() if state is not None else ():
        mean, var = (_in_type_of(values[name][role], tree.layers[name].leaves[role]) for role in ("mean", "var"))
        state = _modules.with_statistics(norm, state, mean, var)
    model = jax.tree.unflatten(tree.structure, leaves)
    return model if state is None else (model, state)


def _in_type_of(value: Any, leaf: Any) -> Any:
    if hasattr(leaf, "new_tensor"):  # PyTorch's
        return leaf.new_tensor(np.array(value, np.float32 if value.dtype == jnp.bfloat16 else None, order="C"))
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return jnp.asarray(value, leaf.dtype)
    return np.array(value, np.asarray(leaf).dtype, order="C")
