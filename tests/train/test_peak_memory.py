"""What a process has held is its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from recsys_spark.train.peak_memory import peak_memory

MIB = 1 << 20
ASK = "from recsys_spark.train.peak_memory import peak_memory; print(peak_memory())"


def test_memory_that_was_given_back_counts() -> None:
    before = peak_memory()
    held = np.ones(before + 64 * MIB, np.uint8)
    size = held.nbytes
    del held
    assert before + 32 * MIB < peak_memory() < before + size + 64 * MIB


def test_memory_of_the_process_that_started_this_one_does_not_count() -> None:
    held = np.ones(512 * MIB, np.uint8)
    told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout
    assert peak_memory() > held.nbytes
    assert MIB < int(told) < held.nbytes // 2
