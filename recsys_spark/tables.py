"""The tables that the stages read and write: one schema each, with a key and a comment per column."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DateType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from recsys_spark.errors import ContractError, RecsysError
from recsys_spark.storage import literal_path


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name, schema, key (empty: rows may repeat), and bytes per row group (None: Spark's 128 MB)."""

    name: str
    schema: StructType
    key: tuple[str, ...]
    row_group_bytes: int | None = None

    def __repr__(self) -> str:
        """Return name, columns and key."""
        columns = ", ".join(f"{field.name} {field.dataType.simpleString()}" for field in self.schema.fields)
        return f"Table {self.name}({columns}), key {', '.join(self.key) or 'none'}"

    def select(self, frame: DataFrame) -> DataFrame:
        """Return the table's columns of a frame, in order, refusing absent ones and other types.

        Raises
        ------
        ContractError
            If a column is missing or of another type.
        """
        for field in self.schema.fields:
            if field.name not in frame.columns:
                raise ContractError(f"{self.name} lacks a column", where=field.name, got=", ".join(frame.columns))
            found = frame.schema[field.name].dataType
            if _plain(found) != _plain(field.dataType):
                raise ContractError(
                    f"{self.name}.{field.name} has another type",
                    got=found.simpleString(),
                    allowed=field.dataType.simpleString(),
                )
        return frame.select(*self.schema.names)

    def write(self, frame: DataFrame, path: str) -> None:
        """Write the frame as this table to a path where nothing is yet (Parquet, field comments kept)."""
        writer = self.select(frame).to(self.schema).write.mode("error")
        if self.row_group_bytes is not None:
            writer = writer.option("parquet.block.size", self.row_group_bytes)
        writer.parquet(path)

    def read(self, spark: SparkSession, *paths: str) -> DataFrame:
        """Read the table from a path, or from some of its files.

        Raises
        ------
        RecsysError
            If the table is not there or cannot be read.
        """
        try:
            # A bit that flipped on a disk must not become a rating.
            reader = spark.read.option("parquet.page.verify-checksum.enabled", "true")
            return reader.schema(self.schema).parquet(*map(literal_path, paths))
        except Exception as error:
            raise RecsysError(
                f"the table {self.name} cannot be read",
                where=", ".join(paths[:3]),
                got=str(error).strip().splitlines()[0],
                remedy="run the stage that writes it again, under a new run id",
            ) from error


# A reader of one user or item reads one row group: some thousands of lists, a few milliseconds.
_POINT_READ_BYTES = 1 << 20


def _plain(kind: DataType) -> str:
    return kind.simpleString()


def _column(name: str, kind: DataType, comment: str) -> StructField:
    return StructField(name, kind, True, {"comment": comment})


_USER_ID = _column("user_id", StringType(), "the caller's id, unchanged")
_ITEM_ID = _column("item_id", StringType(), "the caller's id, unchanged")
_USER_INDEX = _column("user_index", IntegerType(), "the number of user_id, from 0, the same in all runs")
_ITEM_INDEX = _column("item_index", IntegerType(), "the number of item_id, from 0, the same in all runs")
_TIMESTAMP = _column("timestamp", TimestampType(), "event time, UTC; null where the log has none")

