"""The fitted model: predictions and lists with MLlib's methods, columns and types."""

from __future__ import annotations

import math

from pyspark.ml.base import Model
from pyspark.ml.util import MLReadable, MLReader, MLWriter
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError
from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.ml.fitted import FittedFactors, as_key
from recsys_spark.ml.ids import key_of_model
from recsys_spark.ml.params import ALSModelParams
from recsys_spark.ml.saved import FactorsReader, FactorsWriter, ParamsWritable
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.recommend import Candidates, best_lists, spread_users
from recsys_spark.shared_value import lasting
from recsys_spark.train import with_scores


class ALSModel(Model, ALSModelParams, ParamsWritable, MLReadable["ALSModel"]):
    """A fitted model, to be used in the place of ``pyspark.ml.recommendation.ALSModel``.

    Parameters
    ----------
    factors : FittedFactors, optional
        `ALS.fit` and `ALSModel.load` give it; a model without can be asked for nothing but to load another.
    """

    def __init__(self, factors: FittedFactors | None = None) -> None:
        super().__init__()
        self._fitted = factors

    def __repr__(self) -> str:
        """Return the uid and what the model has."""
        if self._fitted is None:
            return f"ALSModel: uid={self.uid}, not fitted"
        found = self._fitted
        biases = ", biases" if found.biases else ""
        return f"ALSModel: uid={self.uid}, rank={found.rank}, {found.n_users:,} users, {found.n_items:,} items{biases}"

    @property
    def _factors(self) -> FittedFactors:
        if self._fitted is None:
            raise ConfigError("this model was not fitted", where=self.uid, remedy="use ALS.fit, or ALSModel.load")
        return self._fitted

    @property
    def rank(self) -> int:
        """Number of factors."""
        return self._factors.rank

    @property
    def userFactors(self) -> DataFrame:
        """The users' factors: ``id``, and ``features array<float>``."""
        return self._factors.users.select("id", "features")

    @property
    def itemFactors(self) -> DataFrame:
        """The items' factors: ``id``, and ``features array<float>``."""
        return self._factors.items.select("id", "features")

    @property
    def objectiveHistory(self) -> list[float]:
        """The objective after every half-iteration: users, items, users, ..."""
        return list(self._factors.objectives)

    def recommendForAllUsers(self, numItems: int, *, excluded: DataFrame | None = None) -> DataFrame:
        """List every user's best items.

        Parameters
        ----------
        numItems : int
            Length of a list.
        excluded : DataFrame, optional
            Pairs of ``userCol`` and ``itemCol`` that must not be listed, such as the ratings of the training.

        Returns
        -------
        DataFrame
            ``userCol, recommendations array<struct<itemCol, rating float>>``, best first, equal ones by id; made when
            it is read. A user without any item left has an empty list.

        Raises
        ------
        ConfigError
            If ``numItems`` is below 1, or ``excluded`` has not these columns.

        Notes
        -----
        The factors of the items come to the driver and go to every task; the users' are shuffled once.
        """
        return self._best(USERS, numItems, None, excluded)

    def recommendForAllItems(self, numUsers: int, *, excluded: DataFrame | None = None) -> DataFrame:
        """List every item's best users; as `recommendForAllUsers`, with the sides changed."""
        return self._best(ITEMS, numUsers, None, excluded)

    def recommendForUserSubset(
        self, dataset: DataFrame, numItems: int, *, excluded: DataFrame | None = None
    ) -> DataFrame:
        """List the best items of the users in a dataset; see `recommendForAllUsers`.

        Parameters
        ----------
        dataset : DataFrame
            With ``userCol``. A user who comes twice gets one list; one who is unknown, none.
        numItems : int
        excluded : DataFrame, optional
        """
        return self._best(USERS, numItems, dataset, excluded)

    def recommendForItemSubset(
        self, dataset: DataFrame, numUsers: int, *, excluded: DataFrame | None = None
    ) -> DataFrame:
        """List the best users of the items in a dataset; as `recommendForUserSubset`, with the sides changed."""
        return self._best(ITEMS, numUsers, dataset, excluded)

    def write(self) -> MLWriter:
        """Return a writer of the model: ``write().overwrite().save(path)``."""
        return FactorsWriter(self, self._factors)

    @classmethod
    def read(cls) -> MLReader[ALSModel]:
        """Return a reader of saved models."""
        return FactorsReader(cls)

    @classmethod
    def load(cls, path: str) -> ALSModel:
        """Read a model from the path that it was saved to."""
        return cls.read().load(path)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        drops, name = self.drops_unknown(), self.getPredictionCol()
        if name in dataset.columns:
            raise ConfigError(
                "the dataset has a column of this name already",
                where="predictionCol",
                got=name,
                remedy="set predictionCol to another name, or drop the column",
            )
        # In one column, whatever the dataset's are named.
        keys = [self._key(dataset, side).alias(side.rows) for side in (USERS, ITEMS)]
        pairs = dataset.select(F.struct("*").alias("row"), *keys)
        found = self._factors
        scored = with_scores(
            pairs,
            {side: found.by_key(side) for side in (USERS, ITEMS)},
            "score",
            rank=found.rank,
            biases=found.biases,
            constant=found.global_mean,
            unknown=math.nan,
        )
        if drops:
            scored = scored.where(~F.isnan("score"))
        return scored.select("row.*", F.col("score").cast("float").alias(name))

    def _column(self, side: Side) -> tuple[str, str]:
        """Return the column of a side's ids, and the param that names it."""
        return (self.getUserCol(), "userCol") if side == USERS else (self.getItemCol(), "itemCol")

    def _key(self, dataset: DataFrame, side: Side) -> Column:
        of_model = self._factors.of(side).schema["id"].dataType
        return key_of_model(dataset, *self._column(side), of_model)

    def _best(self, rows: Side, n: int, subset: DataFrame | None, excluded: DataFrame | None) -> DataFrame:
        """List the best columns of some rows of a side."""
        if n < 1:
            raise ConfigError("a list needs at least one place", got=str(n), allowed="1 or more")
        columns = ITEMS if rows == USERS else USERS
        table = self._factors.of(rows)
        if subset is not None:
            asked = subset.select(self._key(subset, rows).alias("asked"))
            table = table.join(asked, as_key(table, rows) == F.col("asked"), "left_semi")
        # The lists are made for users; here the rows take their part.
        listed = table.select(
            F.col("number").alias(USERS.rows), F.col("id").alias("user"), F.col("features").alias("factors"), "bias"
        )
        hidden = None if excluded is None else self._hidden(excluded, rows)
        users = spread_users(listed, hidden, n_hidden=0 if hidden is None else hidden.count())
        candidates = self._candidates(columns)
        lists = best_lists(users, candidates.labels.type, lasting(users.sparkSession, candidates), n=n)
        entries = F.transform(
            "recommendations",
            lambda entry: F.struct(entry["item_id"].alias(self._column(columns)[0]), entry["score"].alias("rating")),
        )
        return lists.select(F.col("user").alias(self._column(rows)[0]), entries.alias("recommendations"))

    def _hidden(self, excluded: DataFrame, rows: Side) -> DataFrame:
        """Return pairs of ids as numbers; those of unknown ids drop out."""
        hidden = excluded.select(*(self._key(excluded, side).alias(f"{side.name}_key") for side in (USERS, ITEMS)))
        for side in (USERS, ITEMS):
            hidden = hidden.join(self._factors.numbers(side), f"{side.name}_key").drop(f"{side.name}_key")
        return hidden.select(F.col(rows.rows).alias(USERS.rows), F.col(rows.columns).alias(ITEMS.rows))

    def _candidates(self, side: Side) -> Candidates:
        found = self._factors
        rows = found.of(side).toArrow().combine_chunks()
        features, bias, labels = (rows[name].combine_chunks() for name in ("features", "bias", "id"))
        return Candidates.from_items(
            labels,
            rows["number"].to_numpy(),
            vectors_from_columns(features, bias, biases=found.biases),
            rows["n_ratings"].to_numpy(),
            n_items=found.n_rows(side),
            global_mean=found.global_mean,
            biases=found.biases,
        )
