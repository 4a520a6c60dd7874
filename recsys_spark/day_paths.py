"""Paths with a day in them: ``log/{date}.csv``, ``log/{date:%Y/%m/%d}/``."""

from __future__ import annotations

import re
from datetime import date

_DAY = re.compile(r"\{date(?::([^{}]*))?\}")
_WHOLE_DAYS = ("%Y%m%d", "%Y%j")


def has_day(path: str) -> bool:
    """Return whether a path has a place for a day."""
    return _DAY.search(path) is not None


def path_of_day(path: str, day: date) -> str:
    """Return the path for one day; ``{date}`` alone is written ``YYYY-MM-DD``."""
    return _DAY.sub(lambda found: day.strftime(found.group(1)) if found.group(1) else day.isoformat(), path)


def describe_fault(path: str) -> str | None:
    """Return what is wrong with the days in a path, or None; two days must never share a path."""
    codes = {code for found in _DAY.finditer(path) for code in re.findall(r"%.", found.group(1) or "%Y%m%d")}
    if not has_day(path) or any(set(re.findall("%.", whole)) <= codes for whole in _WHOLE_DAYS):
        return None
    return f"{path}: the date needs year, month and day, such as {{date}} or {{date:%Y/%m/%d}}"
