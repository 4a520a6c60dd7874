"""Explanations of a run whose tables are written by hand: parts add up, positions are those of brute force."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from recsys_spark.cli import main
from recsys_spark.config import PipelineConfig
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization
from recsys_spark.rating_split import are_held_out
from recsys_spark.report.explanation import BLOCKED, SEEN, UserExplanation, _features_of, explain_user
from recsys_spark.report.stored_run import Items, StoredRun
from recsys_spark.report.why_page import print_why, shown_ids
from recsys_spark.runs.publication_log import publish_run
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import (
    CATALOGUE,
    FOLDED_FACTORS,
    ITEM_ELIGIBILITY,
    ITEM_FACTORS,
    ITEM_INDEX,
    NEW_RATINGS,
    POPULARITY,
    RATINGS,
    RECOMMENDATIONS,
    USER_BLOCKS,
    USER_FACTORS,
    USER_SEGMENTS,
    Table,
)
from recsys_spark.train.held_back import VALIDATION_SEED
from tests.conftest import small_config
from tests.reference_rows import RowReference

N_ITEMS, RANK, N = 12, 3, 4
START = datetime(2026, 1, 1)  # UTC, as stored
# Not in the order of their numbers; the last item has ratings, and no vector.
LABELS = [f"i{(5 * k) % N_ITEMS:02}" for k in range(N_ITEMS)]
DENIED, UNTRAINED = LABELS[3], "untrained"
# A time without a zone, in nanoseconds, is how Spark's own are read.
TYPES = {
    "string": pa.string(),
    "int": pa.int32(),
    "float": pa.float32(),
    "double": pa.float64(),
    "timestamp": pa.timestamp("ns"),
    "array<float>": pa.list_(pa.float32()),
}
CASES: dict[str, dict[str, Any]] = {
    "squared": {},
    "no biases": {"biases": False},
    "unobserved": {"unobserved_weight": 0.1},
    "implicit": {"loss": "implicit", "alpha": 2.0, "positive_threshold": 3.0},
    "ials": {"loss": "ials", "unobserved_weight": 0.2, "biases": True},
    "logistic": {"loss": "logistic", "positive_threshold": 3.0},
    "half-life": {"half_life_days": 10.0},
    "validation": {"validation_share": 0.5},
}


class HandWrittenRun:
    """A run with users ``old`` (trained), ``new`` (folded in), ``cold`` and ``stranger`` (without vectors)."""

    def __init__(self, folder: Path, train: dict[str, Any], duplicates: str = "max", **recommend: Any) -> None:
        rng = np.random.default_rng(7)
        train = {"rank": RANK, "reg_param": 0.4, "bias_reg_param": 0.3, "reg_exponent": 0.5, **train}
        sections: dict[str, Any] = {
            "input": {"columns": {"timestamp": "at"}},
            "ingest": {"duplicates": duplicates},
            "train": train,
            "recommend": {"n": N, **recommend},
        }
        self.config = PipelineConfig.model_validate(small_config(folder, sections))
        self.run = Run(self.config.output.path, "r1", "2026-01-05")
        self.biases = self.config.train.uses_biases
        self.mean = {"logistic": 0.3, "squared": 3.5}.get(self.config.train.loss, 0.0) if self.biases else 0.0
        if self.config.train.unobserved_weight:
            self.mean = 0.0
        # Item k has k + 1 ratings.
        self.damping = self.config.recommend.popularity_damping * np.log(np.arange(N_ITEMS) + 2.0)
        self.items = rng.normal(scale=0.6, size=(N_ITEMS, RANK + self.biases)).astype(np.float32)
        self.ratings = {
            "old": {k: float(rng.integers(1, 6)) for k in (0, 2, 5, 7, 8)},
            "new": {k: float(rng.integers(1, 6)) for k in (1, 2)},
        }
        # One of a known item again, one of an item that the model does not know.
        self.newer = {"new": {2: 5.0, 9: 4.0}}
        self.times = {k: START + timedelta(days=int(rng.integers(0, 40))) for k in range(N_ITEMS)}
        self.times[9] = START + timedelta(days=44)  # the latest of all, and new
        together = self.ratings["new"] | self.newer["new"]
        self.vectors = {
            # Training had not settled: something is left over.
            "old": self.solve(self.trained_on(), max(self.times[k] for k in (0, 1, 2, 5, 7, 8))) + 0.01,
            "new": self.solve(together, max(self.times[k] for k in (0, 1, 2, 5, 7, 8, 9))),
        }
        self.write()

    def trained_on(self) -> dict[int, float]:
        """Return the ratings of the trained user that were not kept back: by the hash that the test of it checks."""
        rated = self.ratings["old"]
        if not self.config.train.validation_share:
            return rated
        is_out = are_held_out(0, np.array(list(rated)), 0.5, VALIDATION_SEED)
        assert set(is_out.tolist()) == {True, False}
        return {k: r for (k, r), out in zip(rated.items(), is_out, strict=True) if not out}

    def solve(self, rated: dict[int, float], latest: datetime) -> np.ndarray:
        """Return the exact vector of a user, by the reference."""
        config = self.config.train
        kept = {k: r for k, r in rated.items() if config.loss != "implicit" or r >= 3}
        values, weights = list(kept.values()), None
        if config.loss == "logistic":
            values = [float(r >= 3) for r in values]
        if config.loss == "squared":
            values = [r - self.mean for r in values]
        if config.half_life_days:
            weights = [0.5 ** ((latest - self.times[k]).days / config.half_life_days) for k in kept]
        regularization = Regularization(config.reg_param, config.bias_reg_param, config.reg_exponent, self.biases)
        loss = Loss(config.loss, config.alpha, config.unobserved_weight)
        constant = self.mean if config.loss == "logistic" else 0.0
        return RowReference(kept, values, weights, self.items, constant, regularization, loss).minimum()

    def scores(self, user: str) -> np.ndarray:
        """Score all items, in double precision; log-odds for the logistic loss."""
        vector = self.vectors[user].astype(np.float32).astype(float)
        items = self.items.astype(float)
        if not self.biases:
            return self.mean + items @ vector - self.damping
        return self.mean + items[:, :-1] @ vector[:-1] + items[:, -1] + vector[-1] - self.damping

    def removed(self, user: str) -> set[int]:
        seen = set(self.ratings.get(user, {})) | set(self.newer.get(user, {}))
        return seen | {3} | {"old": {11}, "stranger": {6}}.get(user, set())

    def listed(self, scores: np.ndarray, removed: set[int]) -> list[int]:
        left = [k for k in range(N_ITEMS) if k not in removed]
        return sorted(left, key=lambda k: (-np.float32(scores[k]), LABELS[k]))

    def write(self) -> None:
        width = RANK
        path = Path(self.run.path)
        (path / "stages").mkdir(parents=True)
        (path / "run.json").write_text(json.dumps({"config": self.config.model_dump(mode="json")}))
        (path / "stages" / "train.json").write_text(json.dumps({"global_mean": self.mean, "biases": self.biases}))
        self.table(ITEM_INDEX, [(label, k) for k, label in enumerate([*LABELS, UNTRAINED])])
        self.table(
            ITEM_FACTORS, [(LABELS[k], k, *self.columns(self.items[k], width)[:2], k + 1) for k in range(N_ITEMS)]
        )
        self.table(USER_FACTORS, [(user, 0, *self.columns(self.vectors[user], width)) for user in ("old", "new")])
        self.table(FOLDED_FACTORS, [("new", 1, *self.columns(self.vectors["new"], width))])
        for table, ratings in ((RATINGS, self.ratings), (NEW_RATINGS, self.newer)):
            rows = [
                (user, LABELS[k], r, self.times[k], None, 1, "f")
                for user, mine in ratings.items()
                for k, r in mine.items()
            ]
            extra = [("cold", UNTRAINED, 5.0, START, None, 1, "f")] if table is NEW_RATINGS else []
            self.table(table, rows + extra)
        removed = [(label, "denied" if label == DENIED else None) for label in (*LABELS, UNTRAINED)]
        self.table(ITEM_ELIGIBILITY, removed)
        self.table(USER_BLOCKS, [("old", LABELS[11]), ("stranger", LABELS[6])])
        self.table(CATALOGUE, [(LABELS[0], "[b]Zero[/b]", "A. Writer", None, None, None, None)])
        self.popular = {k: float(3 * k % 7) for k in range(N_ITEMS)}
        self.in_segment = {4: 2.0, 1: 2.0, 3: 9.0}
        popularity = [(None, LABELS[k], count) for k, count in self.popular.items()]
        popularity += [("s", LABELS[k], count) for k, count in self.in_segment.items()]
        self.table(POPULARITY, popularity)
        self.table(USER_SEGMENTS, [("stranger", "s"), ("cold", "too thin")])
        share = np.array([*self.popular.values()]) / sum(c for k, c in self.popular.items() if k != 3)
        self.popularity_of = {
            "cold": np.array([*self.popular.values()]),
            "stranger": share + np.array([self.in_segment.get(k, 0.0) for k in range(N_ITEMS)]),
        }
        self.lists = {user: self.listed(self.scores(user), self.removed(user)) for user in ("old", "new")}
        self.lists |= {user: self.listed(scores, self.removed(user)) for user, scores in self.popularity_of.items()}
        entries = {
            user: [
                {"item_id": LABELS[k], "score": 0.0, "position": place, "source": "cf"}
                for place, k in enumerate(ranked[:N], 1)
            ]
            for user, ranked in self.lists.items()
        }
        self.table(RECOMMENDATIONS, [(user, mine, None, START, "r1", "m") for user, mine in entries.items()])
        publish_run(self.run, LocalStorage())

    def columns(self, vector: np.ndarray, width: int) -> tuple[list[float], float, int]:
        narrow = np.asarray(vector, np.float32)
        return narrow[:width].tolist(), float(narrow[-1]) if self.biases else 0.0, 1

    def table(self, table: Table, rows: list[tuple[Any, ...]]) -> None:
        folder = Path(self.run.table_path(table))
        folder.mkdir()
        columns = {
            field.name: pa.array([row[k] for row in rows], TYPES.get(field.dataType.simpleString()))
            for k, field in enumerate(table.schema.fields)
        }
        pq.write_table(pa.table(columns), folder / "part-0.parquet")

    def explain(self, user: str, item: str | None = None) -> UserExplanation:
        return explain_user(StoredRun.open(self.run, LocalStorage(), None), user, item)


MakeRun = Callable[..., HandWrittenRun]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return lambda case, **recommend: HandWrittenRun(tmp_path, CASES[case], **recommend)


@pytest.mark.parametrize("case", ["squared", "no biases", "logistic"])
def test_damping_is_a_part_of_the_score(make_run: MakeRun, case: str) -> None:
    run = make_run(case, popularity_damping=0.3)
    scores = run.scores("old")
    for k in range(N_ITEMS):
        (one,) = run.explain("old", LABELS[k]).explanations
        assert one.parts["damping"] == pytest.approx(-run.damping[k])
        assert (one.score if one.log_odds is None else one.log_odds) == pytest.approx(scores[k], abs=1e-6)
        assert sum(one.parts.values()) + one.of_history.sum() == pytest.approx(scores[k], abs=1e-6)
        assert one.position == run.listed(scores, run.removed("old") - {k}).index(k) + 1


def test_a_neighbourhood_model_is_not_explained(make_run: MakeRun) -> None:
    run = make_run("squared")
    stored = StoredRun.open(run.run, LocalStorage(), None)
    train = stored.config.train.model_copy(update={"model": "user_knn"})
    with pytest.raises(ConfigError, match="only the scores of factors and of regressions on features"):
        explain_user(replace(stored, config=stored.config.model_copy(update={"train": train})), "old")


@pytest.mark.parametrize("user", ["old", "new"])
@pytest.mark.parametrize("case", list(CASES))
def test_parts_add_up_and_positions_are_those_of_brute_force(make_run: MakeRun, case: str, user: str) -> None:
    run = make_run(case)
    scores, ranked = run.scores(user), run.lists[user]
    for k in range(N_ITEMS):
        explained = run.explain(user, LABELS[k])
        (one,) = explained.explanations
        told = one.score if one.log_odds is None else one.log_odds
        assert told == pytest.approx(scores[k], abs=1e-6)
        assert sum(one.parts.values()) + one.of_history.sum() == pytest.approx(scores[k], abs=1e-6)
        # Of a vector that was solved to the end nothing is left over; of one beside it, just the difference.
        z = np.append(run.items[k, :RANK], [1.0] * run.biases)
        assert one.parts["unsettled"] == pytest.approx(0.01 * z.sum() if user == "old" else 0.0, abs=3e-4)
        removed = run.removed(user)
        assert bool(one.removed_by) == (k in removed)
        assert one.position == run.listed(scores, removed - {k}).index(k) + 1
        assert one.listed_at == (ranked.index(k) + 1 if k in ranked[:N] else None)
        everything = run.listed(scores, set())
        above = [j for j in everything[: everything.index(k)] if j in removed]
        assert sorted(i for found in one.removed_above.values() for i in found) == sorted(LABELS[j] for j in above)
        assert (one.log_odds is None) == (case != "logistic")
        if one.log_odds is not None:
            assert one.score == pytest.approx(1 / (1 + np.exp(-one.log_odds)), rel=1e-6)
    assert explained.source == {"old": "cf", "new": "fold_in"}[user]


def test_the_history_has_new_ratings_in_the_place_of_old_ones(make_run: MakeRun) -> None:
    history = make_run("squared").explain("new").history
    run_ratings = dict(zip(history.item_ids, history.ratings.tolist(), strict=True))
    assert run_ratings[LABELS[2]] == 5.0
    assert set(run_ratings) == {LABELS[1], LABELS[2], LABELS[9]}
    assert history.is_fitted.all()


def test_each_part_of_the_history_is_that_of_its_rating(make_run: MakeRun) -> None:
    run = make_run("squared")
    explained = run.explain("new", LABELS[4])
    together = run.ratings["new"] | run.newer["new"]
    latest = max(run.times.values())
    scores = run.scores("new")
    for label, part in zip(explained.history.item_ids, explained.explanations[0].of_history, strict=True):
        j = LABELS.index(label)
        # Rated just as the item's own bias has it: that says nothing of the user.
        run.vectors["new"] = run.solve({**together, j: run.mean + float(run.items[j, -1])}, latest)
        assert part == pytest.approx(scores[4] - run.scores("new")[4], abs=1e-4)


def test_counts_add_up(tmp_path: Path) -> None:
    run = HandWrittenRun(tmp_path, CASES["ials"], duplicates="sum")
    history = run.explain("new").history
    ratings = dict(zip(history.item_ids, history.ratings.tolist(), strict=True))
    assert ratings == {LABELS[1]: run.ratings["new"][1], LABELS[2]: run.ratings["new"][2] + 5.0, LABELS[9]: 4.0}


def test_ratings_of_items_without_a_vector_are_told_and_take_no_part(make_run: MakeRun) -> None:
    history = make_run("squared").explain("cold").history
    assert history.item_ids == [UNTRAINED]
    assert not history.is_fitted.any()


def test_ratings_below_the_threshold_are_told_and_take_no_part(make_run: MakeRun) -> None:
    run = make_run("implicit")
    history = run.explain("old").history
    expected = {LABELS[k]: rating >= 3 for k, rating in run.ratings["old"].items()}
    assert dict(zip(history.item_ids, history.is_fitted.tolist(), strict=True)) == expected
    assert set(expected.values()) == {True, False}


def test_a_list_is_explained_item_by_item(make_run: MakeRun) -> None:
    run = make_run("squared")
    explained = run.explain("old")
    assert [one.item_id for one in explained.explanations] == [LABELS[k] for k in run.lists["old"][:N]]
    assert [one.position for one in explained.explanations] == [1, 2, 3, 4]
    assert explained.removed == {"denied": 1, BLOCKED: 1, SEEN: 5}


def test_only_ratings_since_a_day_count_as_seen(make_run: MakeRun) -> None:
    run = make_run("squared", seen_since="2026-01-20")
    expected = sum(run.times[k] >= START + timedelta(days=19) for k in run.ratings["old"])
    assert 0 < expected < 5
    assert run.explain("old").removed[SEEN] == expected


@pytest.mark.parametrize("user", ["cold", "stranger"])
def test_without_a_vector_the_position_is_that_of_popularity(make_run: MakeRun, user: str) -> None:
    run = make_run("squared")
    scores = run.popularity_of[user]
    for k in range(N_ITEMS):
        explained = run.explain(user, LABELS[k])
        (one,) = explained.explanations
        assert one.score == pytest.approx(scores[k], rel=1e-6)
        assert one.position == run.listed(scores, run.removed(user) - {k}).index(k) + 1
        assert one.parts == {}
    assert explained.source is None
    assert explained.segment == {"cold": None, "stranger": "s"}[user]


def test_pages_name_titles_and_no_markup(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("logistic")
    stored = StoredRun.open(run.run, LocalStorage(), None)
    for user, item, texts in (
        ("old", LABELS[3], ["not listed: denied; by its score it would stand", "log-odds", "[b]Zero[/b], A. Writer"]),
        (
            "old",
            None,
            ["5 ratings, a vector from training", "kept out for this user: 1 denied, 1 blocked for the user"],
        ),
        ("new", None, ["folded in from ratings that training has not seen"]),
        ("stranger", None, ["no vector: the list is what is popular in segment 's'"]),
        ("cold", LABELS[0], ["no vector: the list is what is popular overall", "its popularity"]),
    ):
        explained = explain_user(stored, user, item)
        titles = stored.titles(shown_ids(explained))
        print_why(Console(width=160), explained, titles, in_full=item is not None)
        printed = capsys.readouterr().out
        for text in texts:
            assert text in printed, (user, item)


def test_unknown_users_and_items_are_named(
    make_run: MakeRun, write_config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("squared")
    with pytest.raises(ContractError, match=r"no such user(.|\n)*got: 'OLD'"):
        run.explain("OLD")
    with pytest.raises(ContractError, match=r"nobody rated it(.|\n)*got: 'I00'"):
        run.explain("old", "I00")
    with pytest.raises(ContractError, match=r"no rating of it was trained on(.|\n)*got: 'untrained'"):
        run.explain("old", UNTRAINED)
    config = write_config()
    assert main(["why", "OLD", "--config", config]) == 3
    assert main(["why", "old", "--config", config, "--date", "2026-02-02"]) == 2
    assert "nothing was published for 2026-02-02" in capsys.readouterr().err
    assert main(["why", "old", "--config", config, "--item", LABELS[1], "--date", "2026-01-05"]) == 0
    assert f"item {LABELS[1]}" in capsys.readouterr().out


def test_hashed_words_are_told_as_the_items_own_and_everything_adds_up() -> None:
    weights = pa.table({"feature": ["year", "plot#0", "plot#1", "plot#2"], "weight": [0.5, -1.0, 0.25, 9.0]})
    # The last column is what the population thinks of the item: of its year and its words, and a bias.
    vectors = np.array([[2.0, 0.5, 0.8, 0.0, 0.75]], np.float32)
    items = Items(pa.array(["a"]), np.zeros(1, np.int32), vectors, np.ones(1, np.float32))
    stored = cast(StoredRun, SimpleNamespace(record=lambda stage: {"global_mean": 3.5}))
    own = np.array([0.1, 0.2, -0.5, 7.0, 0.3], np.float32)
    found = _features_of(weights, own, items, 0, stored, {1: ["school"], 2: ["peace", "war"]})
    expected = {"year": 2 * 0.6, "plot=peace, war": 0.8 * -0.25, "plot=school": 0.5 * -0.8}
    assert list(found)[1:] == list(expected), "what adds most comes first"
    assert found == pytest.approx({**expected, "": 3.5 + 0.3 + 0.75 - (2 * 0.5 - 0.5 + 0.8 * 0.25)}, abs=1e-6)
    assert sum(found.values()) == pytest.approx(3.5 + vectors[0, :-1] @ own[:-1] + 0.75 + 0.3, abs=1e-6)
    # Without words, as of a number, the name is the column's own.
    assert set(_features_of(weights, own, items, 0, stored, {})) == {"", "year", "plot#0", "plot#1"}
