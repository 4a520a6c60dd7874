"""Versions of an index or of the history that can be read: a damaged one that a newer one stands in for is no fault."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from recsys_spark.errors import DamagedFileError
from recsys_spark.storage.numbered_log import NumberedLog

log = logging.getLogger(__name__)

Entry = dict[str, Any]


def readable_versions(versions: NumberedLog, parts_of: Callable[[Entry], set[str]]) -> Iterator[tuple[int, Entry]]:
    """Yield versions with their numbers, the newest first, and warn of earlier ones that are passed over as damaged.

    Parameters
    ----------
    versions : NumberedLog
    parts_of : callable
        Folders that an entry names: `parts_of_index` or `parts_of_history`.

    Raises
    ------
    DamagedFileError
        If the newest is damaged: nobody knows what it names.
    """
    numbers = versions.numbers()
    for number in reversed(numbers):
        try:
            entry = versions.read(number)
            parts_of(entry)
        except (DamagedFileError, LookupError, TypeError, AttributeError) as error:
            if number == numbers[-1]:
                raise DamagedFileError(
                    "the newest version is damaged; nothing was changed",
                    where=versions.path(number),
                    got=" ".join(line.strip() for line in str(error).splitlines()),
                    remedy="run again first: a run that ingests or numbers ids makes it again where it can, and says "
                    "what to do where it cannot",
                ) from None
            log.warning(f"{versions.path(number)} is damaged, and passed over: a newer version is there")
            continue
        yield number, entry


def parts_of_index(entry: Entry) -> set[str]:
    """Return the folders of parts that a version of an index names."""
    return {part["path"].split("/")[1] for part in entry["parts"]}


def parts_of_history(entry: Entry) -> set[str]:
    """Return the folders of parts that a version of the history names."""
    return {file["path"].split("/")[1] for day in entry["days"].values() for file in day["files"]}
