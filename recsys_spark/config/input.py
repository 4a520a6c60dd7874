"""The configuration of the log: where it lies, what its columns hold, and which rows are accepted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, model_validator

from recsys_spark.config.section import Section
from recsys_spark.day_paths import describe_fault, has_day

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Column = Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=0)]


class RatingColumns(Section):
    """Which columns of the input hold what; numbers (from 0) where the file has no header."""

    user: Column = "user_id"
    item: Column = "item_id"
    rating: Column | None = Field(default="rating", description="null: every row counts as a rating of 1")
    timestamp: Column | None = Field(default=None, description="event time; null: the log has none")
    weight: Column | None = Field(default=None, description="how much a rating counts, above 0; null: all count 1")


class InputConfig(Section):
    """The raw rating log."""

    path: str | list[str] = Field(
        description="a file, folder or glob, or several; with {date} or {date:%Y/%m/%d}, the files of the run's days"
    )
    empty_days: Literal["stop", "warn"] = Field(
        default="stop", description="what a day without files or rows does, where path has {date}"
    )
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=8)
    header: bool = True
    quote: str = Field(default='"', max_length=1, description="empty: quotes are ordinary characters")
    encoding: Literal["utf-8", "iso-8859-1"] = "utf-8"
    columns: RatingColumns = RatingColumns()
    timestamp_format: str = Field(
        default="unix_seconds",
        min_length=1,
        description="unix_seconds, unix_millis, iso, or a date pattern such as yyyy-MM-dd HH:mm:ss (UTC)",
    )

    @pydantic.field_validator("delimiter")
    @classmethod
    def _read_escape(cls, value: str) -> str:
        if any(character in value for character in "\r\n"):
            raise ValueError("a line end cannot be the delimiter")
        # In single quotes or on a command line, YAML leaves a backslash and a t.
        return value.replace("\\t", "\t")

    @property
    def paths(self) -> list[str]:
        """The input paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)

    @property
    def is_by_day(self) -> bool:
        """Whether files belong to days."""
        return any(map(has_day, self.paths))

    @model_validator(mode="after")
    def _check_days(self) -> InputConfig:
        faults = [fault for fault in map(describe_fault, self.paths) if fault]
        if faults:
            raise ValueError(faults[0])
        if self.is_by_day and not all(map(has_day, self.paths)):
            raise ValueError("either all paths or none have {date}")
        return self

    @model_validator(mode="after")
    def _check_effects(self) -> InputConfig:
        without_effect = {
            "parquet": ("delimiter", "header", "quote", "encoding"),
            "jsonl": ("delimiter", "header", "quote"),
        }
        for name in without_effect.get(self.format, ()):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} does nothing for format: {self.format}")
        if self.empty_days != "stop" and not self.is_by_day:
            raise ValueError("empty_days is for a path with {date}")
        return self

    @model_validator(mode="after")
    def _check_together(self) -> InputConfig:
        if not self.paths or not all(self.paths):
            raise ValueError("path must name at least one file, folder or glob")
        named = [c for c in (getattr(self.columns, role) for role in RatingColumns.model_fields) if c is not None]
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote must differ")
        if self.format != "csv" and any(isinstance(c, int) for c in named):
            raise ValueError("column numbers are for csv files without a header; name the columns")
        if self.format == "csv" and self.header == any(isinstance(c, int) for c in named):
            if self.header:
                raise ValueError("column numbers need header: false; with a header, name the columns")
            raise ValueError("header: false needs column numbers from 0, such as {user: 0, item: 1, rating: 2}")
        if len(set(named)) < len(named):
            raise ValueError(
                f"one column is mapped twice; each of {', '.join(RatingColumns.model_fields)} needs its own"
            )
        return self


class IngestConfig(Section):
    """What counts as a rating, and what happens to the rest."""

    rating_range: tuple[float, float] | None = Field(default=None, description="lowest and highest valid rating")
    duplicates: Literal["last", "first", "mean", "sum", "max"] = Field(
        default="max", description="how several ratings of one user for one item become one"
    )
    cancellations: bool = Field(
        default=False,
        description="with duplicates: sum, negative ratings take back what others have counted; what is left with 0 or "
        "less is no rating",
    )
    max_quarantined_share: Share = Field(default=0.05, description="more than this share stops the run")
    max_id_length: int = Field(default=512, ge=1, le=100_000, description="in characters")

    @pydantic.field_validator("rating_range", mode="before")
    @classmethod
    def _as_pair(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_range(self) -> IngestConfig:
        if self.rating_range is not None and not self.rating_range[0] <= self.rating_range[1]:
            raise ValueError("rating_range must be [lowest, highest]")
        return self
