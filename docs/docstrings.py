"""The docstrings' `Example:` as a section of code, and a result told in one line as a section, for the reference."""

import re
from typing import Any

import griffe


class Sections(griffe.Extension):
    """What griffe's parser of Google's style wants spelt differently; a type that tells nothing is left out."""

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
