"""Tunings in use: in a thread's `with` blocks, or in the whole process."""

import os
import threading
from types import TracebackType
from typing import Any

from . import _settings
from ._arguments import shown
from ._errors import blames_caller, refusal
from ._plan import tuning_file
from ._plan.tuning import Measurements


class Tuning(Measurements):
    """What `autotune` measured: for each operation on a kind of device, the candidates' times and the best of them.

    In a `with` statement it goes before the planner's tables, in this thread, until the block ends; `use_tuning` puts
    it in use everywhere. Blocks nest, and the innermost tuning that has an operation decides. What a thread's blocks
    lack is looked up in the process's tunings, then in the tables. The tuning is part of the key of `jax.jit`'s cache:
    a function that was called before is compiled once more inside, and after the block its first program is back. A
    block belongs to the thread that entered it, as those of `patch` do.

    An entry is looked up by the kind of device (of a CPU: its model, instruction sets and threads), jaxlib's version,
    the operation's sizes, dtypes and precision. Entries of other devices or versions are kept and not used, which a
    `UserWarning` says once. An entry whose choice is not possible any more is ignored: the method is gone or refuses
    the case, or oneDNN is not there. Then the tables decide. Programs that are exported, and parts of those that XLA
    partitions, use the entries that XLA compiles alone.

    `a | b` has the entries of both; where both have one, that of `b`. Two tunings are equal if they choose alike.

    Attributes:
      entries: a tuple with one value for each operation: its `device`, `jaxlib`, `operation`, `default` (the table's
        choice), `best` and `timings`, whose `ms` are milliseconds.
      left_out: operators that were found and not timed, each with the reason, as strings.
      gain: the sum of the defaults' times over the sum of the best ones' times, each distinct operation counted once
        however often a program runs it. 1.0 if nothing was timed.

    `print(tuning)` shows a table: each operation with the default's and the best one's time, the gain, and all
    candidates with their times.

    Example:
      >>> import jax, jdeconv
      >>> x, w = jax.ShapeDtypeStruct((1, 4, 4, 2), "float32"), jax.ShapeDtypeStruct((2, 2, 3, 2), "float32")
      >>> up = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2))
      >>> tuning = jdeconv.autotune(up, x, w, progress=False)
      >>> len(tuning), tuning.entries[0].operation.problem.result
      (1, 'output')
      >>> with tuning:
      ...     y = up(jax.numpy.ones(x.shape), jax.numpy.ones(w.shape))
      >>> (tuning | tuning) == tuning
      True
    """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file of JSON, which `load` reads.

        The file is written beside `path` and then renamed, so that of several writers the last one wins, and a reader
        finds a whole file at any time.

        Args:
          path: of the file, which is replaced if it is there.

        Raises:
          TypeError: `path` is none.
          OSError: the file can't be written.
        """
        tuning_file.write(self, _path("path", path))

    @classmethod
    @blames_caller
    def load(cls, path: str | os.PathLike[str]) -> "Tuning":
        """The tuning in a file that `save` wrote.

        Args:
          path: of the file.

        Raises:
          TypeError: `path` is none.
          ValueError: the file is broken, of another version, or holds anything else; the error says what.
          OSError: the file can't be read.
        """
        read = tuning_file.read(_path("path", path))
        return cls(read.entries, read.left_out)

    def __or__(self, other: "Tuning") -> "Tuning":
        if not isinstance(other, Tuning):
            return NotImplemented
        return Tuning((*self.entries, *other.entries), (*self.left_out, *other.left_out))

    def __repr__(self) -> str:
        return f"<Tuning of {len(self)} operations>"

    def __enter__(self) -> "Tuning":
        _here.set([*_here.blocks, self])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        left = _here.blocks.copy()
        for place in reversed(range(len(left))):  # a generator may leave its blocks in another order
            if left[place] is self:
                del left[place]
                break
        _here.set(left)


class _Here(threading.local):
    """The blocks that this thread is in; JAX's setting holds them while there are any."""

    on: Any = None

    def __init__(self) -> None:
        self.blocks: list[Tuning] = []

    def set(self, blocks: list[Tuning]) -> None:
        if self.on is not None:
            self.on.__exit__(None, None, None)
            self.on = None
        self.blocks = blocks
        if blocks:
            self.on = _settings.tunings(tuple(reversed(blocks)))
            self.on.__enter__()


_here = _Here()


@blames_caller
def use_tuning(tuning: Any) -> "TuningInUse":
    """Puts a tuning in use in every thread, from the next call on.

    The last one goes before those that are in use already, and the blocks of `with tuning:` go before all of them. The
    tuning in the file that the environment variable `JDECONV_TUNING` names is in use from the start; that file is read
    when the first program is compiled.

    A tuning is part of the key of `jax.jit`'s cache: functions that were called before are compiled once more.

    Args:
      tuning: a `Tuning`, or the path of a file that one was saved to. None puts all out of use, `JDECONV_TUNING` too.

    Returns: a `TuningInUse`, whose `restore()` undoes this call.

    Raises:
      TypeError: `tuning` is anything else.
      ValueError: the file is broken, of another version, or holds anything else; the error says what.
      OSError: the file can't be read.

    Example:
      >>> used = use_tuning(None)
      >>> used.restore()

    Semantics: jdeconv's own.
    """
    if tuning is not None and not isinstance(tuning, Tuning):
        tuning = Tuning.load(_path("tuning", tuning, "a Tuning, a path or None"))
    return TuningInUse(tuning)


class TuningInUse:
    """One call of `use_tuning`: in effect until it is restored."""

    def __init__(self, tuning: Tuning | None) -> None:
        self.tuning = tuning
        """The tuning; None where the call put all out of use."""
        _everywhere.add(self)

    def restore(self) -> None:
        """Undoes the call; does nothing if that was done before."""
        _everywhere.remove(self)


class _Everywhere:
    """The calls of `use_tuning` that hold, in their order, after the tuning that the environment names."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[TuningInUse] = []
        self._first = _settings.process_tunings.value

    def add(self, call: TuningInUse) -> None:
        with self._lock:
            self._calls.append(call)
            self._set()

    def remove(self, call: TuningInUse) -> None:
        with self._lock:
            if call in self._calls:
                self._calls.remove(call)
                self._set()

    def _set(self) -> None:
        found: tuple[Any, ...] = self._first
        for call in self._calls:
            found = () if call.tuning is None else (call.tuning, *found)
        _settings.process_tunings.set_global(found)


_everywhere = _Everywhere()


def _path(name: str, value: Any, expected: str = "the path of a file") -> str:
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str):
        mend = "Give its name as a string, or a pathlib.Path."
        raise refusal(TypeError, name, shown(value), "no path", f"expected {expected}", mend)
    return path
