"""Rewrites docstrings for the reference: `Example:` becomes a section of code, a one-line `Returns:` a section."""

import re
from typing import Any

import griffe


class Sections(griffe.Extension):
    """What griffe's parser of Google style expects in another spelling; the type `Any` is left out."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = re.sub(r"^(Returns|Raises): (?=\S)", r"**\1:** ", text, flags=re.M)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        for parameter in func.parameters:
            if str(parameter.annotation) == "Any":
                parameter.annotation = None
        if str(func.returns) == "Any":
            func.returns = None
