"""The one form of every refusal: the argument, the value received, what was expected, how to mend it."""


def refusal(
    kind: type[Exception], argument: str, received: object, problem: str, expected: str, mend: str
) -> Exception:
    """Builds (does not raise) the error, so that the caller's `raise` is what a reader sees.

    >>> str(refusal(ValueError, "padding", "'FOO'", "unknown", "expected 'SAME' or 'VALID'", "Use 'SAME'."))
    "padding='FOO': unknown; expected 'SAME' or 'VALID'. Use 'SAME'."
    """
    return kind(f"{argument}={received}: {problem}; {expected}. {mend}")
