"""The configuration of the lists, and of the tables that lie beside the log."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

import pydantic
from pydantic import Field, model_validator

from recsys_spark.config.section import Section


class TableFile(Section):
    """A table beside the log, with a header where it is csv."""

    path: str = Field(min_length=1, description="a file, folder or glob")
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=8)
    encoding: Literal["utf-8", "iso-8859-1"] = Field(default="utf-8", description="csv, jsonl: of the text")

    @model_validator(mode="after")
    def _check_format(self) -> TableFile:
        if self.format != "csv" and self.delimiter != ",":
            raise ValueError(f"delimiter is for format: csv; it does nothing for format: {self.format}")
        if self.format == "parquet" and self.encoding != "utf-8":
            raise ValueError("encoding is for format: csv and jsonl; it does nothing for format: parquet")
        return self

    @property
    def roles_of_one(self) -> frozenset[str]:
        """Roles whose cells have to be single values: not lists."""
        return frozenset({"user", "item", "segment", "category"})

    @property
    def roles_of_numbers(self) -> frozenset[str]:
        """Roles whose cells are taken for numbers: dates and times in them, for days since 1970."""
        return frozenset()

    @property
    def columns(self) -> dict[str, str]:
        """The configured columns of the file by their role: the settings that other tables add to these."""
        roles = type(self).model_fields.keys() - TableFile.model_fields.keys()
        return {role: getattr(self, role) for role in sorted(roles) if getattr(self, role) is not None}


class CatalogueConfig(TableFile):
    """Titles and categories of the items, and when they may be recommended."""

    item: str = "item_id"
    title: str = "title"
    by: str | None = Field(default=None, description="column with the author, artist or brand")
    category: str | None = Field(
        default=None, description="column with the category that recommend.max_per_category counts; blank: none"
    )
    available: str | None = Field(
        default=None,
        description="column that says whether an item can be had: true, yes or 1, false, no or 0, or blank",
    )
    start: str | None = Field(default=None, description="column with the first day of an item (ISO 8601), or blank")
    end: str | None = Field(default=None, description="column with the first day without it (ISO 8601), or blank")

    @property
    def has_availability(self) -> bool:
        """Whether the catalogue says when items may be recommended."""
        return any(column is not None for column in (self.available, self.start, self.end))


class ItemFile(TableFile):
    """A list of items."""

    item: str = "item_id"


class UserItemFile(TableFile):
    """Pairs of a user and an item that the user must not be recommended."""

    user: str = "user_id"
    item: str = "item_id"


class SegmentFile(TableFile):
    """The segment of each user, such as a country; users that no rating knows get lists too."""

    user: str = "user_id"
    segment: str = "segment"


class PopularityConfig(Section):
    """What users without a vector get: the items with the most ratings, in their segment or overall."""

    half_life_days: float | None = Field(
        default=None, gt=0, le=1e6, description="a rating counts half after so many days; null: all count 1"
    )
    min_segment_ratings: int = Field(
        default=100, ge=1, description="a segment with fewer ratings gets what is popular overall"
    )


class MmrConfig(Section):
    """Maximal marginal relevance: lists of good items that are unlike each other, by the cosine of their factors."""

    relevance_weight: float = Field(
        default=0.7, gt=0, le=1, description="lambda: how much the score counts beside being unlike the items before"
    )
    pool: int = Field(default=50, ge=1, le=10_000, description="how many of the user's best items are chosen from")


class RecommendConfig(Section):
    """The lists, and which items may stand in them."""

    n: int = Field(default=10, ge=1, le=10_000, description="items per user")
    exclude_seen: bool = Field(default=True, description="leave out what the user has rated")
    seen_since: date | None = Field(
        default=None, description="only ratings from this day on (UTC) count as seen; null: all"
    )
    on_date: date | None = Field(
        default=None,
        description="day on which the catalogue's items have to be on sale; null: the end of the run's interval",
    )
    deny: ItemFile | None = Field(default=None, description="items that nobody is recommended")
    allow: ItemFile | None = Field(default=None, description="the only items that may be recommended")
    blocks: UserItemFile | None = None
    max_per_category: int | None = Field(
        default=None, ge=1, le=10_000, description="items of one catalogue.category in a list; null: no limit"
    )
    max_new_items: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="items in a list that nobody has rated, scored by their item_features; 0: none",
    )
    mmr: MmrConfig | None = None
    popularity_damping: float = Field(
        default=0.0, ge=0, le=1e6, description="scores lose so much times log(1 + ratings of the item); 0: nothing"
    )
    new_ratings: str | list[str] | None = Field(
        default=None,
        description="ratings since the log, in the format of `input`: a file, folder or glob, or several; their users "
        "are folded in",
    )
    segments: SegmentFile | None = None
    popularity: PopularityConfig = PopularityConfig()
    rows: bool = Field(default=False, description="also write recommendation_rows, one row per entry")

    @pydantic.field_validator("seen_since", "on_date", mode="before")
    @classmethod
    def _read_day(cls, value: Any) -> Any:
        # In quotes, or in the configuration that a run has stored, YAML leaves a date as text.
        return date.fromisoformat(value) if isinstance(value, str) else value

    @property
    def files(self) -> dict[str, TableFile]:
        """The configured tables by where they are configured."""
        named = {f"recommend.{name}": getattr(self, name) for name in ("deny", "allow", "blocks", "segments")}
        return {where: file for where, file in named.items() if file is not None}

    @model_validator(mode="after")
    def _check_seen(self) -> RecommendConfig:
        if self.seen_since is not None and not self.exclude_seen:
            raise ValueError("seen_since needs exclude_seen: true")
        if self.mmr is not None and self.mmr.pool < self.n:
            raise ValueError(f"mmr.pool must be at least n, {self.n}")
        if self.new_ratings is not None and not (self.new_ratings and all(self.new_ratings)):
            raise ValueError("new_ratings must name at least one file, folder or glob, or be null")
        return self
