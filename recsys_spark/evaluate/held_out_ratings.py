"""The split of a run: written once, looked over for leaks, and read by every measure."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluate.leaks import find_leaks, require_no_leaks
from recsys_spark.evaluate.splits import FOLD_IN, HELD_OUT, TRAINING, split_by
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import EVALUATION_SPLIT, INDEXED_RATINGS


@dataclass(frozen=True, slots=True)
class HeldOutRatings:
    """The parts of the split.

    Attributes
    ----------
    training : DataFrame
        What models are fitted to.
    fold_in : DataFrame
        What the vectors of held-out users are solved from.
    held_out : DataFrame
        What is measured on.
    counts : dict of str to int
        Ratings by part.
    from_time : str or None
        First moment of a split by time.
    """

    training: DataFrame
    fold_in: DataFrame
    held_out: DataFrame
    counts: dict[str, int]
    from_time: str | None

    @property
    def known(self) -> DataFrame:
        """All ratings that lists may be made from, and whose items are not listed again."""
        return self.training.unionByName(self.fold_in) if self.counts[FOLD_IN] else self.training

    def known_counts(self) -> DataFrame:
        """Return ``user_index, n_known``: known ratings of the users who have any. One shuffle."""
        return self.known.groupBy("user_index").agg(F.count("*").cast("int").alias("n_known"))


def hold_out(context: StageContext) -> HeldOutRatings:
    """Write ``evaluation_split`` and look it over.

    Raises
    ------
    ContractError
        If it leaks.
    """
    config = context.config.evaluate
    split = split_by(context.read(INDEXED_RATINGS), config)
    context.write(EVALUATION_SPLIT, split.frame)
    written = context.read(EVALUATION_SPLIT)
    require_no_leaks(find_leaks(written, config, split.from_time), context.run.table_path(EVALUATION_SPLIT))
    if context.config.input.columns.weight is None:
        written = written.drop("weight")
    rows = written.groupBy("part").agg(F.count("*").alias("n")).collect()
    counts = {TRAINING: 0, FOLD_IN: 0, HELD_OUT: 0} | {row["part"]: int(row["n"]) for row in rows}
    parts = {name: written.where(F.col("part") == name).drop("part") for name in counts}
    from_time = split.from_time.isoformat() if split.from_time else None
    return HeldOutRatings(parts[TRAINING], parts[FOLD_IN], parts[HELD_OUT], counts, from_time)
