"""A warning, once in a process, where only an untested version of jaxlib keeps convolutions from oneDNN."""

import os
import sys
import threading
import warnings

import jax
from jaxlib import version

from .._errors import HERE
from . import evidence, onednn

LIBRARIES = (HERE, os.path.dirname(os.path.abspath(jax.__file__)) + os.sep)

_lock = threading.Lock()
_warned = False


def untested() -> bool:
    """Whether oneDNN would be called on a tested version of jaxlib, and nobody has been told."""
    if _warned:
        return False
    try:
        proven = evidence.proven()
    except Exception:  # `unavailable` says that the table can't be read
        return False
    if any(jaxlib == version.__version__ for jaxlib, _, _ in proven) or onednn.kept_off():
        return False
    return any((isa, dtype) == (evidence.instruction_set("float32"), "float32") for _, isa, dtype in proven)


def warn() -> None:
    """Warns at the caller's line, the first that is in neither JAX nor jdeconv.

    Where warnings are errors it raises, at each program until it is silenced: one that is caught by chance is not all.
    """
    global _warned
    with _lock:
        if _warned:
            return
        _warned = True  # before the warning is shown, which may run other programs
    try:
        warnings.warn(
            f"jdeconv doesn't call oneDNN on jaxlib {version.__version__}, with which it isn't tested: convolutions on "
            f"CPU are 1.1 to 4 times slower; their numbers are right. Tested: {', '.join(evidence.versions())}. "
            "Install one of these, or a jdeconv that knows this one. "
            "jdeconv.use_onednn(False) or JDECONV_ONEDNN=0 silences this.",
            stacklevel=_caller(),
        )
    except Warning:
        _warned = False
        raise


def _caller() -> int:
    """How many frames up from `warn` the first one outside JAX and jdeconv is, as `stacklevel` counts them."""
    level, frame = 1, sys._getframe(1)
    while frame.f_code.co_filename.startswith(LIBRARIES) and frame.f_back:
        level, frame = level + 1, frame.f_back
    return level
