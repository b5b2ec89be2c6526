"""The one form of every refusal: the argument, the value received, what was expected, how to mend it."""

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


def unable(method: str, reason: str, mend: str = "Use method='auto'.") -> Exception:
    """A method that can't do this case, for a reason as `supports` gives it: what is wrong; what was expected."""
    problem, _, expected = reason.partition("; ")
    return refusal(NotImplementedError, "method", repr(method), problem, expected, mend)


def blames_caller(function: Function) -> Function:
    """What users call, or JAX for them: a refusal's traceback ends in their line, and shows no frame of this package.

    As JAX does with its own frames, and unless `jax_traceback_filtering` is 'off'. Other errors keep all frames: they
    are faults, of the package, of JAX or of a function that the user gave, and the frames say whose.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            traceback = error.__traceback__
            # Without a second frame the function was never entered: arguments that its signature doesn't have.
            refused = _REFUSED in vars(error) or traceback is None or traceback.tb_next is None
            if refused and _filtering():
                error.with_traceback(_foreign(traceback))
            del traceback  # whose frames hold this one, and so all arguments
            raise

    return cast(Function, call)


def _filtering() -> bool:
    jax = sys.modules.get("jax")  # this module is loaded without it, too
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
