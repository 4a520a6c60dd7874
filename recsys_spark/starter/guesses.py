"""A sample of a log -> which column holds what, and what its ratings are; each guess with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recsys_spark.errors import ConfigError
from recsys_spark.starter.column_names import is_id_name, role_of_name
from recsys_spark.starter.event_times import TimeFormat, find_time_format
from recsys_spark.starter.sample import Sample, SampleColumn, is_number

Kind = Literal["ratings", "labels", "counts", "events"]

_SHARE_OF_NUMBERS = 0.9
# Scales that people are asked to rate on.
_SCALES = ((1, 5), (0.5, 5), (0, 5), (1, 10), (0.5, 10), (0, 10), (-10, 10), (1, 100), (0, 100))
_MOST_STEPS = 21
_MANY_ZEROS = 0.3


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the ratings are: ``kind`` and why, their range on a scale, and whether some are below 0."""

    kind: Kind
    why: str
    scale: tuple[float, float] | None = None
    has_negatives: bool = False
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Guesses:
    """Columns by role (None: there is none) with a reason for each, the format of times, and what the ratings are."""

    columns: dict[str, tuple[str | int | None, str]]
    times: TimeFormat | None
    feedback: Feedback
    faulty_share: float


def guess(sample: Sample) -> Guesses:
    """Guess what the columns of a sample hold.

    Raises
    ------
    ConfigError
        If there are no two columns left for users and items.
    """
    taken: dict[str, tuple[SampleColumn, str]] = {}
    times = _take_time(sample, taken)
    _take_ids(sample, taken)
    _take_rating(sample, taken)
    rating = taken.get("rating")
    columns: dict[str, tuple[str | int | None, str]] = {role: (c.name, why) for role, (c, why) in taken.items()}
    columns.setdefault("rating", (None, "no column of numbers is left that could be a rating"))
    columns.setdefault("timestamp", (None, "no column has times that are understood"))
    feedback = _feedback(rating[0]) if rating else _events()
    return Guesses(columns, times, feedback, _faulty_share(sample, taken))


def _free(sample: Sample, taken: dict[str, tuple[SampleColumn, str]]) -> list[SampleColumn]:
    used = {column.name for column, _ in taken.values()}
    return [column for column in sample.columns if column.name not in used]


def _named(columns: Sequence[SampleColumn], role: str) -> list[SampleColumn]:
    """Return the columns whose names tell a role: those called ids first, then as they stand in the file."""
    found = [c for c in columns if isinstance(c.name, str) and role_of_name(c.name) == role]
    return sorted(found, key=lambda column: not is_id_name(str(column.name)))


def _take_time(sample: Sample, taken: dict[str, tuple[SampleColumn, str]]) -> TimeFormat | None:
    named = _named(sample.columns, "timestamp")
    for column in [*named, *(c for c in sample.columns if c not in named and _could_be_a_time(c))]:
        if column.is_time:
            taken["timestamp"] = (column, "the file types it as a time")
            return None
        found = find_time_format(column.filled, is_named_so=column in named)
        if found is not None:
            taken["timestamp"] = (column, "by its name and content" if column in named else "by its content")
            return found
    return None


def _could_be_a_time(column: SampleColumn) -> bool:
    return column.is_time or not isinstance(column.name, str) or role_of_name(column.name) is None


def _take_ids(sample: Sample, taken: dict[str, tuple[SampleColumn, str]]) -> None:
    for role in ("user", "item"):
        named = _named(_free(sample, taken), role)
        if named:
            others = ", ".join(str(column.name) for column in named[1:])
            taken[role] = (named[0], "by its name" + (f"; {others} could be it too" if others else ""))
    for role in ("user", "item"):
        left = [c for c in _free(sample, taken) if c.filled and not _is_of_other_use(c)]
        if role not in taken:
            if not left:
                raise ConfigError(
                    f"no column is left that could hold the {role}s' ids",
                    where=sample.file,
                    got=", ".join(str(column.name) for column in sample.columns),
                    remedy="write the configuration by hand, from conf/goodbooks.yaml",
                )
            place = "first" if role == "user" else "next"
            taken[role] = (left[0], f"no column is called so: the {place} one that is free, CHECK THIS")


def _is_of_other_use(column: SampleColumn) -> bool:
    if not isinstance(column.name, str):
        return False
    return role_of_name(column.name) in ("rating", "timestamp")


def _take_rating(sample: Sample, taken: dict[str, tuple[SampleColumn, str]]) -> None:
    free = _free(sample, taken)
    named = [column for column in _named(free, "rating") if _is_numeric(column)]
    if named:
        taken["rating"] = (named[0], "by its name, and it holds numbers")
        return
    # Of columns whose names say nothing, only those of a file without names: a price is a number too.
    unnamed = [column for column in free if isinstance(column.name, int) and _is_numeric(column)]
    if unnamed:
        fewest = min(unnamed, key=lambda column: len(set(column.filled)))
        taken["rating"] = (fewest, f"numbers, with {len(set(fewest.filled)):,} different values, CHECK THIS")


def _is_numeric(column: SampleColumn) -> bool:
    filled = column.filled
    return bool(filled) and sum(map(is_number, filled)) >= _SHARE_OF_NUMBERS * len(filled)


def _events() -> Feedback:
    return Feedback("events", "there is no rating: every row says that a user has met an item")


def _feedback(column: SampleColumn) -> Feedback:
    values = [float(text) for text in column.filled if is_number(text)]
    counts, lowest, highest = Counter(values), min(values), max(values)
    seen = f"{len(counts):,} different values from {lowest:g} to {highest:g}"
    if set(counts) == {0.0, 1.0}:
        return Feedback("labels", "only 0 and 1")
    if len(counts) == 1:
        return Feedback("counts", f"only {lowest:g}: every row counts alike")
    is_whole = all(value == int(value) for value in counts)
    scale = next((scale for scale in _SCALES if scale[0] <= lowest and highest <= scale[1]), None)
    is_counted = is_whole and _is_count_name(column)
    if scale is not None and not is_counted and (len(counts) <= _MOST_STEPS or (not is_whole and highest <= 10)):
        share = counts[0.0] / len(values)
        warning = (
            f"{share:.0%} are 0, which often means that no rating was given: CHECK THIS"
            if scale[0] == 0 and share > _MANY_ZEROS
            else ""
        )
        return Feedback("ratings", f"{seen}: a scale", scale, lowest < 0, warning)
    return Feedback("counts", f"{seen}: no scale, but how often or how much", None, lowest < 0)


def _is_count_name(column: SampleColumn) -> bool:
    text = str(column.name).lower()
    words = ("quantity", "qty", "count", "plays", "listens", "clicks", "views", "purchases", "watches", "weight")
    return any(word in text for word in words)


def _faulty_share(sample: Sample, taken: dict[str, tuple[SampleColumn, str]]) -> float:
    """Return the share of rows that ingest would set aside: broken ones, and those without a user, item or rating."""
    needed = [column.cells for column, _ in taken.values()]
    blank = sum(any(cell is None or not cell.strip() for cell in row) for row in zip(*needed, strict=True))
    return (sample.n_broken + blank) / sample.n_rows if sample.n_rows else 0.0
