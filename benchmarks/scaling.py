"""Time one training iteration at several sizes, with one core beside all of them, and by both exchanges.

    python benchmarks/scaling.py --sizes 1e6,3e6,1e7 --compared-size 3e6 --rank 64

Every measurement is a process and a Spark session of its own, running ``benchmarks/training.py``. Both numbers of
cores get the same blocks, one per core of the larger number. The last line is ``RESULT {json}``:
``seconds_per_million_by_size`` is seconds per million ratings and iteration with all cores; ``core_scaling`` how
many times as long one core takes at the compared size, and ``route_to_replicate`` how many times as long as
replicating routing takes there. All cores are timed twice at that size, before and after, for cores that others
share are not the same for long.
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
    compared = arguments.compared_size or arguments.sizes[-1]
    seconds = [
        run_training(compared, cores, arguments, exchange)["ours_s_per_iter"]
        for cores, exchange in (
            (arguments.cores, "replicate"),
            (1, "replicate"),
            (arguments.cores, "route"),
            (arguments.cores, "replicate"),
        )
    ]
    first, one_core, routed, last = seconds
    all_cores = (first + last) / 2
    print(f"one core {one_core} s, {arguments.cores} cores {first} and {last} s, routed {routed} s", flush=True)
    result = {
        "rank": arguments.rank,
        "cores": arguments.cores,
        "seconds_per_million_by_size": per_million,
        "compared_size": compared,
        "one_core_s_per_iter": one_core,
        "all_cores_s_per_iter": [first, last],
        "routed_s_per_iter": routed,
        "core_scaling": round(one_core / all_cores, 2),
        "route_to_replicate": round(routed / all_cores, 2),
    }
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time one training iteration at several sizes and numbers of cores.")
    parser.add_argument("--sizes", type=_sizes, default=[1e6, 3e6], help="numbers of ratings (default 1e6,3e6)")
    parser.add_argument("--compared-size", type=float, default=0, help="ratings of the comparisons; default: most")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--loss", choices=["squared", "implicit"], default="squared")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 2, help="default: all")
    parser.add_argument("--iterations", type=int, default=5, help="of the longer fit, at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _sizes(text: str) -> list[float]:
    return sorted(float(size) for size in text.split(","))


def run_training(size: float, cores: int, arguments: argparse.Namespace, exchange: str = "replicate") -> dict[str, Any]:
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
        "exchange": exchange,
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
