"""The configuration of a pipeline: YAML validated by pydantic, with errors that name the mend."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field, model_validator

from recsys_spark.config_section import Section
from recsys_spark.evaluate_config import EvaluateConfig
from recsys_spark.neighbour_config import KnnConfig, SimilarConfig
from recsys_spark.recommend_config import CatalogueConfig, RecommendConfig, TableFile
from recsys_spark.tune_config import TuneConfig

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Column = Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=0)]


class RatingColumns(Section):
    """Which columns of the input hold what; numbers (from 0) where the file has no header."""

    user: Column = "user_id"
    item: Column = "item_id"
    rating: Column | None = Field(default="rating", description="null: every row counts as a rating of 1")
    timestamp: Column | None = Field(default=None, description="event time; null: the log has none")
    weight: Column | None = Field(default=None, description="how much a rating counts, above 0; null: all count 1")


class InputConfig(Section):
    """The raw rating log."""

    path: str | list[str] = Field(description="a file, folder or glob, or several")
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=8)
    header: bool = True
    quote: str = Field(default='"', max_length=1, description="empty: quotes are ordinary characters")
    encoding: Literal["utf-8", "iso-8859-1"] = "utf-8"
    columns: RatingColumns = RatingColumns()
    timestamp_format: str = Field(
        default="unix_seconds",
        min_length=1,
        description="unix_seconds, unix_millis, iso, or a date pattern such as yyyy-MM-dd HH:mm:ss (UTC)",
    )

    @pydantic.field_validator("delimiter")
    @classmethod
    def _read_escape(cls, value: str) -> str:
        if any(character in value for character in "\r\n"):
            raise ValueError("a line end cannot be the delimiter")
        # In single quotes or on a command line, YAML leaves a backslash and a t.
        return value.replace("\\t", "\t")

    @property
    def paths(self) -> list[str]:
        """The input paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)

    @model_validator(mode="after")
    def _check_together(self) -> InputConfig:
        if not self.paths or not all(self.paths):
            raise ValueError("path must name at least one file, folder or glob")
        named = [c for c in (getattr(self.columns, role) for role in RatingColumns.model_fields) if c is not None]
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote must differ")
        if self.format != "csv" and any(isinstance(c, int) for c in named):
            raise ValueError("column numbers are for csv files without a header; name the columns")
        if self.format == "csv" and self.header == any(isinstance(c, int) for c in named):
            if self.header:
                raise ValueError("column numbers need header: false; with a header, name the columns")
            raise ValueError("header: false needs column numbers from 0, such as {user: 0, item: 1, rating: 2}")
        if len(set(named)) < len(named):
            raise ValueError(
                f"one column is mapped twice; each of {', '.join(RatingColumns.model_fields)} needs its own"
            )
        return self


class IngestConfig(Section):
    """What counts as a rating, and what happens to the rest."""

    rating_range: tuple[float, float] | None = Field(default=None, description="lowest and highest valid rating")
    duplicates: Literal["last", "first", "mean", "sum", "max"] = Field(
        default="max", description="how several ratings of one user for one item become one"
    )
    max_quarantined_share: Share = Field(default=0.05, description="more than this share stops the run")
    max_id_length: int = Field(default=512, ge=1, le=100_000, description="in characters")

    @pydantic.field_validator("rating_range", mode="before")
    @classmethod
    def _as_pair(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_range(self) -> IngestConfig:
        if self.rating_range is not None and not self.rating_range[0] <= self.rating_range[1]:
            raise ValueError("rating_range must be [lowest, highest]")
        return self


class TrainConfig(Section):
    """The model: a factorization, minimising loss + regularisation by solving both sides in turn; or neighbours."""

    model: Literal["factors", "user_knn", "item_knn"] = Field(
        default="factors",
        description="factors: a factorization; user_knn, item_knn: ratings of similar users, or for similar items",
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
        "both sides step from the same old values",
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

    @property
    def uses_biases(self) -> bool:
        """Whether the model has biases."""
        return self.loss in ("squared", "logistic") if self.biases is None else self.biases

    @model_validator(mode="after")
    def _check_model(self) -> TrainConfig:
        if self.model != "factors":
            taken = ("loss", "unobserved_weight", "half_life_days", "validation_share", "warm_start", "nonnegative")
            for name in (*taken, "exchange"):
                default = type(self).model_fields[name].default
                if getattr(self, name) != default:
                    raise ValueError(
                        f"{name} is for model: factors; {self.model} predicts ratings from all of them alike"
                    )
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
        if self.validation_share > 0 and (self.loss not in ("squared", "logistic") or self.unobserved_weight > 0):
            raise ValueError("validation_share is for loss: squared without unobserved_weight, and loss: logistic")
        if self.updates == "simultaneous" and self.solver != "gradient":
            raise ValueError("updates: simultaneous is for solver: gradient")
        if self.updates == "simultaneous" and self.exchange == "route":
            raise ValueError("updates: simultaneous needs exchange: replicate")
        if self.nonnegative and self.solver not in ("auto", "cholesky"):
            raise ValueError("nonnegative needs solver: auto or cholesky")
        return self


class OutputConfig(Section):
    """Where everything goes."""

    path: str = Field(min_length=1)


class PipelineConfig(Section):
    """One pipeline, from raw log to published table."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    input: InputConfig
    ingest: IngestConfig = IngestConfig()
    catalogue: CatalogueConfig | None = None
    train: TrainConfig = TrainConfig()
    recommend: RecommendConfig = RecommendConfig()
    similar_items: SimilarConfig | None = None
    similar_users: SimilarConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
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

    @property
    def files(self) -> dict[str, TableFile]:
        """The tables beside the log by where they are configured."""
        return ({} if self.catalogue is None else {"catalogue": self.catalogue}) | self.recommend.files

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
            has_factors = self.train.model == "factors" and self.train.rank > 0
            if similar is not None and similar.method == "factors" and not has_factors:
                raise ValueError(
                    f"{name}.method: factors needs train.model: factors with a rank above 0; use cosine, jaccard or llr"
                )
        if self.train.model != "factors":
            for name in ("new_ratings", "max_per_category", "mmr", "popularity_damping"):
                if getattr(self.recommend, name):
                    raise ValueError(f"recommend.{name} is for train.model: factors")
        if self.train.model != "factors" and self.input.columns.rating is None:
            raise ValueError(f"train.model: {self.train.model} averages ratings: it needs input.columns.rating")
        if self.train.model != "factors" and self.input.columns.weight is not None:
            raise ValueError(
                f"input.columns.weight is for train.model: factors; {self.train.model} takes all ratings alike"
            )
        return self

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the content of the tables."""
        content = self.model_dump(mode="json", exclude={"output", "tune"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def as_yaml(self) -> str:
        """Return the whole configuration, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