RATINGS = Table(
    "ratings",
    StructType(
        [
            _USER_ID,
            _ITEM_ID,
            _column("rating", DoubleType(), "finite, after duplicates were merged"),
            _TIMESTAMP,
            _column("weight", DoubleType(), "how much the rating counts; null where the log does not say"),
            _column("n_merged", IntegerType(), "raw rows that became this one, at least 1"),
            _column("source_file", StringType(), "file of the raw row that stands for the rating"),
        ]
    ),
    ("user_id", "item_id"),
)
RATING_EVENTS = Table(
    "rating_events",
    StructType(
        [
            _USER_ID,
            _ITEM_ID,
            _column("rating", DoubleType(), "finite, as it stood; several of one user and item are not merged yet"),
            _TIMESTAMP,
            _column("weight", DoubleType(), "how much the rating counts; null where the log does not say"),
            _column("delivered", DateType(), "the day whose file brought it; null where files do not belong to days"),
            _column("source_file", StringType(), "file of the raw row"),
        ]
    ),
    (),
)
CANCELLED_RATINGS = Table("cancelled_ratings", RATINGS.schema, RATINGS.key)
LATE_RATINGS = Table("late_ratings", RATING_EVENTS.schema, ())
NEW_RATINGS = Table("new_ratings", RATINGS.schema, RATINGS.key)
QUARANTINE = Table(
    "quarantine",
    StructType(
        [
            _column("source_file", StringType(), "file that the row came from"),
            _column("reason", StringType(), "why it was set aside"),
            _column("raw", StringType(), "the row as it stood, as text or JSON; ISO-8859-1 for invalid_encoding"),
        ]
    ),
    (),
)
NEW_QUARANTINE = Table("new_quarantine", QUARANTINE.schema, QUARANTINE.key)
CATALOGUE = Table(
    "catalogue",
    StructType(
        [
            _ITEM_ID,
            _column("title", StringType(), "for people to read"),
            _column("by", StringType(), "author, artist or brand; null where not configured"),
            _column("available", StringType(), "whether it can be had, as it stood; null where not configured"),
            _column("start", StringType(), "its first day, as it stood; null where not configured"),
            _column("end", StringType(), "the first day without it, as it stood; null where not configured"),
            _column("category", StringType(), "what limits per category count; null where not configured"),
        ]
    ),
    ("item_id",),
)
USER_INDEX = Table("user_index", StructType([_USER_ID, _USER_INDEX]), ("user_id",))
ITEM_INDEX = Table("item_index", StructType([_ITEM_ID, _ITEM_INDEX]), ("item_id",))
NEW_USERS = Table("new_users", USER_INDEX.schema, USER_INDEX.key)
INDEXED_RATINGS = Table(
    "indexed_ratings",
    StructType(
        [
            _USER_INDEX,
            _ITEM_INDEX,
            _column("rating", FloatType(), "as in ratings, single precision"),
            _column("weight", FloatType(), "as in ratings, single precision"),
            _TIMESTAMP,
        ]
    ),
    ("user_index", "item_index"),
)
NEW_ITEMS = Table("new_items", ITEM_INDEX.schema, ITEM_INDEX.key)
ITEM_FEATURES = Table(
    "item_features",
    StructType(
        [
            _ITEM_ID,
            _ITEM_INDEX,
            _column("columns", ArrayType(IntegerType()), "encoded columns that are not 0, ascending; see the encoder"),
            _column("values", ArrayType(FloatType()), "their values"),
        ]
    ),
    ("item_id",),
)


ITEM_WORDS = Table(
    "item_words",
    StructType(
        [
            _ITEM_ID,
            _column(
                "words",
                ArrayType(StructType([StructField("column", IntegerType()), StructField("word", StringType())])),
                "the distinct words of its texts, each with the encoded column that it is hashed to",
            ),
        ]
    ),
    ("item_id",),
    _POINT_READ_BYTES,
)


def _factor_columns() -> list[StructField]:
    return [
        _column("factors", ArrayType(FloatType()), "one value per factor"),
        _column("bias", FloatType(), "added to the score; 0 where the model has no biases"),
        _column("n_ratings", IntegerType(), "ratings that the row was solved from; 0 where only features are known"),
    ]


USER_FACTORS = Table("user_factors", StructType([_USER_ID, _USER_INDEX, *_factor_columns()]), ("user_id",))
ITEM_FACTORS = Table("item_factors", StructType([_ITEM_ID, _ITEM_INDEX, *_factor_columns()]), ("item_id",))
CHANGED_USERS = Table("changed_users", StructType([_USER_ID]), ("user_id",))
CONTENT_FACTORS = Table("content_factors", ITEM_FACTORS.schema, ITEM_FACTORS.key)
FOLDED_FACTORS = Table("folded_factors", USER_FACTORS.schema, USER_FACTORS.key)
NEIGHBOURHOODS = Table(
    "neighbourhoods",
    StructType(
        [
            _column("row_index", IntegerType(), "user_index with user_knn, item_index with item_knn"),
            _column("neighbours", ArrayType(IntegerType()), "indexes of the most similar rows, best first"),
            _column("similarities", ArrayType(FloatType()), "of each neighbour, above 0"),
        ]
    ),
    ("row_index",),
)
USER_WEIGHTS = Table(
    "user_weights",
    StructType(
        [
            _USER_ID,
            _column("intercept", FloatType(), "the score (logistic: its log-odds) of an item whose features are all 0"),
            _column("weights", ArrayType(FloatType()), "of each feature, by column: see feature_weights"),
        ]
    ),
    ("user_id",),
)
FEATURE_WEIGHTS = Table(
    "feature_weights",
    StructType(
        [
            _column("column", IntegerType(), "place in the weights, from 0"),
            _column("feature", StringType(), "name of the feature, with its value"),
            _column("weight", DoubleType(), "of the population, from which users deviate"),
        ]
    ),
    ("column",),
)
_SOURCES = "what made the entry: cf, fold_in, content, segment_popular or popular"
_ENTRY = [
    _column("item_id", StringType(), "the caller's id, unchanged"),
    _column("score", FloatType(), "what the list is sorted by"),
    _column("position", IntegerType(), "place in the list, from 1"),
    _column("source", StringType(), _SOURCES),
]
_ORIGIN = [
    _column("generated_at", TimestampType(), "when the recommend stage began, UTC"),
    _column("run_id", StringType(), "the run that made the list"),
    _column("model", StringType(), "loss and rank of the model behind it"),
]
RECOMMENDATIONS = Table(
    "recommendations",
    StructType(
        [
            _USER_ID,
            _column(
                "recommendations",
                ArrayType(StructType([StructField(field.name, field.dataType, True) for field in _ENTRY]), True),
                f"best first, ties by item_id; source says {_SOURCES}",
            ),
            _column(
                "short_reason",
                StringType(),
                "why there are fewer entries than asked for; null if there are not",
            ),
            *_ORIGIN,
        ]
    ),
    ("user_id",),
    _POINT_READ_BYTES,
)
RECOMMENDATION_ROWS = Table(
    "recommendation_rows",
    StructType([_USER_ID, *_ENTRY, *_ORIGIN]),
    ("user_id", "position"),
    _POINT_READ_BYTES,
)


