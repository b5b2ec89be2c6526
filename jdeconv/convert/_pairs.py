"""Which layer of `like` takes the values of which layer of `tree`."""

from collections.abc import Callable, Mapping
from types import NoneType

from .._arguments import described, shown
from .._errors import either, refusal
from ._leaves import joined, without_prefix
from ._moves import role_names
from ._trees import Layer, Tree

Names = Mapping[str, str] | Callable[[str], str | None] | None

# PyTorch's exporters to ONNX fold a norm into the convolution before it, which then has a bias.
_KEEP_NORMS = (
    "Export with torch.onnx.export(model, ..., dynamo=False, do_constant_folding=False, "
    "training=torch.onnx.TrainingMode.PRESERVE) to keep norms apart, or leave the norm out of like."
)


def paired(old: Tree, new: Tree, names: Names) -> list[tuple[Layer, Layer]]:
    """Each layer of `old` with the layer of `new` that takes its values."""
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
        names = {joined(name): joined(target) for name, target in names.items()}
        for name in names.keys() - old.layers.keys():
            raise _not_found(old, names, name)
    targets = {short: name for name, short in without_prefix(new.layers).items()}
    pairs: dict[str, str] = {}  # layers of `old` by their targets
    for name, short in without_prefix(old.layers).items():
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
        target = targets.get(short, short) if given is None else joined(given)
        if target not in new.layers:
            raise _not_found(new, {name: target}, target)
        if target in pairs:
            raise refusal(
                ValueError,
                "names",
                shown({name: target}),
                f"layer {pairs[target]!r} goes there too",
                "expected one for each",
                "Name another.",
            )
        pairs[target] = name
    for target in new.layers.keys() - pairs.keys():
        raise refusal(
            ValueError,
            "tree",
            f"layers {either(map(repr, old.layers)) if old.layers else '[]'}",
            f"none is for like's layer {target!r}",
            "expected one for each",
            _KEEP_NORMS
            if old.graph and "norm" in new.layers[target].kinds
            else "Add it to tree, name it in names, or fill its leaves with copy.",
        )
    return [(old.layers[name], new.layers[target]) for target, name in pairs.items()]


def _not_found(tree: Tree, names: Mapping[str, str], missing: str) -> Exception:
    name = next(iter(names))
    return refusal(
        ValueError,
        "names",
        shown(dict(names)),
        f"{tree.argument} has no layer {missing!r}",
        f"expected {either(map(repr, tree.layers)) if tree.layers else 'a tree with layers'}",
        "Say in names which layer of tree is which of like"
        + (f", or leave the layer out: ignore=[{_leaves_of(name)!r}]." if tree.argument == "like" else "."),
    )


def _leaves_of(layer: str) -> str:
    return f"{layer}/*" if layer else "*"


def check_roles(old: Layer, new: Layer, graph: bool) -> None:
    """Refuses layers with different roles: no leaf may keep its initial value, and none may be lost."""
    if old.roles != new.roles:
        folded = graph and "conv" in "".join(old.kinds & new.kinds) and old.roles - new.roles == {"bias"}
        raise refusal(
            ValueError,
            "tree",
            f"layer {old.name!r}",
            f"has {role_names(old.roles)}",
            f"expected {role_names(new.roles)}, as like's {new.name!r}",
            f"If a norm was folded into it: {_KEEP_NORMS[0].lower()}{_KEEP_NORMS[1:]}"
            if folded
            else "Make the models alike (use_bias, affine, state).",
        )
