"""A folder of numbered JSON files, each made once by create-if-absent: versions, and who was first."""

from __future__ import annotations

import json
import re
from typing import Any

from recsys_spark.storage.base import Storage, join, read_json

_ENTRY = re.compile(r"^(\d{8})\.json$")


class NumberedLog:
    """Entries 1, 2, 3, ..., never changed; of two writers that want the same number, one gets it.

    Parameters
    ----------
    storage : Storage
    folder : str
        Files with other names in it are ignored.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self.folder = folder

    def path(self, number: int) -> str:
        """Return where an entry lies."""
        return join(self.folder, f"{number:08d}.json")

    def numbers(self) -> list[int]:
        """Return the numbers of all entries, ascending."""
        # A listing may name a file twice on some object stores.
        return sorted(
            {int(found.group(1)) for found in map(_ENTRY.match, self._storage.list_names(self.folder)) if found}
        )

    def read(self, number: int) -> dict[str, Any]:
        """Return an entry.

        Raises
        ------
        RecsysError
            If it is damaged.
        """
        content: dict[str, Any] = read_json(self._storage, self.path(number))
        return content

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the highest number and its entry; None where there is no entry."""
        numbers = self.numbers()
        return (numbers[-1], self.read(numbers[-1])) if numbers else None

    def append(self, number: int, content: dict[str, Any]) -> bool:
        """Make an entry; return False, changing nothing, where another writer has taken the number.

        A write that lands and is reported as failed, or as one that found the name taken, counts as made, as where a
        request is sent again over a network that breaks: two writers never write the same content.
        """
        path, text = self.path(number), json.dumps(content, indent=1, ensure_ascii=False)
        try:
            return self._storage.create_if_absent(path, text) or self._holds(path, text)
        except Exception:
            if self._holds(path, text):
                return True
            raise

    def _holds(self, path: str, text: str) -> bool:
        try:
            return self._storage.exists(path) and self._storage.read_text(path) == text
        except Exception:
            # Then nobody can tell; the error that came first is the one to report.
            return False
