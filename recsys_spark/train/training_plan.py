"""What a training will take, from the degrees alone: blocks, solvers, bytes, memory, time; and what cannot fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from recsys_spark.byte_sizes import human_size, spark_size
from recsys_spark.errors import ConfigError
from recsys_spark.kernels.arrays import IntArray
from recsys_spark.kernels.joint_step import LENGTHS
from recsys_spark.kernels.training_cost import SideCost, side_cost
from recsys_spark.rating_blocks import OBSERVATIONS_PER_SPLIT
from recsys_spark.session import ARROW_POOL_BYTES, SessionLimits
from recsys_spark.train.half_iteration import needs_start, row_problem
from recsys_spark.train.shares import HalfIterationSizes

if TYPE_CHECKING:
    # Workers import this module through its package, and have no pydantic.
    from recsys_spark.config import TrainConfig

_GIB = 1 << 30
_POOL_REMEDY = (
    ", or set spark.executorEnv.ARROW_DEFAULT_MEMORY_POOL=system (other pools reserve 1 GiB of the addresses that this "
    "setting limits)"
)
# Spark's own limit: a row of a table, and one value in it, is addressed by 32-bit integers.
_CELL_BYTES = 2 * _GIB
# Interpreters with their imports, measured with Python 3.12, PySpark 4.3 and pyarrow 25.
WORKER_BASE = 138 << 20
DRIVER_BASE = 150 << 20
# Indexes and offsets that travel beside the vectors, in all copies.
_ROWWISE_BYTES = 16
# Of Spark's driver.
HEAP_BASE = 300 << 20
# Working memory per rating while ratings are split by block, and while blocks of one number are put together.
_SPLIT_BYTES, _ASSEMBLY_BYTES = 60, 96
# Two shared cores: starting a job, moving bytes from process to process, blocking both sides.
SECONDS_PER_JOB, BYTES_PER_SECOND = 0.2, 250e6
_BLOCKING_SECONDS_PER_RATING = 1.5e-6


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a training takes: predicted by a plan, or measured.

    Attributes
    ----------
    broadcast_bytes, returned_bytes : int
        Per iteration, of both sides: sent to every worker, and solved rows on their way to the driver.
    shuffle_bytes_per_iteration : int
        Of both sides: vectors on their way from task to task, before they are compressed.
    largest_block_bytes : int
    worker_bytes, driver_bytes : int
        Peak memory of a Python worker, and of the driver's Python process.
    blocking_seconds, iteration_seconds : float
    """

    broadcast_bytes: int
    returned_bytes: int
    shuffle_bytes_per_iteration: int
    largest_block_bytes: int
    worker_bytes: int
    driver_bytes: int
    blocking_seconds: float
    iteration_seconds: float


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How a training will go.

    Attributes
    ----------
    exchange : str
        How factors reach the ratings: ``replicate`` sends the whole fixed side to every worker, ``route`` sends
        each block what it needs.
    n_ratings, width, iterations, n_blocks : int
        Entries of a vector are its factors and, with biases, the bias; blocks are those of each side.
    users, items : SideCost
        Of the half-iteration that solves that side.
    shuffle_bytes : int
        Once, to block the ratings on both sides.
    blocking_bytes : int
        Held by a worker meanwhile, besides its interpreter.
    driver_heap_bytes : int
        Of the driver's JVM, through which both broadcast and solved rows pass; with ``route`` on one machine, blocks
        of vectors as well.
    predicted : Footprint
    limits : SessionLimits
    """

    exchange: str
    n_ratings: int
    width: int
    biases: bool
    iterations: int
    n_blocks: int
    users: SideCost
    items: SideCost
    shuffle_bytes: int
    blocking_bytes: int
    driver_heap_bytes: int
    predicted: Footprint
    limits: SessionLimits

    @property
    def sides(self) -> dict[str, SideCost]:
        """Both sides by name."""
        return {"users": self.users, "items": self.items}

    @property
    def seconds(self) -> float:
        """Of the whole training, should all iterations be needed."""
        return self.predicted.blocking_seconds + self.iterations * self.predicted.iteration_seconds

    @property
    def n_neighbours(self) -> int:
        """Workers on the driver's machine."""
        return min(self.limits.cores, self.n_blocks) if self.limits.is_local else 0

    @property
    def machine_bytes(self) -> int:
        """Memory of the driver's machine: its two processes and, on one machine, the workers."""
        return self.driver_heap_bytes + self.predicted.driver_bytes + self.n_neighbours * self.predicted.worker_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as it is written down: the footprint's entries beside all others."""
        content = asdict(self)
        predicted = {name: _rounded(value) for name, value in content.pop("predicted").items()}
        for side in self.sides:
            content[side] = {name: _rounded(value) for name, value in content[side].items()}
        limits = content.pop("limits")
        content |= {**predicted, "seconds": _rounded(self.seconds)}
        return {**content, "limits": limits}

    def lines(self, reason: str) -> tuple[str, str]:
        """Return the plan and why it was chosen in two lines, for a log."""
        methods = "; ".join(f"{name} by {describe_methods(side)}" for name, side in self.sides.items())
        split = "".join(
            f"; {side.n_split} {name} split over all blocks" for name, side in self.sides.items() if side.n_split
        )
        predicted = self.predicted
        moved = (
            f"{human_size(predicted.shuffle_bytes_per_iteration)} shuffled"
            if self.exchange == "route"
            else f"{human_size(predicted.broadcast_bytes)} out to every worker and "
            f"{human_size(predicted.returned_bytes)} back"
        )
        return (
            f"{self.exchange} exchange ({reason}), 2 x {self.n_blocks} blocks of at most "
            f"{human_size(predicted.largest_block_bytes)}; {methods}{split}",
            f"expecting {moved} per iteration, {human_size(predicted.worker_bytes)} per "
            f"worker, {human_size(predicted.driver_bytes)} + {human_size(self.driver_heap_bytes)} of heap on the "
            f"driver, {predicted.iteration_seconds:.1f} s per iteration",
        )


