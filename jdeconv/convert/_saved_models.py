"""The variables of a loaded TensorFlow SavedModel, or of a `tf.Module`, by names that tell them apart."""

import re
import sys
from collections import Counter
from typing import Any

_COPIES = ("signatures", "_all_variables")  # they list variables that have a place of their own


def is_saved_model(tree: Any) -> bool:
    """Whether it is what `tf.saved_model.load` returns, or a `tf.Module`."""
    tensorflow = sys.modules.get("tensorflow")  # loaded, if there is such an object
    trackable = getattr(getattr(tensorflow, "Module", None), "__mro__", (None, None))[1]  # the base class of both
    if trackable is None or isinstance(tree, (dict, list, tuple)):
        return False
    return isinstance(tree, trackable) and not hasattr(tree, "weights")  # as Keras's own models and layers have


def variables(model: Any) -> dict[str, Any]:
    """Each variable by its name, if that is a path and unique, otherwise by the attributes that lead to it."""
    tensorflow = sys.modules["tensorflow"]
    children = tensorflow.train.TrackableView.children
    found: dict[int, tuple[str, Any]] = {}
    seen, waiting = {id(model)}, [("", model)]
    while waiting:  # breadth first, for the shortest paths
        path, node = waiting.pop(0)
        for name, child in children(node).items():
            if id(child) in seen or name in _COPIES or isinstance(child, tensorflow.types.experimental.Callable):
                continue
            seen.add(id(child))
            inner = f"{path}/{name}" if path else name
            if isinstance(child, tensorflow.Variable):
                found[id(child)] = inner, child
            else:
                waiting.append((inner, child))
    names = {key: re.sub(r":\d+$", "", variable.name) for key, (_, variable) in found.items()}
    often = Counter(names.values())
    by_name = {
        names[key] if "/" in names[key] and often[names[key]] == 1 else path: variable
        for key, (path, variable) in found.items()
    }
    return by_name if len(by_name) == len(found) else dict(found.values())
