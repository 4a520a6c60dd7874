"""PySpark's own examples and tests of its ALS, with this package's in their place."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

from pyspark.ml import recommendation
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.ml import ALS, ALSModel
from tests.ml.small_ratings import N_ITEMS, N_USERS

NUMBER = re.compile(r"-?\d+\.\d+(?:\.\.\.)?")
LIST = re.compile(r"Row\((?:item|user)=\[(.*?)\], rating=\[(.*?)\]\)")
# Scores of the three pairs that nobody has rated follow from the first factors, which are drawn in another way.
NEVER_RATED = (0.69, 3.47, -0.89)


def numbers(text: str) -> list[float]:
    return [float(number.rstrip(".")) for number in NUMBER.findall(text)]


def are_near(expected: list[float], found: list[float]) -> bool:
    """Return whether scores of rated pairs agree; five iterations are not the best, so not to the last digit."""
    return len(expected) == len(found) and all(
        abs(a - b) < 0.15 or any(abs(a - never) < 0.01 for never in NEVER_RATED)
        for a, b in zip(expected, found, strict=True)
    )


def is_list(expected: str, found: str) -> bool:
    """Return whether a list has the entries that it should have, best first."""
    (wanted, got) = ([(ids.split(", "), numbers(scores)) for ids, scores in LIST.findall(t)] for t in (expected, found))
    assert len(wanted) == 1
    if len(got) != 1 or sorted(wanted[0][0]) != sorted(got[0][0]) or got[0][1] != sorted(got[0][1], reverse=True):
        return False
    scores = dict(zip(*got[0], strict=True))
    return are_near(wanted[0][1], [scores[name] for name in wanted[0][0]])


class NearNumbers(doctest.OutputChecker):
    """Texts have to agree to the letter, and numbers nearly."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Return whether what was printed is what the example promises."""
        if LIST.search(want):
            return is_list(want, got)
        if not NUMBER.search(want):
            return super().check_output(want, got, optionflags)
        return super().check_output(NUMBER.sub("#", want), NUMBER.sub("#", got), optionflags) and are_near(
            numbers(want), numbers(got)
        )


def test_the_examples_of_its_docstring_hold(spark: SparkSession, tmp_path: Path) -> None:
    names: dict[str, Any] = {"spark": spark, "ALS": ALS, "ALSModel": ALSModel, "temp_path": str(tmp_path)}
    documented = recommendation.ALS.__doc__
    assert documented is not None
    examples = doctest.DocTestParser().get_doctest(documented, names, "ALS", None, None)
    assert len(examples.examples) > 25
    told: list[str] = []
    runner = doctest.DocTestRunner(NearNumbers(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(examples, out=told.append, clear_globs=False)
    assert runner.summarize(verbose=False) == (0, len(examples.examples)), "".join(told)
    assert isinstance(examples.globs["model2"], ALSModel)


def test_a_dataset_of_a_loaded_models_own_tables_is_not_ambiguous(
    spark: SparkSession, model: ALSModel, tmp_path: Path
) -> None:
    model.write().overwrite().save(str(tmp_path))
    loaded = ALSModel().load(str(tmp_path))
    users, items = (
        table.select(F.col("id").alias(name))
        for table, name in ((loaded.userFactors, "user"), (loaded.itemFactors, "item"))
    )
    name = "spark.sql.analyzer.failAmbiguousSelfJoin"
    before = spark.conf.get(name)
    try:
        for is_refused in ("false", "true"):
            spark.conf.set(name, is_refused)
            assert loaded.transform(users.crossJoin(items)).count() == N_USERS * N_ITEMS
    finally:
        spark.conf.set(name, before)
