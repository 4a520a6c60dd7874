"""Time one training iteration at several sizes, and with one core beside all of them.

    python benchmarks/scaling.py --sizes 1e6,3e6 --rank 64

Every measurement is a process and a Spark session of its own, running ``benchmarks/training.py``. Both numbers of
cores get the same blocks, one per core of the larger number. The last line is ``RESULT {json}``:
``seconds_per_million_by_size`` is seconds per million ratings and iteration with all cores, ``core_scaling`` how
many times as long one core takes at the largest size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.local_spark import submit_arguments


def main() -> None:
    """Run the measurements and print the result."""
    arguments = parse_arguments()
    per_million = {}
    for size in arguments.sizes:
        found = run_training(size, arguments.cores, arguments)
        per_million[f"{size:g}"] = round(found["ours_s_per_iter"] / found["ratings"] * 1e6, 4)
        print(f"{found['ratings']:,} ratings: {per_million[f'{size:g}']} s per million and iteration", flush=True)
    all_cores = found["ours_s_per_iter"]
    one_core = run_training(arguments.sizes[-1], 1, arguments)["ours_s_per_iter"]
    print(f"one core {one_core} s per iteration, {arguments.cores} cores {all_cores} s", flush=True)
    result = {
        "rank": arguments.rank,
        "cores": arguments.cores,
        "seconds_per_million_by_size": per_million,
        "one_core_s_per_iter": one_core,
        "all_cores_s_per_iter": all_cores,
        "core_scaling": round(one_core / all_cores, 2),
    }
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time one training iteration at several sizes and numbers of cores.")
    parser.add_argument("--sizes", type=_sizes, default=[1e6, 3e6], help="numbers of ratings (default 1e6,3e6)")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--loss", choices=["squared", "implicit"], default="squared")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 2, help="default: all")
    parser.add_argument("--iterations", type=int, default=5, help="of the longer fit, at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _sizes(text: str) -> list[float]:
    return sorted(float(size) for size in text.split(","))


def run_training(size: float, cores: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the training benchmark in a process of its own and return its result."""
    options = {
        "ratings": size,
        "rank": arguments.rank,
        "loss": arguments.loss,
        "against": "nothing",
        "iterations": arguments.iterations,
        "rounds": arguments.rounds,
        "final-iterations": 0,
        "blocks": arguments.cores,
    }
    command = [sys.executable, str(ROOT / "benchmarks" / "training.py")]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {"PYSPARK_SUBMIT_ARGS": submit_arguments(cores)}
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    last = finished.stdout.strip().splitlines()[-1]
    found: dict[str, Any] = json.loads(last.removeprefix("RESULT "))
    return found


if __name__ == "__main__":
    main()
