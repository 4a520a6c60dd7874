"""The configuration of a pipeline: YAML validated by pydantic, with errors that name the mend."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Literal

import yaml
from pydantic import Field, model_validator

from recsys_spark.config.evaluate import EvaluateConfig
from recsys_spark.config.features import (
    FactorMapConfig,
    FeatureRegressionConfig,
    ItemFeaturesConfig,
    SideInformationConfig,
)
from recsys_spark.config.gate import GateConfig
from recsys_spark.config.history import HistoryConfig
from recsys_spark.config.input import IngestConfig, InputConfig
from recsys_spark.config.neighbours import KnnConfig, SimilarConfig
from recsys_spark.config.recommend import CatalogueConfig, RecommendConfig, TableFile
from recsys_spark.config.section import Section
from recsys_spark.config.tune import TuneConfig


class TrainConfig(Section):
    """The model: a factorization, minimising loss + regularisation by solving both sides in turn; or another one."""

    model: Literal["factors", "user_knn", "item_knn", "feature_regression"] = Field(
        default="factors",
        description="factors: a factorization; user_knn, item_knn: ratings of similar users, or for similar items; "
        "feature_regression: every user's own weights of the item_features",
    )
    knn: KnnConfig = KnnConfig()
    loss: Literal["squared", "implicit", "ials", "logistic"] = Field(
        default="squared",
        description="squared: ratings; implicit: counts as confidence (Hu, Koren, Volinsky; MLlib's implicitPrefs); "
        "ials: positives against all other pairs (Rendle); logistic: labels 0 and 1",
    )
    alpha: float = Field(default=1.0, ge=0, le=1e9, description="implicit: confidence is 1 + alpha * rating")
    unobserved_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="ials, squared: weight of every pair's squared score, which makes top-N lists from ratings good; "
        "squared with it: scores are no longer ratings",
    )
    positive_threshold: float | None = Field(
        default=None,
        description="logistic: ratings from here up are labels 1; implicit, ials: the only ones kept",
    )
    half_life_days: float | None = Field(
        default=None, gt=0, le=1e6, description="a rating's weight halves with every so many days before the latest"
    )
    rank: int = Field(default=32, ge=0, le=1024, description="number of factors; 0: biases only")
    iterations: int = Field(default=15, ge=1, le=1000)
    reg_param: float = Field(default=3.0, gt=0, le=1e9)
    reg_exponent: float = Field(default=0.3, ge=0, le=2, description="0: plain ridge; 1: times the degree (ALS-WR)")
    biases: bool | None = Field(default=None, description="null: yes for squared and logistic, no for the others")
    bias_reg_param: float = Field(default=3.0, gt=0, le=1e9)
    nonnegative: bool = Field(default=False, description="no factor below 0; needs solver auto or cholesky")
    tolerance: float = Field(
        default=1e-4,
        ge=0,
        lt=1,
        description="stop when an iteration lowers the objective by less than this share",
    )
    solver: Literal["auto", "cholesky", "dual", "cg", "subspace", "gradient"] = "auto"
    updates: Literal["alternating", "simultaneous"] = Field(
        default="alternating",
        description="alternating: one side is solved after the other; simultaneous, for solver: gradient: all rows of "
        "both sides step from the same old values, with momentum",
    )
    cg_steps: int = Field(default=3, ge=1, le=1000)
    gradient_steps: int = Field(
        default=5, ge=1, le=100_000, description="per row and half-iteration; simultaneous: per iteration"
    )
    newton_steps: int = Field(default=2, ge=1, le=1000, description="logistic: per row and half-iteration")
    validation_share: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="squared, logistic: share of the ratings kept back to stop training before it overfits",
    )
    patience: int = Field(
        default=2, ge=1, le=1000, description="iterations without a better validation loss before training stops"
    )
    warm_start: bool = Field(default=False, description="start from the newest published model where it fits")
    checkpoint_interval: int | None = Field(
        default=5, ge=1, le=1000, description="iterations between checkpoints; null: none"
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    n_blocks: int | None = Field(default=None, ge=1, le=100_000, description="null: from the size of the data")
    exchange: Literal["auto", "replicate", "route"] = Field(
        default="auto",
        description="replicate: the fixed side goes whole to every task; route: each block is sent what it needs; "
        "auto: replicate where it fits",
    )
    standing_tasks: bool = Field(
        default=True,
        description="Spark on one machine: the tasks of one job serve many half-iterations, which is faster; "
        "false: a job per half-iteration, to be seen in Spark's pages",
    )
    feature_regression: FeatureRegressionConfig = FeatureRegressionConfig()
    side_information: SideInformationConfig | None = None

    @property
    def uses_biases(self) -> bool:
        """Whether the model has biases."""
        return self.loss in ("squared", "logistic") if self.biases is None else self.biases

    @property
    def is_neighbourhood(self) -> bool:
        """Whether predictions are averages over neighbours; else they are products of vectors."""
        return self.model in ("user_knn", "item_knn")

    @property
    def uses_features(self) -> bool:
        """Whether training looks at the items' features."""
        return self.model == "feature_regression" or self.side_information is not None

    @model_validator(mode="after")
    def _check_model(self) -> TrainConfig:
        if self.model != "feature_regression" and self.feature_regression != FeatureRegressionConfig():
            raise ValueError("feature_regression is for model: feature_regression")
        if not self.is_neighbourhood and self.knn != KnnConfig():
            raise ValueError("knn is for model: user_knn and item_knn")
        if self.model == "factors":
            return self
        taken = ("unobserved_weight", "validation_share", "warm_start", "nonnegative", "exchange", "side_information")
        why = "predicts ratings from all of them alike" if self.is_neighbourhood else "solves every user once"
        for name in ("loss", *taken, "half_life_days") if self.is_neighbourhood else (*taken, "updates"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for model: factors; {self.model} {why}")
        if self.model == "feature_regression" and not (self.loss in ("squared", "logistic") and self.uses_biases):
            raise ValueError("feature_regression has biases, and is for loss: squared and logistic")
        return self

    @model_validator(mode="after")
    def _check_together(self) -> TrainConfig:
        if self.rank == 0 and not self.uses_biases:
            raise ValueError("rank 0 needs biases: true, or nothing is left to learn")
        if self.loss == "ials" and self.unobserved_weight == 0:
            raise ValueError("loss: ials needs unobserved_weight above 0, such as 0.1")
        if self.loss in ("implicit", "logistic") and self.unobserved_weight > 0:
            raise ValueError("unobserved_weight is for loss: squared and loss: ials; implicit has alpha instead")
        if self.loss == "squared" and self.positive_threshold is not None:
            raise ValueError("positive_threshold is for loss: implicit, ials and logistic")
        if self.updates == "simultaneous" and self.solver != "gradient":
            raise ValueError("updates: simultaneous is for solver: gradient")
        if self.updates == "simultaneous" and self.exchange == "route":
            raise ValueError("updates: simultaneous needs exchange: replicate")
        if self.side_information is not None and (self.nonnegative or self.updates == "simultaneous"):
            raise ValueError("side_information cannot be combined with nonnegative or updates: simultaneous")
        if self.nonnegative and self.solver not in ("auto", "cholesky"):
            raise ValueError("nonnegative needs solver: auto or cholesky")
        return self

    @model_validator(mode="after")
    def _check_validation(self) -> TrainConfig:
        if self.validation_share > 0 and (self.loss not in ("squared", "logistic") or self.unobserved_weight > 0):
            raise ValueError("validation_share is for loss: squared without unobserved_weight, and loss: logistic")
        if self.validation_share == 0 and self.patience != type(self).model_fields["patience"].default:
            raise ValueError("patience is for validation_share above 0: without it, nothing is judged")
        return self


class OutputConfig(Section):
    """Where everything goes."""

    path: str = Field(min_length=1)
    lease_minutes: float = Field(
        default=15.0,
        gt=0,
        le=1e4,
        description="how long a process that is not heard of keeps others from working on its run",
    )
    check_room: bool = Field(default=True, description="look for room on the disk before the work begins")


class PipelineConfig(Section):
    """One pipeline, from raw log to published table."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    refresh: Literal["all", "affected"] = Field(
        default="all",
        description="all: train, and make every list; affected: keep the published item factors, solve the users whose "
        "ratings changed, make their lists, take the others over",
    )
    input: InputConfig
    ingest: IngestConfig = IngestConfig()
    history: HistoryConfig | None = None
    catalogue: CatalogueConfig | None = None
    item_features: ItemFeaturesConfig | None = None
    train: TrainConfig = TrainConfig()
    recommend: RecommendConfig = RecommendConfig()
    similar_items: SimilarConfig | None = None
    similar_users: SimilarConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    tune: TuneConfig = TuneConfig()
    output: OutputConfig

    @model_validator(mode="after")
    def _check_duplicates(self) -> PipelineConfig:
        if self.ingest.duplicates in ("last", "first") and self.input.columns.timestamp is None:
            raise ValueError(
                f"ingest.duplicates: {self.ingest.duplicates} needs input.columns.timestamp; "
                "without event times use mean, max or sum"
            )
        if self.train.half_life_days is not None and self.input.columns.timestamp is None:
            raise ValueError("train.half_life_days needs input.columns.timestamp")
        if self.recommend.seen_since is not None and self.input.columns.timestamp is None:
            raise ValueError("recommend.seen_since needs input.columns.timestamp")
        if self.recommend.popularity.half_life_days is not None and self.input.columns.timestamp is None:
            raise ValueError("recommend.popularity.half_life_days needs input.columns.timestamp")
        if self.recommend.seen_since is not None and self.ingest.duplicates == "first":
            # The first rating's time would hide that the item was rated again since.
            raise ValueError("recommend.seen_since needs the latest event times: not ingest.duplicates: first")
        return self

    @model_validator(mode="after")
    def _check_history(self) -> PipelineConfig:
        if self.history is not None and self.input.columns.timestamp is None:
            raise ValueError("history keeps ratings by event date: it needs input.columns.timestamp")
        if self.gate.needs_metrics and self.evaluate.holdout_share == 0:
            raise ValueError(
                "gate.max_metric_loss and gate.min_gain_over_popularity need evaluate.holdout_share above 0"
            )
        if self.ingest.cancellations and self.ingest.duplicates != "sum":
            raise ValueError("ingest.cancellations needs ingest.duplicates: sum")
        if self.recommend.new_ratings is not None and (self.ingest.cancellations or self.input.is_by_day):
            raise ValueError(
                "recommend.new_ratings is for a log without ingest.cancellations and without {date}: take the day into "
                "history instead"
            )
        return self

    @model_validator(mode="after")
    def _check_refresh(self) -> PipelineConfig:
        if self.refresh == "affected" and self.train.model != "factors":
            raise ValueError("refresh: affected solves users against item factors: it is for train.model: factors")
        if self.refresh == "affected" and self.recommend.new_ratings is not None:
            raise ValueError(
                "refresh: affected takes the night's ratings from the log: leave out recommend.new_ratings"
            )
        return self

    @property
    def files(self) -> dict[str, TableFile]:
        """The tables beside the log by where they are configured."""
        named = {"catalogue": self.catalogue, "item_features": self.item_features}
        return {where: file for where, file in named.items() if file is not None} | self.recommend.files

    @model_validator(mode="after")
    def _check_variety(self) -> PipelineConfig:
        if self.recommend.max_per_category is not None and (self.catalogue is None or self.catalogue.category is None):
            raise ValueError("recommend.max_per_category needs catalogue.category")
        mmr = self.recommend.mmr
        if mmr is not None and self.train.rank == 0:
            raise ValueError("recommend.mmr compares factors: it needs train.rank above 0")
        if mmr is not None and mmr.pool < self.evaluate.n and self.evaluate.holdout_share > 0:
            raise ValueError(f"recommend.mmr.pool must be at least evaluate.n, {self.evaluate.n}")
        return self

    @property
    def measured_lengths(self) -> tuple[int, ...]:
        """The lengths at which lists are measured, ascending."""
        longest = self.recommend.mmr.pool if self.recommend.mmr is not None else max(self.evaluate.lengths)
        return tuple(length for length in self.evaluate.lengths if length <= longest)

    @property
    def relevant_rating(self) -> float | None:
        """From which rating on a held-out one counts as a hit, by default as training takes it; None: all do."""
        if self.evaluate.relevant_rating is not None or self.train.loss == "squared":
            return self.evaluate.relevant_rating
        if self.train.positive_threshold is not None:
            return self.train.positive_threshold
        # Implicit losses take what is above 0 for a liking.
        return 1.0 if self.train.loss == "logistic" else sys.float_info.min

    @property
    def new_ratings_input(self) -> InputConfig:
        """The log of the ratings that came after the others; ``recommend.new_ratings`` has to be set."""
        return self.input.model_copy(update={"path": self.recommend.new_ratings})

    @model_validator(mode="after")
    def _check_evaluation(self) -> PipelineConfig:
        evaluation, columns = self.evaluate, self.input.columns
        if evaluation.split in ("last_k", "time") and columns.timestamp is None:
            raise ValueError(f"evaluate.split: {evaluation.split} needs input.columns.timestamp")
        if evaluation.split == "users" and self.train.model != "factors":
            raise ValueError("evaluate.split: users folds users in, which is for train.model: factors")
        if evaluation.item_knn and columns.rating is None:
            raise ValueError("evaluate.item_knn averages ratings: it needs input.columns.rating")
        return self

    @model_validator(mode="after")
    def _check_similar(self) -> PipelineConfig:
        for name in ("similar_items", "similar_users"):
            similar = getattr(self, name)
            has_factors = self.train.model == "feature_regression" or (
                self.train.model == "factors" and self.train.rank > 0
            )
            if similar is not None and similar.method == "factors" and not has_factors:
                raise ValueError(
                    f"{name}.method: factors needs train.model: factors with a rank above 0; use cosine, jaccard or llr"
                )
            has_features = name == "similar_items" and self.item_features is not None
            if similar is not None and similar.weight_of_content > 0 and not has_features:
                raise ValueError(f"{name}: features are compared of items, and need item_features")
        if self.train.is_neighbourhood:
            for name in ("new_ratings", "max_per_category", "mmr", "popularity_damping"):
                if getattr(self.recommend, name):
                    raise ValueError(f"recommend.{name} is for train.model: factors")
        if self.train.is_neighbourhood and self.input.columns.rating is None:
            raise ValueError(f"train.model: {self.train.model} averages ratings: it needs input.columns.rating")
        if self.train.is_neighbourhood and self.input.columns.weight is not None:
            raise ValueError(
                f"input.columns.weight is for train.model: factors; {self.train.model} takes all ratings alike"
            )
        return self

    @model_validator(mode="after")
    def _check_features(self) -> PipelineConfig:
        if self.train.uses_features and self.item_features is None:
            raise ValueError("train.model: feature_regression and train.side_information need item_features")
        for name, uses in {
            "recommend.max_new_items": self.recommend.max_new_items > 0,
            "evaluate.holdout_items_share": self.evaluate.holdout_items_share > 0,
        }.items():
            if uses and (self.item_features is None or self.train.is_neighbourhood):
                raise ValueError(f"{name} needs item_features, and train.model: factors or feature_regression")
        needs_map = self.recommend.max_new_items > 0 or self.evaluate.holdout_items_share > 0
        if (
            self.item_features is not None
            and self.item_features.factor_map != FactorMapConfig()
            and not (needs_map and self.train.model == "factors")
        ):
            raise ValueError(
                "item_features.factor_map is for train.model: factors, with recommend.max_new_items or "
                "evaluate.holdout_items_share above 0"
            )
        return self

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the content of the tables."""
        content = self.model_dump(mode="json", exclude={"output", "tune"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def as_yaml(self) -> str:
        """Return the whole configuration, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
