"""Neighbourhood models: ratings from what similar users thought of an item, or the user of similar items."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.byte_sizes import human_size, spark_size
from recsys_spark.errors import ConfigError, NumericalError
from recsys_spark.kernels.arrays import Int32Array
from recsys_spark.kernels.neighbour_average import NeighbourAverages, SparseRows, averages_of_pairs, sparse_rows
from recsys_spark.kernels.neighbours import Measure
from recsys_spark.kernels.similarity import RowSizes
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.row_neighbours import NeighbourCandidates, write_neighbours_by_common
from recsys_spark.session import SessionLimits, session_limits
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.storage import Storage, join
from recsys_spark.tables import INDEXED_RATINGS, ITEM_FACTORS, NEIGHBOURHOODS, USER_FACTORS
from recsys_spark.train.global_mean import exact_mean
from recsys_spark.train.model import Factorization

if TYPE_CHECKING:
    # Workers import this module through its package, and have neither pydantic nor rich.
    from recsys_spark.config import TrainConfig
    from recsys_spark.config.neighbours import KnnConfig
    from recsys_spark.progress import Progress
    from recsys_spark.runs.run_directory import StageContext

_MEASURES = {"cosine": "rating_cosine", "pearson": "pearson"}


@dataclass(frozen=True, slots=True)
class Neighbourhoods:
    """Who is similar to whom, and how ratings deviate from the means.

    Attributes
    ----------
    side : Side
        Of the rows that have neighbours.
    frame : DataFrame
        As the table ``neighbourhoods``.
    deviations : DataFrame
        ``user_index, item_index, rating``: each rating less the mean of its row of ``side``.
    prior_weight : float
    n_rows : int
        Size of the index of ``side``.
    """

    side: Side
    frame: DataFrame
    deviations: DataFrame
    prior_weight: float
    n_rows: int

    def evidence(self) -> DataFrame:
        """Return what each user's averages begin with, as `NeighbourAverages.of_rows` takes it.

        ``user_index, evidence array<int>, evidence_values array<float>``: similar users and how similar they are, or
        rated items and the ratings' deviations. For items, one shuffle of the ratings.
        """
        if self.side == USERS:
            return self.frame.select(
                F.col("row_index").alias("user_index"),
                F.col("neighbours").alias("evidence"),
                F.col("similarities").alias("evidence_values"),
            )
        entry = F.struct("item_index", "rating")
        rated = self.deviations.groupBy("user_index").agg(F.sort_array(F.collect_list(entry)).alias("rated"))
        return rated.select(
            "user_index",
            F.col("rated.item_index").alias("evidence"),
            F.col("rated.rating").alias("evidence_values"),
        )

    def with_evidence(self, rows: DataFrame) -> DataFrame:
        """Add their evidence to users' rows, as ``recommend.users_with_history`` takes them.

        A user whom no neighbour tells anything about has no factors: every item would be predicted the same.
        """
        joined = rows.join(self.evidence(), "user_index", "left")
        return joined.withColumn("factors", F.when(F.size("evidence") > 0, F.col("factors")))

    def averages(self, column_of_index: Int32Array, n_columns: int) -> NeighbourAverages:
        """Return what every task needs to average over neighbours.

        It comes to the driver: 12 bytes per rating for users, 8 per neighbour for items.

        Parameters
        ----------
        column_of_index : int32 array
            Item index -> column of the averages, -1 where the item has none.
        n_columns : int
        """
        users_are_neighbours = self.side == USERS
        if users_are_neighbours:
            table = self.deviations.select("user_index", "item_index", "rating").toArrow()
            rows, items, values = (column.to_numpy() for column in table.itercolumns())
        else:
            table = self.frame.select("row_index", "neighbours", "similarities").toArrow()
            lengths = pc.list_value_length(table["neighbours"]).to_numpy()
            items = np.repeat(table["row_index"].to_numpy(), lengths)
            rows, values = (pc.list_flatten(table[name]).to_numpy() for name in ("neighbours", "similarities"))
        right = sparse_rows(rows, column_of_index[items], values, self.n_rows)
        return NeighbourAverages(right, n_columns, users_are_neighbours, self.prior_weight)


@dataclass(frozen=True, slots=True, repr=False)
class NeighbourModel(Factorization):
    """A model of rank 0, whose biases are the means of one side's rows, and averages over neighbours on top.

    Attributes
    ----------
    neighbourhoods : Neighbourhoods or None
        Never None.
    storage, folder : Storage and str
        Where intermediate results may lie.
    """

    neighbourhoods: Neighbourhoods | None = None
    storage: Storage | None = None
    folder: str = ""

    def rows_for_lists(self, spark: SparkSession) -> DataFrame:
        """Return the users' biases and their evidence."""
        assert self.neighbourhoods is not None
        return self.neighbourhoods.with_evidence(self.rows(spark, USERS))

    def averages(self, column_of_index: Int32Array, n_columns: int) -> NeighbourAverages:
        """Return what every task needs to average over neighbours."""
        assert self.neighbourhoods is not None
        return self.neighbourhoods.averages(column_of_index, n_columns)

    def with_scores(self, pairs: DataFrame, name: str, *, unknown: float | None = None) -> DataFrame:
        """Add a column of predictions to pairs, each of which is there once.

        A pair without neighbours is predicted the mean of its row; without a mean, that of all ratings. The averages
        of all pairs are written first; one shuffle of the pairs to find them, one join to bring them back.
        """
        assert self.neighbourhoods is not None
        assert self.storage is not None
        path = join(self.folder, f"averages_of_{name}")
        self.storage.remove(path)
        n_items = len(self.item_degrees)
        wanted = pairs.groupBy("user_index").agg(F.collect_list("item_index").alias("items"))
        with shared(pairs.sparkSession, self.averages(np.arange(n_items, dtype=np.int32), n_items)) as everywhere:
            with_evidence = wanted.join(self.neighbourhoods.evidence(), "user_index")
            schema = "user_index int, item_index int, average double"
            averages = with_evidence.mapInArrow(partial(average_pairs, neighbours=everywhere), schema)
            averages.write.mode("error").parquet(path)
        based = Factorization.with_scores(self, pairs, name, unknown=unknown)
        joined = based.join(pairs.sparkSession.read.parquet(path), ["user_index", "item_index"], "left")
        return joined.withColumn(name, F.col(name) + F.coalesce("average", F.lit(0.0))).drop("average")