def plan_training(
    config: TrainConfig,
    user_degrees: IntArray,
    item_degrees: IntArray,
    n_blocks: int,
    limits: SessionLimits,
    *,
    weighted: bool,
) -> TrainingPlan:
    """Predict what a training takes.

    Parameters
    ----------
    config : TrainConfig
    user_degrees, item_degrees : integer arrays of shape (n_users,), (n_items,)
        Observations of each row; 0 where there are none.
    n_blocks : int
        Per side.
    limits : SessionLimits
    weighted : bool
        Whether observations have weights.

    Returns
    -------
    TrainingPlan
        It may describe what does not fit, see ``refuse_what_cannot_fit``.
    """
    problem, width = row_problem(config), config.rank + config.uses_biases
    users, items = (
        side_cost(
            degrees,
            len(others),
            width,
            problem,
            n_blocks=n_blocks,
            cores=limits.cores,
            has_start=needs_start(problem),
            weighted=weighted,
            splits_hot=config.side_information is None,
        )
        for degrees, others in ((user_degrees, item_degrees), (item_degrees, user_degrees))
    )
    sides = (users, items)
    splitting = min(-(-users.n_ratings // limits.cores), OBSERVATIONS_PER_SPLIT) * _SPLIT_BYTES
    blocking = max(splitting, max(side.largest_block_bytes for side in sides) // 8 * _ASSEMBLY_BYTES)
    predicted = _footprint(sides, width, limits, blocking, has_all_pairs=problem.loss.all_pairs_weight > 0)
    if config.updates == "simultaneous":
        predicted = _simultaneous(predicted, sides, width, config.gradient_steps)
    expected_bytes = 0 if config.side_information is None else items.n_rows * width * 4
    predicted = _with_expected(predicted, expected_bytes)
    return TrainingPlan(
        exchange="replicate",
        n_ratings=users.n_ratings,
        width=width,
        biases=config.uses_biases,
        iterations=config.iterations,
        n_blocks=n_blocks,
        users=users,
        items=items,
        shuffle_bytes=2 * users.n_ratings * (16 if weighted else 12),
        blocking_bytes=blocking,
        driver_heap_bytes=HEAP_BASE + expected_bytes + max(s.broadcast_bytes + 2 * s.returned_bytes for s in sides),
        predicted=predicted,
        limits=limits,
    )


def _footprint(
    sides: tuple[SideCost, SideCost], width: int, limits: SessionLimits, blocking: int, *, has_all_pairs: bool
) -> Footprint:
    broadcast, returned = sum(side.broadcast_bytes for side in sides), sum(side.returned_bytes for side in sides)
    largest_block, n_ratings = max(side.largest_block_bytes for side in sides), sides[0].n_ratings
    both = sum(side.n_rows for side in sides) * width * 4
    # The fixed side's design, once more on its way into another basis; the solved rows, as they come and in place.
    copies = 3 if has_all_pairs else 1
    # Hot rows' sums as they are added up, and the systems that they are solved from.
    splitting_rows = 6 * max(side.sums_bytes for side in sides)
    passing = splitting_rows + max(
        copies * fixed.n_rows * (width + 1) * 4 + rows.returned_bytes + rows.n_rows * width * 4
        for rows, fixed in (sides, sides[::-1])
    )
    moving = (broadcast + returned) / BYTES_PER_SECOND
    return Footprint(
        broadcast_bytes=broadcast,
        returned_bytes=returned,
        shuffle_bytes_per_iteration=0,
        largest_block_bytes=largest_block,
        worker_bytes=WORKER_BASE + max(blocking, *(side.solving_bytes for side in sides)),
        driver_bytes=DRIVER_BASE + both + passing,
        blocking_seconds=4 * SECONDS_PER_JOB + n_ratings * _BLOCKING_SECONDS_PER_RATING / limits.cores,
        iteration_seconds=sum(side.seconds + SECONDS_PER_JOB for side in sides) + moving,
    )


def _simultaneous(one: Footprint, sides: tuple[SideCost, SideCost], width: int, n_steps: int) -> Footprint:
    """Return the footprint of simultaneous steps, from that of one step of each side.

    A third job is sent both sides with their changes, and returns the losses of every row at some lengths.
    """
    both = sum(side.n_rows for side in sides) * width * 4
    # By rows of either side: the larger of both.
    returned = max(side.n_trained for side in sides) * len(LENGTHS) * 8
    return replace(
        one,
        broadcast_bytes=n_steps * (one.broadcast_bytes + 2 * both),
        returned_bytes=n_steps * (one.returned_bytes + returned),
        worker_bytes=one.worker_bytes + 2 * both,
        driver_bytes=one.driver_bytes + 5 * both,
        iteration_seconds=n_steps * (one.iteration_seconds + SECONDS_PER_JOB + 2 * both / BYTES_PER_SECOND),
    )


def _with_expected(one: Footprint, n_bytes: int) -> Footprint:
    """Return the footprint of a training that sends the items what they are drawn towards, too."""
    sent = {name: getattr(one, name) + n_bytes for name in ("broadcast_bytes", "worker_bytes")}
    return replace(one, driver_bytes=one.driver_bytes + 2 * n_bytes, **sent)


def measured_footprint(
    sizes: Sequence[HalfIterationSizes],
    driver_bytes: int,
    blocking_seconds: float,
    iteration_seconds: float,
    *,
    n_jobs: int = 2,
) -> Footprint | None:
    """Return what a training took, from its jobs: those of the last iteration, and the highest peaks.

    None where there were none; ``n_jobs`` is their number in an iteration.
    """
    if not sizes:
        return None
    return Footprint(
        broadcast_bytes=sum(size.broadcast_bytes for size in sizes[-n_jobs:]),
        returned_bytes=sum(size.returned_bytes for size in sizes[-n_jobs:]),
        shuffle_bytes_per_iteration=sum(size.shuffled_bytes for size in sizes[-n_jobs:]),
        largest_block_bytes=max(size.block_bytes for size in sizes),
        worker_bytes=max(size.worker_bytes for size in sizes),
        driver_bytes=driver_bytes,
        blocking_seconds=round(blocking_seconds, 3),
        iteration_seconds=round(iteration_seconds, 3),
    )


def refuse_what_cannot_fit(plan: TrainingPlan) -> None:
    """Stop a training that would run out of memory, and say what to change.

    Raises
    ------
    ConfigError
        If a block, the results of a job, a worker, the driver's heap or its machine would be too small.
    """
    _refuse_large_blocks(plan)
    limits, predicted = plan.limits, plan.predicted
    # What does not grow with the rank; a little more than there is, so that the advice holds.
    rowwise = _ROWWISE_BYTES * (plan.users.n_rows + plan.items.n_rows + 2)
    worker_fixed = WORKER_BASE + rowwise + max(side.working_bytes for side in plan.sides.values())
    instead = ", or set train.exchange: route" if plan.exchange == "replicate" else ""
    larger = max(plan.sides, key=lambda name: plan.sides[name].returned_bytes)
    pool = _POOL_REMEDY if limits.reserved_bytes > ARROW_POOL_BYTES else ""
    _refuse(
        plan,
        "a worker needs more than its part of spark.executor.pyspark.memory",
        (predicted.worker_bytes, limits.worker_bytes, worker_fixed),
        f"raise train.n_blocks above {plan.n_blocks}, or raise spark.executor.pyspark.memory to at least "
        f"{spark_size(predicted.worker_bytes + limits.reserved_bytes)} for each task of an executor{pool}{instead}",
    )
    _refuse_large_results(plan)
    _refuse(
        plan,
        f"the {larger[:-1]} vectors need more than the driver's heap has",
        (plan.driver_heap_bytes, limits.driver_heap_bytes, HEAP_BASE + rowwise),
        f"raise spark.driver.memory to at least {spark_size(plan.driver_heap_bytes)}{instead}",
    )
    _refuse(
        plan,
        f"driver and {'workers' if limits.is_local else 'its Python'} together need more than this machine has",
        (
            plan.machine_bytes,
            limits.machine_bytes,
            HEAP_BASE + DRIVER_BASE + 2 * rowwise + plan.n_neighbours * worker_fixed,
        ),
        "use a machine with more memory",
    )


def _refuse_large_results(plan: TrainingPlan) -> None:
    for name, side in plan.sides.items():
        _refuse(
            plan,
            f"the {name[:-1]} vectors are more than one job may return",
            (side.returned_bytes, plan.limits.result_bytes, _ROWWISE_BYTES * side.n_rows),
            f"raise spark.driver.maxResultSize to at least {spark_size(side.returned_bytes)}",
        )


def _refuse_large_blocks(plan: TrainingPlan) -> None:
    # Solved vectors come to the driver, unless they are routed; ratings never do.
    passed = plan.limits.message_bytes if plan.exchange == "replicate" else None
    for name, side in plan.sides.items():
        for what, largest, allowed in (
            ("ratings", side.largest_block_bytes, _CELL_BYTES),
            ("vectors", side.largest_vectors_bytes, passed or _CELL_BYTES),
        ):
            if largest >= allowed:
                n_blocks = plan.n_blocks * -(-2 * largest // allowed)
                raise ConfigError(
                    f"the {what} of one block of {name} are too large for a cell of a table",
                    where=f"train.n_blocks {plan.n_blocks}",
                    got=human_size(largest),
                    allowed=f"less than {human_size(allowed)}",
                    remedy=f"set train.n_blocks to at least {n_blocks}, or leave it out",
                )


def _refuse(plan: TrainingPlan, what: str, sizes: tuple[int, int | None, int], remedy: str) -> None:
    """Refuse what needs too much: ``sizes`` are needed, allowed, and the part that does not grow with the rank."""
    needed, allowed, fixed = sizes
    if allowed is None or needed <= allowed:
        return
    width = int(plan.width * (allowed - fixed) / (needed - fixed)) if fixed < allowed else 0
    rank = width - plan.biases
    raise ConfigError(
        what,
        where=f"train.rank {plan.width - plan.biases}",
        got=human_size(needed),
        allowed=human_size(allowed),
        remedy=f"lower train.rank to at most {rank}, or {remedy}" if rank >= 1 else remedy,
    )


def describe_methods(side: SideCost) -> str:
    """Return the solver mix of a side in words: the share of its rows by method, most first."""
    if not side.n_trained:
        return "nothing"
    shares = sorted(side.rows_by_method.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{method} {count / side.n_trained:.0%}" for method, count in shares)


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
