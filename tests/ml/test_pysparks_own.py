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
# Scores of the three pairs that nobody has rated follow from the first factors, which are drawn in another way.
NEVER_RATED = (0.69, 3.47, -0.89)


class NearNumbers(doctest.OutputChecker):
    """Texts have to agree, and numbers that are not of `NEVER_RATED` within 0.15: five iterations are not the best."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Return whether what was printed is what the example promises."""
        if not super().check_output(NUMBER.sub("#", want), NUMBER.sub("#", got), optionflags):
            return False
        expected, found = ([float(text.rstrip(".")) for text in NUMBER.findall(each)] for each in (want, got))
        return all(
            abs(a - b) < 0.15 or any(abs(a - never) < 0.01 for never in NEVER_RATED)
            for a, b in zip(expected, found, strict=False)
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
    assert isinstance(names["model2"], ALSModel)


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
