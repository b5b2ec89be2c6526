"""The one form of every refusal: the argument, the value received, what was expected, how to mend it."""

from collections.abc import Iterable


def refusal(
    kind: type[Exception], argument: str, received: object, problem: str, expected: str, mend: str
) -> Exception:
    """Builds (does not raise) the error, so that the caller's `raise` is what a reader sees.

    >>> str(refusal(ValueError, "padding", "'FOO'", "unknown", "expected 'SAME' or 'VALID'", "Use 'SAME'."))
    "padding='FOO': unknown; expected 'SAME' or 'VALID'. Use 'SAME'."
    """
    return kind(f"{argument}={received}: {problem}; {expected}. {mend}")


def either(choices: Iterable[object]) -> str:
    """Choices as a sentence lists them.

    >>> either([1, 2, 4]), either(["'NWC'", "'NCW'"]), either([5])
    ('1, 2 or 4', "'NWC' or 'NCW'", '5')
    """
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last