def _neighbours_of(row: StructField) -> Table:
    name = row.name.removesuffix("_id") + "s"
    entry = [
        row,
        _column("similarity", FloatType(), "above 0; what the list is sorted by"),
        _column("position", IntegerType(), "place in the list, from 1"),
        _column("n_common", LongType(), "ratings in common; null where factors were compared"),
    ]
    plain = [StructField(field.name, field.dataType, True) for field in entry]
    neighbours = ArrayType(StructType(plain), True)
    return Table(
        f"similar_{name}",
        StructType(
            [
                row,
                _column("neighbours", neighbours, f"most similar first, ties by {row.name}"),
                _column("short_reason", StringType(), "why there are fewer than asked for; null if there are not"),
                _column("generated_at", TimestampType(), "when the recommend stage began, UTC"),
                _column("run_id", StringType(), "the run that made the list"),
                _column("model", StringType(), "how rows were compared"),
            ]
        ),
        (row.name,),
        _POINT_READ_BYTES,
    )


SIMILAR_ITEMS, SIMILAR_USERS = _neighbours_of(_ITEM_ID), _neighbours_of(_USER_ID)
ITEM_ELIGIBILITY = Table(
    "item_eligibility",
    StructType([_ITEM_ID, _column("removed_by", StringType(), "the first filter that removes it; null: none does")]),
    ("item_id",),
)
USER_BLOCKS = Table("user_blocks", StructType([_USER_ID, _ITEM_ID]), ("user_id", "item_id"))
REFRESHED_USERS = Table(
    "refreshed_users",
    StructType([_USER_ID, _column("reason", StringType(), "why the user's list was made, not taken over")]),
    ("user_id",),
)
_SEGMENT = _column("segment", StringType(), "the caller's name of the segment, unchanged")
USER_SEGMENTS = Table("user_segments", StructType([_USER_ID, _SEGMENT]), ("user_id",))
POPULARITY = Table(
    "popularity",
    StructType(
        [
            _column("segment", StringType(), "the segment whose ratings were counted; null: all"),
            _ITEM_ID,
            _column("popularity", DoubleType(), "its ratings, older ones counting less where there is a half-life"),
        ]
    ),
    ("segment", "item_id"),
)
EVALUATION_SPLIT = Table(
    "evaluation_split",
    StructType(
        [
            *INDEXED_RATINGS.schema.fields,
            _column(
                "part", StringType(), "training; held_out: measured on; fold_in: what held-out users are solved from"
            ),
        ]
    ),
    ("user_index", "item_index"),
)
METRICS = Table(
    "metrics",
    StructType(
        [
            _column("model", StringType(), "model, or the baseline it stands beside"),
            _column("metric", StringType(), "name of the measure; @n: of lists of n items"),
            _column("segment", StringType(), "all, or the group of users or held-out items that it is about"),
            _column("value", DoubleType(), "its value"),
            _column("low", DoubleType(), "lower end of its 95% interval over users; null where there is none"),
            _column("high", DoubleType(), "upper end of its 95% interval over users; null where there is none"),
            _column("n", LongType(), "ratings, users or items it was measured on"),
        ]
    ),
    ("model", "metric", "segment"),
)
