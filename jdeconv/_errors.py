"""Refusals: errors that name the argument, the value received, what was expected, and how to mend it."""

import functools
import os
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_REFUSED = "refused_by_jdeconv"


def refusal(
    kind: type[Exception], argument: str, received: object, problem: str, expected: str, mend: str
) -> Exception:
    """Builds (does not raise) the error, so that the caller's `raise` is what a reader sees.

    >>> str(refusal(ValueError, "padding", "'FOO'", "unknown", "expected 'SAME' or 'VALID'", "Use 'SAME'."))
    "padding='FOO': unknown; expected 'SAME' or 'VALID'. Use 'SAME'."
    """
    error = kind(f"{argument}={received}: {problem}; {expected}. {mend}")
    vars(error)[_REFUSED] = True
    return error


def unsupported(method: str, reason: str, mend: str = "Use method='auto'.") -> Exception:
    """The error of a method that can't do this case; `reason` is what `supports` returned."""
    problem, _, expected = reason.partition("; ")
    return refusal(NotImplementedError, "method", repr(method), problem, expected, mend)


def blames_caller(function: Function) -> Function:
    """Wraps what users call, or JAX for them: a refusal's traceback ends in the user's line, without our frames.

    JAX does the same with its own frames, and `jax_traceback_filtering='off'` turns off both. Other errors keep all
    frames: they are faults of the package, of JAX or of a function that the user gave, and the frames say whose.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            traceback = error.__traceback__
            # Without a second frame the function was never entered: its signature lacks an argument.
            refused = _REFUSED in vars(error) or traceback is None or traceback.tb_next is None
            if refused and _filtering():
                error.with_traceback(_foreign(traceback))
            del traceback  # its frames hold this frame, and so all arguments
            raise

    return cast(Function, call)


def _filtering() -> bool:
    jax = sys.modules.get("jax")  # this module also loads without it
    return jax is None or jax.config.jax_traceback_filtering != "off"


def _foreign(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without this package's frames."""
    if traceback is None:
        return None
    inner = _foreign(traceback.tb_next)
    if traceback.tb_frame.f_code.co_filename.startswith(HERE):
        return inner
    return TracebackType(inner, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)


def either(choices: Iterable[object]) -> str:
    """Choices as a sentence lists them.

    >>> either([1, 2, 4]), either(["'NWC'", "'NCW'"]), either([5])
    ('1, 2 or 4', "'NWC' or 'NCW'", '5')
    """
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last
