"""The preloaded allocator: builds it, starts processes with it, asks it where an array lies."""

import ctypes
import functools
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).with_name("guard.c")
SIDES = ("end", "start")


def compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@functools.cache
def library() -> pathlib.Path:
    """The shared library, built once for each version of its source."""
    found = compiler()
    if found is None:
        raise SystemExit(
            "no C compiler is here (cc, gcc or clang), and the guard pages need one; Debian: apt install gcc"
        )
    name = f"jdeconv-guard-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}-{os.getuid()}.so"
    path = pathlib.Path(tempfile.gettempdir(), name)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = pathlib.Path(folder, path.name)
            command = [found, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(built), str(SOURCE), "-ldl"]
            subprocess.run(command, check=True)
            built.replace(path)
    return path


def preloaded(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a process whose aligned allocations are guarded."""
    return {**environment, "LD_PRELOAD": str(library())}


class Guard:
    """This process's allocator."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self.present = hasattr(self._library, "guard_size")
        if self.present:
            self._library.guard_size.argtypes = [ctypes.c_void_p]
            self._library.guard_size.restype = ctypes.c_long

    def place(self, side: str) -> None:
        """Arrays from now on end at an untouchable page, or start behind one."""
        if self.present:
            self._library.guard_mode(side == "end")

    def size(self, address: int) -> int:
        """The bytes that were asked for at an address; -1 if that is no guarded allocation."""
        return self._library.guard_size(address)
