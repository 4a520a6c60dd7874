from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys_spark.config.features import ItemFeaturesConfig
from recsys_spark.config.file import load_config
from recsys_spark.config.reference import reference
from recsys_spark.errors import ConfigError
from tests.conftest import ROOT

NO_POPULATION = {"population": False, "population_reg_param": 1.0}


def feature(**settings: object) -> dict[str, dict[str, object]]:
    return {"item_features": {"path": "x", "features": {"a": settings}}}


def message(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_every_shipped_configuration_is_valid() -> None:
    files = sorted((Path(__file__).parent.parent.parent / "conf").glob("*.yaml"))
    assert files
    for file in files:
        assert load_config(file).name


def test_shipped_configurations_count_what_was_not_rated() -> None:
    """Lists from rated pairs alone are no better than what is popular: see docs/quality.md."""
    for file in (ROOT / "conf").glob("*.yaml"):
        train = load_config(file).train
        assert train.unobserved_weight > 0 or train.loss == "implicit", file.name


def test_hits_are_what_training_takes_for_a_liking_unless_told_otherwise(write_config: Callable[..., str]) -> None:
    def hits(train: dict[str, object], **evaluate: object) -> float | None:
        return load_config(write_config(train=train, evaluate=evaluate)).relevant_rating

    assert hits({}) is None
    assert hits({}, relevant_rating=4) == 4
    assert hits({"loss": "logistic"}) == 1
    assert hits({"loss": "logistic", "positive_threshold": 3.5}) == 3.5
    ials = {"loss": "ials", "unobserved_weight": 0.1}
    assert 0 < hits(ials) < 1e-300
    assert hits({**ials, "positive_threshold": 4}) == 4
    assert hits({**ials, "positive_threshold": 4}, relevant_rating=2) == 2


def test_unknown_key_names_file_field_and_nearest_key(write_config: Callable[..., str]) -> None:
    path = write_config(train={"rnak": 3})
    text = message(path)
    assert f"{path}: train.rnak: unknown key" in text
    assert "did you mean train.rank?" in text
    assert "allowed: model, knn, loss, alpha" in text


def test_key_in_the_wrong_section_is_sent_to_the_right_one(write_config: Callable[..., str]) -> None:
    assert "did you mean train.iterations?" in message(write_config(iterations=3))
    assert "did you mean ingest.duplicates?" in message(write_config(train={"duplicates": "max"}))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"train": {"rank": "12"}}, "train.rank: Input should be a valid integer"),
        ({"train": {"rank": True}}, "train.rank: Input should be a valid integer"),
        ({"train": {"rank": 2.5}}, "train.rank: Input should be a valid integer"),
        ({"train": {"reg_param": -0.1}}, "train.reg_param: Input should be greater than 0"),
        ({"train": {"reg_param": float("nan")}}, "train.reg_param"),
        ({"train": {"reg_param": float("inf")}}, "train.reg_param: Input should be a finite number"),
        ({"train": {"positive_threshold": float("nan")}}, "train.positive_threshold: Input should be a finite number"),
        ({"ingest": {"rating_range": [1.0, float("nan")]}}, "ingest.rating_range"),
        ({"train": {"model": "item_knn", "nonnegative": True}}, "nonnegative is for model: factors"),
        ({"train": {"model": "user_knn", "exchange": "route"}}, "exchange is for model: factors"),
        ({"train": {"model": "user_knn"}, "recommend": {"mmr": {}}}, "recommend.mmr is for train.model: factors"),
        (
            {"train": {"model": "user_knn"}, "input": {"columns": {"rating": None}}},
            "user_knn averages ratings: it needs input.columns.rating",
        ),
        ({"train": {"loss": "ials"}}, "needs unobserved_weight above 0"),
        ({"train": {"loss": "logistic", "unobserved_weight": 0.1}}, "unobserved_weight is for loss: squared"),
        ({"train": {"positive_threshold": 4.0}}, "positive_threshold is for loss: implicit"),
        ({"train": {"nonnegative": True, "solver": "cg"}}, "nonnegative needs solver: auto or cholesky"),
        ({"train": {"updates": "simultaneous"}}, "updates: simultaneous is for solver: gradient"),
        (
            {"train": {"updates": "simultaneous", "solver": "gradient", "exchange": "route"}},
            "updates: simultaneous needs exchange: replicate",
        ),
        ({"train": {"loss": "implicit", "rank": 0}}, "rank 0 needs biases: true"),
        ({"train": {"rank": 0}, "similar_users": {}}, "similar_users.method: factors needs train.model: factors"),
        (
            {"train": {"model": "user_knn"}, "similar_items": {"method": "factors"}},
            "similar_items.method: factors needs train.model: factors",
        ),
        ({"similar_items": {"relevant_rating": 4.0}}, "relevant_rating is for method: cosine, jaccard and llr"),
        ({"train": {"model": "item_knn", "loss": "implicit"}}, "loss is for model: factors; item_knn predicts ratings"),
        ({"train": {"model": "user_knn", "warm_start": True}}, "warm_start is for model: factors"),
        (
            {"train": {"model": "user_knn"}, "input": {"path": "x.csv", "columns": {"weight": "w"}}},
            "input.columns.weight is for train.model: factors",
        ),
        (
            {"train": {"model": "feature_regression"}},
            "feature_regression and train.side_information need item_features",
        ),
        ({"train": {"side_information": {}}}, "feature_regression and train.side_information need item_features"),
        (
            {"train": {"model": "feature_regression", "loss": "ials", "biases": True}},
            "is for loss: squared and logistic",
        ),
        ({"train": {"model": "feature_regression", "biases": False}}, "feature_regression has biases"),
        ({"train": {"model": "feature_regression", "warm_start": True}}, "warm_start is for model: factors"),
        ({"train": {"side_information": {}, "nonnegative": True}}, "side_information cannot be combined with"),
        ({"item_features": {"path": "x", "features": {}}}, "name at least one column"),
        ({"item_features": {"path": "x", "features": {"item_id": {"kind": "text"}}}}, "it cannot be a feature"),
        ({"item_features": {"path": "x", "features": {"a": {"kind": "texts"}}}}, "features.a.kind: Input should be"),
        (
            {"item_features": {"path": "x", "features": {"a": {"kinds": 1}}}},
            "did you mean item_features.features.a.kind?",
        ),
        (
            {"item_features": {**feature(kind="text")["item_features"], "format": "parquet", "delimiter": ";"}},
            "delimiter is for format: csv; it does nothing for format: parquet",
        ),
        (
            {"recommend": {"deny": {"path": "x", "format": "parquet", "encoding": "iso-8859-1"}}},
            "encoding is for format: csv and jsonl; it does nothing for format: parquet",
        ),
        (feature(kind="numeric", separator="|"), "features.a: separator is for kind: multi_valued; it does nothing"),
        (feature(kind="categorical", separator=","), "separator is for kind: multi_valued"),
        (feature(kind="numeric", n_hashes=9), "n_hashes is for kind: text; it does nothing for kind: numeric"),
        (feature(kind="multi_valued", n_hashes=256), "n_hashes is for kind: text"),
        (feature(kind="text", min_items=2), "min_items is for kind: categorical and multi_valued"),
        (feature(kind="numeric", max_values=5), "max_values is for kind: categorical and multi_valued"),
        (
            {"train": {"feature_regression": {"population_reg_param": 1.0}}},
            "feature_regression is for model: feature_regression",
        ),
        (
            {"train": {"model": "feature_regression", "feature_regression": NO_POPULATION}} | feature(kind="text"),
            "population_reg_param is for population: true",
        ),
        (
            {"item_features": {**feature(kind="text")["item_features"], "factor_map": {"reg_param": 1.0}}},
            "item_features.factor_map is for train.model: factors, with recommend.max_new_items",
        ),
        (
            {
                "item_features": {**feature(kind="text")["item_features"], "factor_map": {"min_ratings": 1}},
                "train": {"model": "feature_regression"},
                "recommend": {"max_new_items": 1},
            },
            "item_features.factor_map is for train.model: factors",
        ),
        (
            {"evaluate": {"holdout_share": 0, "holdout_items_share": 0.1}} | feature(kind="text"),
            "holdout_items_share needs holdout_share above 0",
        ),
        (
            {"similar_items": {"method": "content", "shrink": 1.0}} | feature(kind="text"),
            "shrink is about ratings, and does nothing for method: content",
        ),
        ({"recommend": {"max_new_items": 1}}, "recommend.max_new_items needs item_features"),
        ({"evaluate": {"holdout_items_share": 0.1}}, "evaluate.holdout_items_share needs item_features"),
        ({"similar_items": {"method": "content"}}, "features are compared of items, and need item_features"),
        ({"similar_users": {"content_weight": 0.5}}, "features are compared of items, and need item_features"),
        ({"similar_items": {"method": "llr", "content_weight": 0.5}}, "content_weight is for method: factors"),
        ({"train": {"half_life_days": 30.0}}, "half_life_days needs input.columns.timestamp"),
        ({"train": {"solver": "lu"}}, "'cg', 'subspace' or 'gradient'"),
        ({"train": {"rank": 0, "biases": False}}, "rank 0 needs biases: true"),
        ({"ingest": {"rating_range": [5, 1]}}, "rating_range must be [lowest, highest]"),
        ({"ingest": {"duplicates": "last"}}, "ingest.duplicates: last needs input.columns.timestamp"),
        ({"input": {"columns": {"user": 0}}}, "column numbers need header: false"),
        ({"input": {"header": False}}, "header: false needs column numbers from 0"),
        ({"input": {"columns": {"user": "a", "item": "a"}}}, "one column is mapped twice"),
        ({"input": {"path": []}}, "path must name at least one file"),
        ({"recommend": {"seen_since": "2026-01-01"}}, "recommend.seen_since needs input.columns.timestamp"),
        (
            {
                "recommend": {"seen_since": "2026-01-01"},
                "ingest": {"duplicates": "first"},
                "input": {"path": "x.csv", "columns": {"timestamp": "at"}},
            },
            "not ingest.duplicates: first",
        ),
        ({"recommend": {"seen_since": "1 May"}}, "recommend.seen_since: Invalid isoformat string"),
        ({"recommend": {"seen_since": "2026-01-01", "exclude_seen": False}}, "seen_since needs exclude_seen: true"),
        ({"recommend": {"deny": {"path": ""}}}, "recommend.deny.path: String should have at least 1 character"),
        ({"recommend": {"n": 0}}, "recommend.n: Input should be greater than or equal to 1"),
        (
            {"evaluate": {"holdout_share": 1.5}},
            "evaluate.holdout_share: Input should be less than or equal to 0.9",
        ),
        ({"evaluate": {"split": "last_k"}}, "evaluate.split: last_k needs input.columns.timestamp"),
        ({"evaluate": {"split": "users"}, "train": {"model": "item_knn"}}, "which is for train.model: factors"),
        ({"evaluate": {"split": "random", "from_day": "2026-01-01"}}, "from_day is for split: time"),
        ({"evaluate": {"last_k": 3}}, "last_k is for split: last_k"),
        ({"evaluate": {"fold_in_share": 0.5}}, "fold_in_share is for split: users"),
        ({"evaluate": {"knn": {"k": 5}}}, "knn is for item_knn: true"),
        ({"train": {"knn": {"k": 5}}}, "knn is for model: user_knn and item_knn"),
        ({"train": {"patience": 5}}, "patience is for validation_share above 0"),
        ({"input": {"path": "x", "format": "jsonl", "delimiter": ";"}}, "delimiter does nothing for format: jsonl"),
        ({"input": {"path": "x", "format": "parquet", "encoding": "iso-8859-1"}}, "encoding does nothing for format"),
        ({"input": {"path": "x", "empty_days": "warn"}}, "empty_days is for a path with {date}"),
        ({"evaluate": {"at": [0]}}, "lengths of lists are from 1 to 1000"),
        ({"evaluate": {"activity_bounds": [5, 5]}}, "activity_bounds must be ascending"),
        ({"tune": {"space": {"rank": [8, 8]}}}, "rank needs at least one value, and none twice"),
        ({"tune": {"space": {"rank": []}}}, "rank needs at least one value"),
        ({"tune": {"space": {"ranks": [8]}}}, "did you mean tune.space.rank?"),
        ({"name": "../x"}, "name: String should match pattern"),
        ({"refresh": "some"}, "refresh: Input should be 'all' or 'affected'"),
        ({"refresh": "affected", "train": {"model": "item_knn"}}, "it is for train.model: factors"),
        ({"refresh": "affected", "recommend": {"new_ratings": "x.csv"}}, "leave out recommend.new_ratings"),
    ],
)
def test_bad_values_are_refused(write_config: Callable[..., str], section: dict[str, object], expected: str) -> None:
    assert expected in message(write_config(**section))