def average_pairs(
    batches: Iterator[pa.RecordBatch], neighbours: SharedValue[NeighbourAverages]
) -> Iterator[pa.RecordBatch]:
    """Worker: users with evidence and items -> the averages of the pairs."""
    for batch in batches:
        if batch.num_rows:
            items = batch["items"]
            lengths = pc.list_value_length(items).to_numpy()
            indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            columns = items.flatten().to_numpy()
            averages = averages_of_pairs(evidence_rows(batch), neighbours.value, indptr, columns)
            users = np.repeat(batch["user_index"].to_numpy(), lengths)
            yield pa.RecordBatch.from_arrays(
                [pa.array(users), pa.array(columns), pa.array(averages)], names=["user_index", "item_index", "average"]
            )


def evidence_rows(users: pa.RecordBatch) -> SparseRows:
    """Return the columns ``evidence`` and ``evidence_values`` as sparse rows; null is no evidence."""
    lengths = pc.fill_null(pc.list_value_length(users["evidence"]), 0).to_numpy(zero_copy_only=False)
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    columns, values = (users[name].flatten().to_numpy() for name in ("evidence", "evidence_values"))
    return SparseRows(indptr, columns, values)


def fit_neighbourhoods(
    spark: SparkSession,
    ratings: DataFrame,
    config: TrainConfig,
    *,
    n_users: int,
    n_items: int,
    progress: Progress,
    title: str,
    storage: Storage,
    folder: str,
) -> NeighbourModel:
    """Find every row's k most similar rows, and the means from which ratings deviate.

    A prediction is, for ``user_knn`` with N(u) the k users most similar to u::

        mean_u + sum over v in N(u) who rated i of s_uv (r_vi - mean_v) / (prior_weight + sum of s_uv)

    and for ``item_knn`` the same with users and items exchanged: the mean of the item, and the user's ratings of
    items in N(i). Similarities are positive, times c / (c + shrink) for c ratings in common.

    Parameters
    ----------
    spark : SparkSession
    ratings : DataFrame
        ``user_index, item_index, rating``; each pair once, at least one.
    config : TrainConfig
        With ``model`` user_knn or item_knn.
    n_users, n_items : int
        Sizes of the indexes.
    progress : Progress
    title : str
        Names this fit in the progress.
    storage, folder : Storage and str
        Where the neighbourhoods are written, and stay for the model.

    Returns
    -------
    NeighbourModel
        Equal bit for bit for every number of partitions.

    Raises
    ------
    NumericalError
        If there are no ratings.
    ConfigError
        If what every task needs for the lists cannot pass through the driver.

    Notes
    -----
    For shuffles and time see ``write_neighbours_by_common``. The driver receives the mean of every row, and how many
    ratings each row of the other side has.
    """
    side, knn = (USERS if config.model == "user_knn" else ITEMS), config.knn
    base = _means(ratings, side, n_users, n_items)
    n_ratings = int(base.user_degrees.sum(dtype=np.int64))
    n_rows, degrees = (n_users, base.user_degrees) if side == USERS else (n_items, base.item_degrees)
    _refuse_what_cannot_fit(side, n_ratings, n_rows, knn, session_limits(spark))
    holders = (base.item_degrees if side == USERS else base.user_degrees).astype(np.int64)
    progress.say(f"{title}: comparing {n_rows:,} {side.name} in {int((holders**2).sum()):,} pairs of ratings")
    deviations = _deviations(ratings, base.rows(spark, side), side, base.global_mean)
    known = np.flatnonzero(degrees).astype(np.int32)
    lengths = _lengths(ratings, side, n_rows) if knn.similarity == "cosine" else np.zeros(n_rows)
    candidates = NeighbourCandidates.from_rows(pa.array(known), known, RowSizes(degrees.astype(np.int64), lengths))
    measure = Measure(_MEASURES[knn.similarity], knn.shrink, int(np.count_nonzero(holders)))
    path = join(folder, "neighbours")
    storage.remove(path)
    compared = ratings if knn.similarity == "cosine" else deviations
    write_neighbours_by_common(compared, side, candidates, measure, n=knn.k, path=path)
    frame = spark.read.parquet(path).select(
        F.col("row").alias("row_index"),
        F.col("neighbours.id").alias("neighbours"),
        F.col("neighbours.similarity").alias("similarities"),
    )
    neighbourhoods = Neighbourhoods(side, frame, deviations, knn.prior_weight, n_rows)
    fields = {name: getattr(base, name) for name in Factorization.__dataclass_fields__}
    return NeighbourModel(**fields, neighbourhoods=neighbourhoods, storage=storage, folder=folder)


