"""The encoder: what each feature's cells become, fitted to one table and saved with its run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys_spark.errors import ContractError
from recsys_spark.kernels.arrays import Float64Array, Int64Array
from recsys_spark.kernels.feature_encoding import inverse_document_frequencies, mean_shift, shares_moved

if TYPE_CHECKING:
    # Workers import this module, and have no pydantic.
    from recsys_spark.config.features import FeatureColumn

FORMAT = 2
"""Number of the file's own format: a file of another one is refused."""


@dataclass(frozen=True, slots=True)
class CellStatistics:
    """What one feature's cells are like in a table.

    Attributes
    ----------
    n_items, n_missing, n_unreadable : int
        Items; those without a value, cells that are no number among them; and those cells.
    mean, deviation : float
        Of a numeric feature.
    counts : dict of str to int
        Items by value, of the values that may have a column; or by hash of a word.
    n_values, n_uses : int
        Values that there are, with a column or without, and the items of each, added up.
    n_frequent : int
        Values of at least ``min_items`` items.
    """

    n_items: int
    n_missing: int
    n_unreadable: int
    mean: float
    deviation: float
    counts: dict[str, int]
    n_values: int = 0
    n_uses: int = 0
    n_frequent: int = 0


@dataclass(frozen=True, slots=True)
class FeatureEncoding:
    """How one feature is encoded, and what the table was like that decided it.

    Attributes
    ----------
    name, kind : str
    settings : dict
        Of the configuration.
    first, width : int
        Columns of the encoded rows that are the feature's.
    values : list of str
        One per column, of a categorical or multi-valued feature: ascending by their UTF-8 bytes.
    statistics : CellStatistics
        Their ``counts`` are those of the columns' values alone.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    first: int
    width: int
    values: list[str]
    statistics: CellStatistics

    def __repr__(self) -> str:
        """Return what is encoded, and as how much."""
        return f"FeatureEncoding: {self.name}, {self.kind}, {self.width:,} columns from {self.first}"

    @property
    def idf(self) -> Float64Array:
        """Inverse document frequency of each hash of a text feature."""
        n_with = np.zeros(self.width, np.int64)
        for number, count in self.statistics.counts.items():
            n_with[int(number)] = count
        return inverse_document_frequencies(n_with, self.statistics.n_items)

    @property
    def column_names(self) -> list[str]:
        """A name for each of the feature's columns."""
        if self.kind == "numeric":
            return [self.name]
        if self.kind == "text":
            return [f"{self.name}#{number}" for number in range(self.width)]
        return [f"{self.name}={value}" for value in self.values]

    @property
    def says_something(self) -> bool:
        """Whether any item of the table that decided the encoding has an entry in the feature's columns."""
        if self.kind == "numeric":
            return self.statistics.deviation > 0
        return bool(self.statistics.counts)

    def left_out(self, found: CellStatistics) -> tuple[int, int]:
        """Return how many values of a table have no column, and how many items hold each, added up.

        ``found.counts`` has to have all values of the encoder that the table has.
        """
        if self.kind in ("numeric", "text"):
            return 0, 0
        held = [found.counts[value] for value in self.values if value in found.counts]
        return found.n_values - len(held), found.n_uses - sum(held)

    def drift(self, found: CellStatistics) -> float:
        """Return how far a table is from the one that this was fitted to: in deviations, or shares (0 to 1).

        Values without a column count as one, and so do missing cells; for ``found.counts`` see `left_out`.
        """
        before = self.statistics
        if self.kind == "numeric":
            return mean_shift(before.mean, before.deviation, found.mean)
        names = self.values or sorted(before.counts.keys() | found.counts.keys())
        counts = [_counted(statistics, names) for statistics in (before, found)]
        return shares_moved(*counts)


@dataclass(frozen=True, slots=True)
class Encoder:
    """All features, in the order of the configuration."""

    features: tuple[FeatureEncoding, ...]

    @property
    def width(self) -> int:
        """Columns of an encoded row."""
        return sum(feature.width for feature in self.features)

    @property
    def column_names(self) -> list[str]:
        """A name for each column."""
        return [name for feature in self.features for name in feature.column_names]

    @property
    def value_of_column(self) -> dict[int, str]:
        """The value that a column stands for, of columns that stand for one: not of numbers, nor of hashed words."""
        return {feature.first + k: value for feature in self.features for k, value in enumerate(feature.values)}

    @property
    def version(self) -> str:
        """A hash of all that decides how cells are encoded."""
        content = json.dumps([asdict(feature) for feature in self.features], sort_keys=True)
        return hashlib.sha256(f"{FORMAT} {content}".encode()).hexdigest()[:16]

    def has_settings(self, columns: dict[str, FeatureColumn]) -> bool:
        """Return whether the encoder was fitted with these settings, in this order: cells are told by their place."""
        fitted = [(feature.name, feature.settings) for feature in self.features]
        return fitted == [(name, column.model_dump()) for name, column in columns.items()]

    def as_json(self) -> str:
        """Return the encoder as the text of a file."""
        content = {"format": FORMAT, "version": self.version, "features": [asdict(f) for f in self.features]}
        return json.dumps(content, indent=1, ensure_ascii=False)

    @classmethod
    def from_content(cls, content: dict[str, Any], where: str) -> Encoder:
        """Read what `as_json` wrote.

        Raises
        ------
        ContractError
            If the file is of another format, or is not what it was written as.
        """
        if content.get("format") != FORMAT:
            raise ContractError(
                "the encoder is of another format",
                where=where,
                got=str(content.get("format")),
                allowed=str(FORMAT),
                remedy="set item_features.encoder: fit",
            )
        try:
            encoder = cls(
                tuple(
                    FeatureEncoding(**{**feature, "statistics": CellStatistics(**feature["statistics"])})
                    for feature in content["features"]
                )
            )
            version = encoder.version
        except (KeyError, TypeError):
            version = "parts that are missing or of another kind"
        if version != content.get("version"):
            raise ContractError(
                "the encoder was changed after it was written",
                where=where,
                got=version,
                allowed=str(content.get("version")),
                remedy="set item_features.encoder: fit, and run again under a new run id",
            )
        return encoder


def fit_encoder(columns: dict[str, FeatureColumn], found: dict[str, CellStatistics]) -> Encoder:
    """Return the encoder of a table from what its cells are like.

    Values held by at least ``min_items`` items get a column each: the ``max_values`` of most items, where there are
    more, and of equally many items those that come first in the order of their UTF-8 bytes. The others are counted.
    """
    features: list[FeatureEncoding] = []
    first = 0
    for name, column in columns.items():
        statistics, values = found[name], list[str]()
        if column.kind == "numeric":
            width = 1
        elif column.kind == "text":
            width = column.n_hashes
        else:
            counts = statistics.counts
            frequent = (value for value, count in counts.items() if count >= column.min_items)
            best = sorted(frequent, key=lambda value: (-counts[value], value.encode()))[: column.max_values]
            values = sorted(best, key=str.encode)
            statistics = replace(statistics, counts={value: counts[value] for value in values})
            width = len(values)
        features.append(FeatureEncoding(name, column.kind, column.model_dump(), first, width, values, statistics))
        first += width
    return Encoder(tuple(features))


def _counted(statistics: CellStatistics, names: list[str]) -> Int64Array:
    """Return how many items hold each value, any other one (an item may count several times), and none."""
    counts = [statistics.counts.get(name, 0) for name in names]
    return np.array([*counts, statistics.n_uses - sum(counts), statistics.n_missing], np.int64)