def test_all_problems_are_listed_at_once(write_config: Callable[..., str]) -> None:
    text = message(write_config(train={"rank": -1, "seed": "x"}, recommend={"n": 0}))
    assert "3 problems" in text
    assert "got: -1" in text


def test_missing_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\noutput: {path: o}\n")
    assert "input: missing" in message(str(path))


def test_overrides_are_read_as_yaml_and_win(write_config: Callable[..., str]) -> None:
    config = load_config(
        write_config(), ["train.rank=7", "ingest.rating_range=[1, 5]", "input.delimiter=;", "train.rank=8"]
    )
    assert config.train.rank == 8
    assert config.ingest.rating_range == (1, 5)
    assert config.input.delimiter == ";"


def test_bad_override_is_named_as_the_source(write_config: Callable[..., str]) -> None:
    path = write_config()
    assert "--set train.rank: train.rank: Input should be" in message(path, "train.rank=x")
    assert "did you mean train.rank?" in message(path, "train.rnk=3")
    assert "--set takes key.path=value" in message(path, "train.rank")
    assert "the value is not valid YAML" in message(path, "recommend.on_date=2026-02-30")
    assert "name is a value, not a section" in message(path, "name.x=1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: [1\n", "not valid YAML"),
        ("name: a\nname: b\n", "the key 'name' stands twice"),
        ("name: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("name: \x00\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert expected in message(str(path))


def test_absent_file_lists_the_others(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("name: x")
    text = message(str(tmp_path / "c.yaml"))
    assert "does not exist" in text
    assert "other.yaml" in text


def test_the_page_of_settings_is_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "recsys-spark settings > docs/configuration.md"
    for line in ("| `rank` | int >= 0 and <= 1024 | `32` |", "## `input.columns`", "| `path` | text | (required) |"):
        assert line in page


def test_fingerprint_follows_content_not_place(write_config: Callable[..., str]) -> None:
    path = write_config()
    base = load_config(path).fingerprint()
    assert load_config(path, ["output.path=elsewhere"]).fingerprint() == base
    assert load_config(path, ["tune.trials=3"]).fingerprint() == base, "a search does not change the tables"
    assert load_config(path, ["train.seed=1"]).fingerprint() != base


def test_yaml_of_a_configuration_is_the_same_configuration(write_config: Callable[..., str], tmp_path: Path) -> None:
    recommend = {"seen_since": "2026-01-01", "deny": {"path": "deny.csv"}}
    columns = {"timestamp": "at"}
    config = load_config(write_config(input={"columns": columns}, ingest={"rating_range": [1, 5]}, recommend=recommend))
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.as_yaml())
    assert load_config(copy) == config


def test_stored_settings_of_features_are_those_of_their_kinds_and_can_be_read_again() -> None:
    columns = {
        "a": {"kind": "numeric", "weight": 2.0},
        "b": {"kind": "categorical", "min_items": 3},
        "c": {"kind": "multi_valued", "separator": ";", "max_values": 7},
        "d": {"kind": "text"},
    }
    config = ItemFeaturesConfig.model_validate({"path": "x", "features": columns})
    stored = config.model_dump(mode="json")
    assert {name: set(column) for name, column in stored["features"].items()} == {
        "a": {"kind", "weight"},
        "b": {"kind", "weight", "min_items", "max_values"},
        "c": {"kind", "weight", "min_items", "max_values", "separator"},
        "d": {"kind", "weight", "n_hashes"},
    }
    assert ItemFeaturesConfig.model_validate(stored).model_dump() == config.model_dump()
