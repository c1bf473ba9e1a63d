"""How fast a sweep is: points per second, the whole command, its memory, and the gain over calling `predict` in a loop.

    python benchmarks/sweep.py

The grid has a million points: 5 models x 4 GPUs x 2 dtypes x 25 x 25 x 40 sizes, sdpa.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from gpt2cost import predict, sweep

AXES = {
    "model": "distilgpt2,gpt2,gpt2-medium,gpt2-large,gpt2-xl",
    "gpu": "a100,h100,rtx4090,t4",
    "dtype": "fp32,fp16",
    "batch": "1-25",
    "seq": "16-400+16",
    "cache": "0-624+16",
}
LOOP_POINTS = 200


def main() -> None:
    grid = sweep(**AXES)
    begin = time.perf_counter()
    rows = sum(block.rows for block in grid.blocks())
    evaluated_s = time.perf_counter() - begin
    print(f"evaluation: {rows:,} points in {evaluated_s:.2f} s: {rows / evaluated_s:,.0f} points/s")

    with tempfile.TemporaryDirectory() as folder:
        flags = [text for name, value in AXES.items() for text in (f"--{name}", value)]
        output = Path(folder) / "sweep.csv"
        begin = time.perf_counter()
        command = [sys.executable, "-m", "gpt2cost", "sweep", *flags, "--format", "csv", "-o", str(output)]
        subprocess.run(command, check=True)
        whole_s = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        size = output.stat().st_size
    print(
        f"gpt2cost sweep --format csv -o: {whole_s:.1f} s, {size / 1e6:.0f} MB written, peak memory {peak / 1e6:.0f} MB"
    )

    points = list(islice(grid, LOOP_POINTS))
    begin = time.perf_counter()
    for row in points:
        sizes = {"batch": row["batch_size"], "seq": row["seq_len"], "cache": row["cache_len"]}
        predict(row["model"], row["gpu"], **sizes, dtype=row["dtype"], phase="prefill")
    one_s = (time.perf_counter() - begin) / LOOP_POINTS
    print(f"predict in a loop: {1 / one_s:,.0f} points/s; the sweep is {rows / evaluated_s * one_s:,.0f} times as fast")


if __name__ == "__main__":
    main()
