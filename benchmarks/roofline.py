"""Time one iteration beside what this machine's memory and arithmetic allow, and say where the rest goes.

The bound is the time to gather the fixed vector of every observation once, plus the arithmetic of each row's
method at the rate of this machine's float32 matrix products. Both rates are measured in this run, on all cores at
once, the first on the very tables and indexes of the fit. Between the bound and Spark's time lies the kernel alone,
which is run on the same blocks in plain processes, one per core.

    python benchmarks/roofline.py --ratings 2e6 --rank 64

The last line is ``RESULT {json}``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.local_spark import set_environment

set_environment()

import numpy as np
import numpy.typing as npt

from recsys_spark.kernels.csr_block import CsrBlock, build_csr_block, split_by_block
from recsys_spark.kernels.degree_ladder import padded_lengths
from recsys_spark.kernels.fixed_side import FixedSide
from recsys_spark.kernels.method_choice import MAX_BATCH_FLOATS, Method, choose_methods
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows

Float32Array = npt.NDArray[np.float32]

_GEMM_ORDER = 1024
_GEMM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class HalfIterationWork:
    """One side's blocks, and what their rows are solved from."""

    blocks: list[CsrBlock]
    fixed: FixedSide
    starts: list[Float32Array]
    problem: RowProblem


def main() -> None:
    """Run the measurement and print the result."""
    # The processes that measure import this module too, and need no Spark.
    from benchmarks.training import frame_of, make_config, make_ratings, median_iteration_seconds, our_library
    from recsys_spark.session import build_session, default_parallelism

    arguments = parse_arguments()
    spark = build_session("recsys-benchmark-roofline")
    cores = default_parallelism(spark)
    training, _ = make_ratings(int(arguments.ratings), arguments.seed)
    config = make_config(arguments, cores)
    library = our_library(spark, frame_of(spark, training, cores), training, config)
    library.fit(1)
    model = library.fit(arguments.iterations)
    spark_seconds = median_iteration_seconds(model)
    spark.stop()

    started = time.perf_counter()
    halves = make_work(model, training, config, cores)
    prepare_seconds = sum(seconds for seconds, _ in halves)
    print(f"{len(training.users):,} ratings, {cores} processes, prepared in {time.perf_counter() - started:.1f} s")
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        rounds = [measure(pool, [work for _, work in halves], cores) for _ in range(arguments.rounds)]
    parts = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    print_result(parts, prepare_seconds, spark_seconds, {"ratings": len(training.users), "rank": config.rank})


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time one iteration beside what this machine allows.")
    parser.add_argument("--ratings", type=float, default=2e6, help="how many (default 2e6)")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--loss", choices=["squared", "implicit"], default="squared")
    parser.add_argument("--iterations", type=int, default=6, help="of the fit, at least 2")
    parser.add_argument("--rounds", type=int, default=3, help="of the measurements outside Spark")
    parser.add_argument("--solver", choices=["auto", "cholesky", "dual", "cg"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(against="nothing", exchange="replicate", cg_steps=3)
    arguments = parser.parse_args()
    if arguments.iterations < 2:
        parser.error("--iterations must be at least 2")
    return arguments


def make_work(model: Any, training: Any, config: Any, n_blocks: int) -> list[tuple[float, HalfIterationWork]]:
    """Return both half-iterations after the model's last one, and how long the driver's share of each takes."""
    from recsys_spark.train.half_iteration import prepare_fixed, row_problem

    problem = row_problem(config)
    sides = (
        (training.users, training.items, model.user_vectors, model.item_vectors, model.item_degrees > 0),
        (training.items, training.users, model.item_vectors, model.user_vectors, model.user_degrees > 0),
    )
    halves = []
    for rows, columns, vectors, fixed_vectors, is_trained in sides:
        started = time.perf_counter()
        fixed = prepare_fixed(fixed_vectors, is_trained, 0.0, problem)
        seconds = time.perf_counter() - started
        order, bounds = split_by_block(rows, n_blocks)
        cut = [order[first:last] for first, last in pairwise(bounds)]
        blocks = [build_csr_block(rows[part], columns[part], training.values[part]) for part in cut]
        starts = [vectors[block.row_index] for block in blocks]
        halves.append((seconds, HalfIterationWork(blocks, fixed, starts, problem)))
    return halves


def measure(pool: ProcessPoolExecutor, halves: list[HalfIterationWork], cores: int) -> dict[str, float]:
    """Measure both rates and the kernel once, in seconds per iteration; all cores work at the same time."""
    gather = kernel = kernel_cpu = flops = gathered_bytes = 0.0
    for work in halves:
        gather += max(pool.map(gather_seconds, work.blocks, repeat(work.fixed)))
        times = list(pool.map(kernel_seconds, work.blocks, repeat(work.fixed), work.starts, repeat(work.problem)))
        kernel += max(wall for wall, _ in times)
        kernel_cpu += max(processor for _, processor in times)
        flops += sum(flops_of(block, work.fixed.width, work.problem) for block in work.blocks)
        gathered_bytes += sum(block.nnz for block in work.blocks) * work.fixed.width * 4.0
    gemm_rate = sum(pool.map(gemm_flops_per_second, range(cores)))
    return {
        "bound_gather_s": gather,
        "bound_arithmetic_s": flops / gemm_rate,
        "kernel_s": kernel,
        "kernel_cpu_s": kernel_cpu,
        "gather_gb_per_s": gathered_bytes / gather / 1e9,
        "gemm_gflops": gemm_rate / 1e9,
    }


def gather_seconds(block: CsrBlock, fixed: FixedSide) -> float:
    """Time the gathering of every observation's fixed vector, in the order and the portions of the kernel."""
    per_portion = max(1, MAX_BATCH_FLOATS // fixed.width)
    buffer = np.empty((per_portion, fixed.width), np.float32)
    columns = block.column_index.astype(np.intp)
    started = time.perf_counter()
    for first in range(0, block.nnz, per_portion):
        part = columns[first : first + per_portion]
        fixed.design.take(part, axis=0, out=buffer[: len(part)], mode="clip")
    return time.perf_counter() - started


def kernel_seconds(block: CsrBlock, fixed: FixedSide, start: Float32Array, problem: RowProblem) -> tuple[float, float]:
    """Time the kernel on one block: seconds, and seconds of them that the processor worked for it."""
    started, processor_started = time.perf_counter(), time.process_time()
    solve_rows(block, fixed, problem, start)
    return time.perf_counter() - started, time.process_time() - processor_started


def gemm_flops_per_second(_: int) -> float:
    """Measure this core's rate in square float32 matrix products."""
    left = np.random.default_rng(0).random((_GEMM_ORDER, _GEMM_ORDER), np.float32)
    out = np.empty_like(left)
    np.matmul(left, left, out=out)
    started, n_products = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < _GEMM_SECONDS:
        np.matmul(left, left, out=out)
        n_products += 1
    return 2.0 * _GEMM_ORDER**3 * n_products / elapsed


def flops_of(block: CsrBlock, width: int, problem: RowProblem) -> float:
    """Count the floating-point operations that each row's method needs, padding not counted."""
    degrees = block.degrees.astype(np.float64)
    methods = choose_methods(
        padded_lengths(block.degrees),
        width,
        problem.solver,
        has_start=True,
        cg_steps=problem.cg_steps,
        is_positive=problem.regularization.reg_param > 0,
    )
    product = 2.0 * degrees * width
    per_row = {
        Method.DUAL: product * degrees + 2.0 / 3.0 * degrees**3 + product,
        Method.DIRECT: product * width + 2.0 / 3.0 * float(width) ** 3,
        # One step multiplies by the observations and by their transpose; so does the first residual.
        Method.CG: 2.0 * product * (problem.cg_steps + 1),
    }
    # The objective takes one more product.
    return float(sum(np.sum((per_row[method] + product)[methods == method]) for method in per_row))


def print_result(parts: dict[str, float], prepare_seconds: float, spark_seconds: float, sizes: dict[str, int]) -> None:
    """Print where the time of one iteration goes."""
    bound = parts["bound_gather_s"] + parts["bound_arithmetic_s"]
    rest = spark_seconds - parts["kernel_s"] - prepare_seconds
    rows = {
        f"gathering at {parts['gather_gb_per_s']:.1f} GB/s": parts["bound_gather_s"],
        f"arithmetic at {parts['gemm_gflops']:.0f} GFLOP/s": parts["bound_arithmetic_s"],
        "bound": bound,
        "kernel in plain processes, slowest block": parts["kernel_s"],
        "of which on the processor": parts["kernel_cpu_s"],
        "driver: preparing the fixed side": prepare_seconds,
        "the rest: broadcast, tasks, results": rest,
        "iteration on Spark": spark_seconds,
    }
    print("\nseconds per iteration, both sides\n\n|  | s | share of Spark's |\n|---|---|---|")
    print("\n".join(f"| {name} | {seconds:.3f} | {seconds / spark_seconds:.0%} |" for name, seconds in rows.items()))
    result = sizes | {name: round(value, 4) for name, value in parts.items()}
    result |= {
        "bound_s": round(bound, 4),
        "prepare_s": round(prepare_seconds, 4),
        "rest_s": round(rest, 4),
        "ours_s_per_iter": round(spark_seconds, 4),
        "kernel_to_bound": round(parts["kernel_s"] / bound, 2),
        "ratio_to_bound": round(spark_seconds / bound, 2),
    }
    print("\nRESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
