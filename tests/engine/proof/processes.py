"""Starts workers, outlives them, and finds the call that ended one."""

import contextlib
import dataclasses
import json
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from . import environments, guard

START = 120  # seconds until a worker is ready
MOST_BATCHES = 16  # of one worker, whose allocator uses no address twice


class Ended(Exception):
    """A worker ended, or was ended for being silent too long; the message says how."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What workers run in."""

    python: str
    jaxlib: str
    isa: str
    dtype: str
    limit: float = 120
    """Seconds for one program."""
    guarded: bool = True


class Worker:
    def __init__(self, setting: Setting, pool: int) -> None:
        variables = environments.variables(setting.isa, setting.dtype, pool)
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed with the worker
        self.pool, self.batches, self.limit = pool, 0, setting.limit
        self.process = subprocess.Popen(
            [setting.python, "-m", "proof.worker"],
            env=guard.preloaded(variables) if setting.guarded else variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        ready = self._read(START)
        if (ready["jaxlib"], ready["guarded"]) != (setting.jaxlib, setting.guarded):
            raise SystemExit(f"a worker of jaxlib {setting.jaxlib}, guarded {setting.guarded}, says {ready}")

    def _read(self, limit: float) -> dict[str, Any]:
        if not self.selector.select(limit):
            raise Ended(f"silent for {limit:g} s")
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            code = self.process.wait()
            raise Ended(f"{signal.Signals(-code).name if code < 0 else f'exit status {code}'}: {self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        said = [line for line in lines if line.startswith("guard: ")] or lines
        return said[-1][:300] if said else "nothing said"

    def order(self, **order: Any) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(BrokenPipeError):  # of a process that has ended: reading says how
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        while (message := self._read(self.limit))["event"] != "end":
            yield message
        yield message

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.selector.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


class Workers:
    """One worker at a time, a new one where the last has ended, is used up or has another pool of threads."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.worker: Worker | None = None
        self.last: str | None = None  # the program that ran last

    def _of(self, pool: int) -> Worker:
        if self.worker and (self.worker.pool != pool or self.worker.batches >= MOST_BATCHES):
            self.close()
        if not self.worker:
            self.worker = Worker(self.setting, pool)
        self.worker.batches += 1
        return self.worker

    def close(self) -> None:
        if self.worker:
            self.worker.close()
        self.worker = None

    def program(self, text: str) -> list[dict[str, Any]]:
        """The findings of one program, the worker's end among them."""
        try:
            messages = list(self._of(json.loads(text)["pool"]).order(program=text))
        except Ended as end:
            self.close()
            return [dict(what=str(end), program=text)]
        return [message for message in messages if message["event"] == "finding"]

    def batch(self, order: dict[str, Any], ran: Callable[[int], Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Findings and refusals of a batch, which goes on behind a program that ended the worker.

        `ran` is told how many draws each program had.
        """
        findings: list[dict[str, Any]] = []
        skip, current, before = 0, None, self.last
        while True:
            try:
                for message in self._of(order["pool"]).order(**order, skip=skip):
                    if message["event"] == "finding":
                        findings.append(message)
                        continue
                    if current:
                        ran(current["draws"])
                    if message["event"] == "end":
                        return findings, message["refused"]
                    current, self.last = message, message["program"]
            except Ended as end:
                self.close()
                if current:
                    findings += self.culprits(current["program"], str(end))
                    ran(current["draws"])
                    skip, current = current["number"] + 1, None
                elif before:  # what the batch before has left behind
                    findings.append(dict(what=f"after its end: {end}", program=before))
                    before = None
                else:
                    raise SystemExit(f"a worker ended while it drew: {end}") from end

    def culprits(self, text: str, how: str) -> list[dict[str, Any]]:
        """Which calls of a program end a process by themselves; if none does, all together."""
        given, found = json.loads(text), []
        if len(given.get("calls", ())) > 1:
            for call in given["calls"]:
                found += self.program(json.dumps({**given, "calls": [call]}, separators=(",", ":")))
        return found or [dict(what=how, program=text)]