def read_neighbourhoods(context: StageContext) -> Neighbourhoods | None:
    """Return the neighbourhoods of a run's trained model from its tables, or None where it has none."""
    record, config = context.record("train"), context.config.train
    if not config.is_neighbourhood:
        return None
    side, factors = (USERS, USER_FACTORS) if config.model == "user_knn" else (ITEMS, ITEM_FACTORS)
    deviations = _deviations(context.read(INDEXED_RATINGS), context.read(factors), side, record["global_mean"])
    n_rows = context.record("index")[f"n_{side.name}"]
    return Neighbourhoods(side, context.read(NEIGHBOURHOODS), deviations, config.knn.prior_weight, n_rows)


def _means(ratings: DataFrame, side: Side, n_users: int, n_items: int) -> Factorization:
    """Return the model of one side's means: rank 0, the biases are what the means are above that of all ratings."""
    mean, n_ratings = exact_mean(ratings)
    if n_ratings == 0:
        raise NumericalError(
            "there are no ratings to train on", remedy="lower evaluate.holdout_share, or check the input"
        )
    vectors, degrees = {}, {}
    for each, n_rows in ((USERS, n_users), (ITEMS, n_items)):
        total = _exact_sum(F.col("rating").cast("double"))
        rows = ratings.groupBy(each.rows).agg(F.count("*").alias("n"), total.alias("total")).toArrow()
        index, counts = rows[each.rows].to_numpy(), rows["n"].to_numpy()
        vectors[each], degrees[each] = np.zeros((n_rows, 1), np.float32), np.zeros(n_rows, np.int32)
        degrees[each][index] = counts
        if each == side:
            vectors[each][index, 0] = rows["total"].to_numpy() / counts - mean
    return Factorization(vectors[USERS], vectors[ITEMS], degrees[USERS], degrees[ITEMS], mean, True, mean)


def _exact_sum(values: Column) -> Column:
    """Return the sum of a group's numbers in ascending order, which is the same however they are spread."""
    return F.aggregate(F.sort_array(F.collect_list(values)), F.lit(0.0), lambda total, value: total + value)


def _lengths(ratings: DataFrame, side: Side, n_rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    squares = _exact_sum(F.col("rating").cast("double") * F.col("rating"))
    rows = ratings.groupBy(side.rows).agg(squares.alias("squares")).toArrow()
    lengths = np.zeros(n_rows)
    lengths[rows[side.rows].to_numpy()] = np.sqrt(rows["squares"].to_numpy())
    return lengths


def _deviations(ratings: DataFrame, rows: DataFrame, side: Side, global_mean: float) -> DataFrame:
    mean = F.col("bias").cast("double") + F.lit(global_mean)
    deviation = (F.col("rating").cast("double") - mean).cast("float")
    joined = ratings.join(rows.select(side.rows, "bias"), side.rows)
    return joined.select("user_index", "item_index", deviation.alias("rating"))


def _refuse_what_cannot_fit(side: Side, n_ratings: int, n_rows: int, knn: KnnConfig, limits: SessionLimits) -> None:
    """Refuse a model whose part for every task is more than a job may return, or a worker hold."""
    n_entries = n_ratings if side == USERS else n_rows * min(knn.k, n_rows)
    needed = n_entries * (12 if side == USERS else 8)
    allowed = min(limits.result_bytes or math.inf, limits.worker_bytes or math.inf)
    if needed > allowed:
        what = f"all {n_ratings:,} ratings" if side == USERS else f"{knn.k} neighbours of {n_rows:,} items"
        raise ConfigError(
            f"{what} have to go through the driver to every task, and do not fit",
            where="train.model",
            got=f"{'user_knn' if side == USERS else 'item_knn'}: {human_size(needed)}",
            allowed=human_size(allowed),
            remedy=("use train.model: item_knn or factors" if side == USERS else "lower train.knn.k, or use factors")
            + f", or raise spark.driver.maxResultSize and spark.executor.pyspark.memory to {spark_size(2 * needed)}",
        )
