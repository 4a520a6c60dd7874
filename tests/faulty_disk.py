"""The machine's own file system, whose n-th call fails: create, write, close, sync, link, rename, list and so on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.chaos.faulty_storage import InjectedError

# Where a process asks the system, and what for.
CALLS: dict[str, tuple[Any, str]] = {
    "create": (tempfile, "mkstemp"),
    "sync": (os, "fsync"),
    "permit": (os, "chmod"),
    "link": (os, "link"),
    "make folder": (Path, "mkdir"),
    "rename": (Path, "replace"),
    "unlink": (Path, "unlink"),
    "list": (Path, "iterdir"),
    "read": (Path, "read_text"),
}


class Disk:
    """Counts calls of one process, and lets one fail: before it does its work, or once it is done; writes do half."""

    def __init__(self, due: int | None = None, *, after: bool = False) -> None:
        self.calls: list[str] = []
        self._due, self._after = due, after

    def call(self, name: str, work: Callable[[], Any], instead: Callable[[], Any] = lambda: None) -> Any:
        """Do one call, or fail in it; ``instead`` is what is done of it then."""
        self.calls.append(name)
        if len(self.calls) != self._due:
            return work()
        (work if self._after else instead)()
        raise InjectedError(f"call {self._due}, {name}, failed on purpose")

    @contextmanager
    def instead_of_the_real_one(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name, (owner, attribute) in CALLS.items():
                patch.setattr(owner, attribute, self._watched(name, getattr(owner, attribute)))
            fdopen = os.fdopen
            patch.setattr(os, "fdopen", lambda *arguments: File(self, fdopen(*arguments)))
            yield

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            return self.call(name, lambda: function(*arguments, **named))

        return watched


class File:
    """A file that is written."""

    def __init__(self, disk: Disk, file: Any) -> None:
        self._disk, self._file = disk, file

    def __enter__(self) -> File:
        return self

    def __exit__(self, *error: object) -> None:
        self._disk.call("close", self._file.close, self._file.close)

    def write(self, content: bytes) -> None:
        half = content[: len(content) // 2]
        self._disk.call("write", lambda: self._file.write(content), lambda: self._file.write(half))

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        found: int = self._file.fileno()
        return found
