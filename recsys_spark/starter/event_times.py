"""Which ``input.timestamp_format`` reads the texts of a column."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product

_SHARE_READ = 0.95
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:\d{2})?)?")
# 1973 to 2100, so that small numbers, which are ids or ratings, are no times.
_FIRST, _LAST = 1e8, 4.1e9
_DATES = (
    ("%Y/%m/%d", "yyyy/M/d"),
    ("%d.%m.%Y", "d.M.yyyy"),
    ("%m/%d/%Y", "M/d/yyyy"),
    ("%d/%m/%Y", "d/M/yyyy"),
    ("%m-%d-%Y", "M-d-yyyy"),
    ("%d-%m-%Y", "d-M-yyyy"),
    ("%m %d, %Y", "M d, yyyy"),
    ("%d %b %Y", "d MMM yyyy"),
    ("%b %d, %Y", "MMM d, yyyy"),
)
_TIMES = (("", ""), (" %H:%M:%S", " H:mm:ss"), (" %H:%M", " H:mm"), (" %I:%M:%S %p", " h:mm:ss a"))
_PATTERNS = [(date + time, of_date + of_time) for (date, of_date), (time, of_time) in product(_DATES, _TIMES)]
_SWAPPED = {"M/d/yyyy": "d/M/yyyy", "M-d-yyyy": "d-M-yyyy"}


@dataclass(frozen=True, slots=True)
class TimeFormat:
    """A value of ``input.timestamp_format``, and why."""

    format: str
    why: str


def find_time_format(texts: Sequence[str], *, is_named_so: bool) -> TimeFormat | None:
    """Return the format that reads nearly all texts, or None where they are no times that the pipeline reads.

    Parameters
    ----------
    texts : sequence of str
        Not blank.
    is_named_so : bool
        Whether the column is called a time: digits such as 20101201 are dates only then.
    """
    if not texts:
        return None
    numbers = _numbers(texts)
    if numbers is not None:
        return _format_of_numbers(numbers, texts, is_named_so=is_named_so)
    if _share(texts, lambda text: _ISO.fullmatch(text) is not None) >= _SHARE_READ:
        return TimeFormat("iso", f"such as {texts[0]}")
    for directive, pattern in _PATTERNS:
        if _reads(directive, texts[0]) and _share(texts, partial(_reads, directive)) >= _SHARE_READ:
            return TimeFormat(pattern, f"such as {texts[0]}" + _doubt(pattern, directive, texts))
    return None


def _numbers(texts: Sequence[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _format_of_numbers(numbers: list[float], texts: Sequence[str], *, is_named_so: bool) -> TimeFormat | None:
    for unit, name, words in ((1, "unix_seconds", "seconds"), (1000, "unix_millis", "milliseconds")):
        inside = sum(_FIRST * unit <= number <= _LAST * unit for number in numbers)
        if inside >= _SHARE_READ * len(numbers):
            days = [f"{datetime.fromtimestamp(n / unit, UTC):%Y-%m-%d}" for n in (min(numbers), max(numbers))]
            if min(numbers) < _FIRST * unit:
                days[0] = "1970"
            return TimeFormat(name, f"{words} since 1970: {days[0]} to {days[1]}")
    if is_named_so and _share(texts, lambda text: len(text) == 8 and _reads("%Y%m%d", text)) >= _SHARE_READ:
        return TimeFormat("yyyyMMdd", f"such as {texts[0]}")
    return None


def _doubt(pattern: str, directive: str, texts: Sequence[str]) -> str:
    """Say where the day could as well be the month."""
    date = pattern.split(" ")[0]
    if date not in _SWAPPED:
        return ""
    swapped = directive.replace("%m", "%M_").replace("%d", "%m").replace("%M_", "%d")
    if all(_reads(swapped, text) for text in texts):
        return f"; no day is above 12, so it could be {pattern.replace(date, _SWAPPED[date])} as well: CHECK THIS"
    return ""


def _reads(directive: str, text: str) -> bool:
    try:
        return datetime.strptime(text, directive).year >= 1970
    except ValueError:
        return False


def _share(texts: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, texts)) / len(texts)
