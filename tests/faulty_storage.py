"""A storage that fails, lies or lets others go first, at an operation that the test chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recsys_spark.storage import LocalStorage

OPERATIONS = (
    *("find", "read_head", "read_text", "read_bytes", "replace_bytes", "write_text", "create_if_absent", "list_names"),
    *("exists", "remove"),
)


class StorageFault(OSError):
    """What a faulty storage raises."""


class WatchedStorage(LocalStorage):
    """Counts operations, and calls ``before`` and ``after`` with the number of each, its name and its arguments."""

    def __init__(
        self,
        before: Callable[[int, str, tuple[Any, ...]], None] = lambda n, name, arguments: None,
        after: Callable[[int, str, tuple[Any, ...]], None] = lambda n, name, arguments: None,
    ) -> None:
        self.n_operations = 0
        self._before, self._after = before, after

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name not in OPERATIONS:
            return found

        def watched(*arguments: Any) -> Any:
            self.n_operations += 1
            n = self.n_operations
            self._before(n, name, arguments)
            result = found(*arguments)
            self._after(n, name, arguments)
            return result

        return watched


def fails_at(number: int, *, after: bool = False) -> WatchedStorage:
    """Return a storage whose n-th operation raises; with ``after``, once it has done its work."""

    def fail(n: int, name: str, arguments: tuple[Any, ...]) -> None:
        if n == number:
            raise StorageFault(f"operation {n}, {name}, failed on purpose")

    return WatchedStorage(after=fail) if after else WatchedStorage(before=fail)
