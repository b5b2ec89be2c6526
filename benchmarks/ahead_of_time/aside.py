"""A call in a process of its own, which may abort or take too long without ending this one."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Stopped(Exception):
    """Why there is no answer."""


def _serve(connection: Connection) -> None:
    while True:
        function, arguments = connection.recv()
        try:
            answer = True, function(*arguments)
        except Exception as error:
            first_line = str(error).partition("\n")[0]
            answer = False, f"raised {type(error).__name__}: {first_line}"  # the error itself may not pickle
        connection.send(answer)


class Aside:
    """Runs functions one by one, in a process that is started anew after one that aborted or was stopped."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns. Raises Stopped where there is no answer, also when the function raises."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")  # a fork of a process with JAX's threads may hang
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        assert self._connection is not None
        start = time.monotonic()
        try:
            self._connection.send((function, arguments))
            if not self._connection.poll(self._seconds):
                self.close()
                raise Stopped(f"stopped after {self._seconds:.0f} s")
            done, answer = self._connection.recv()
        except (EOFError, OSError):
            self.close()
            raise Stopped(f"aborted after {time.monotonic() - start:.0f} s") from None
        if not done:
            raise Stopped(answer)
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
