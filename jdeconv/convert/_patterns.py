"""The arguments `transposed`, `ignore` and `copy`: names and patterns, each of which must match something."""

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .._arguments import described, shown
from .._call.arrays import any_array
from .._errors import either, refusal
from ._leaves import CONVOLUTIONS, joined, without_prefix
from ._trees import Tree

Copy = Mapping[str, str] | Collection[str]
MOST_NAMES = 8  # that an error lists


def check_transposed(tree: Tree, transposed: bool | Collection[str] | None) -> None:
    if transposed is None or isinstance(transposed, bool):
        return
    patterns = _checked(
        "transposed", transposed, transposed, "neither a bool nor patterns", "True, False, None, or a list of strings"
    )
    convolutions = [layer.name for layer in tree.layers.values() if layer.kinds & set(CONVOLUTIONS)]
    for pattern in patterns:
        if not _matching(pattern, convolutions):
            raise refusal(
                ValueError,
                "transposed",
                shown(transposed),
                f"{pattern!r} matches no convolution of tree",
                f"expected patterns of {_listed(convolutions, 'convolutions')}",
                "Names are paths joined by '/'.",
            )


def ignored_paths(tree: Tree, ignore: Collection[str]) -> set[str]:
    """The paths of the leaves that are ignored."""
    patterns = _checked("ignore", ignore, ignore, "not a list of patterns", "a list of strings")
    return {path for pattern in patterns for path in _matching_paths("ignore", ignore, pattern, tree.leaves)}


def copy_pairs(tree: Tree, like: Tree, copy: Copy, ignored: Collection[str]) -> dict[str, str]:
    """For each leaf of `like` that is copied, the leaf of `tree`; both are paths."""
    left = [path for path in tree.leaves if path not in ignored]
    pairs: list[tuple[str, str]] = []
    if isinstance(copy, Mapping):
        _checked("copy", copy, [*copy, *copy.values()], "neither names nor patterns", "a mapping of strings, or a list")
        pairs = [(joined(name), joined(target)) for name, target in copy.items()]
    else:
        targets = {short: path for path, short in without_prefix(like.leaves).items()}
        short = without_prefix(left)
        for pattern in _checked("copy", copy, copy, "neither names nor patterns", "a mapping of strings, or a list"):
            pairs += [
                (path, path if path in like.leaves else targets.get(short[path], short[path]))
                for path in _matching_paths("copy", copy, pattern, left)
            ]
    found: dict[str, str] = {}
    for name, target in pairs:
        for argument, path, among in (("tree", name, left), ("like", target, like.leaves)):
            if path not in among:
                raise refusal(
                    ValueError,
                    "copy",
                    shown({name: target}),
                    f"{argument} has no leaf {path!r}",
                    f"expected {_listed(among, 'leaves')}",
                    "Use {'leaf of tree': 'leaf of like'}, paths joined by '/'.",
                )
        if found.setdefault(target, name) != name:
            raise refusal(
                ValueError,
                "copy",
                shown({name: target}),
                f"leaf {found[target]!r} goes there too",
                "expected one for each",
                "Name another.",
            )
    return found


def copied_values(tree: Tree, like: Tree, pairs: dict[str, str]) -> dict[str, Any]:
    """The copied values, by their paths in `like`."""
    values = {}
    for target, name in pairs.items():
        values[target] = any_array("tree", tree.leaves[name])
        wanted = tuple(like.leaves[target].shape)
        if values[target].shape != wanted:
            raise refusal(
                ValueError,
                "copy",
                shown({name: target}),
                f"{described(values[target])} doesn't fit like's {list(wanted)}",
                "expected equal shapes",
                "Convert this leaf yourself, and give the result in tree.",
            )
    return values


def _checked(argument: str, received: Any, patterns: Any, problem: str, expected: str) -> list[str]:
    good = isinstance(patterns, Collection) and not isinstance(patterns, (str, bytes, Mapping))
    if not good or not all(isinstance(pattern, str) for pattern in patterns):
        raise refusal(
            TypeError, argument, described(received), problem, f"expected {expected}", "Use a list, of one pattern too."
        )
    return list(patterns)


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _matching_paths(argument: str, received: Any, pattern: str, paths: Collection[str]) -> list[str]:
    if found := _matching(pattern, paths):
        return found
    raise refusal(
        ValueError,
        argument,
        shown(received),
        f"{pattern!r} matches no leaf of tree",
        f"expected patterns of {_listed(paths, 'leaves')}",
        "Names are paths joined by '/', such as 'layer/weight'; 'layer/*' matches a layer's leaves.",
    )


def _listed(names: Collection[str], none: str) -> str:
    """The first names, as an error lists them; `none` if there are none."""
    first = [repr(name) for name in names][:MOST_NAMES]
    if not first:
        return none
    return either(first) if len(first) == len(names) else f"{', '.join(first)} or {len(names) - len(first)} others"
