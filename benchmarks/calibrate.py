"""The check of `calibrate` on the machine at hand: fit it, then put passes that were not used beside predictions.

    python benchmarks/calibrate.py [--quick] [--rounds N] [--keep FOLDER]

Needs the extra `measure`. Takes some ten minutes on two processors; prints the table and the figures of merit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = (
    "target: median error of at most 8 %, worst of at most 25 %, mean within 4 % of 0, where two halves of a"
    " measurement agree within 5 % and the reference product took what it did in the calibration"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="calibrate with --quick")
    parser.add_argument("--rounds", default="8", help="how often all passes are measured")
    parser.add_argument("--keep", type=Path, help="a folder for the hardware file and the measurements")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        device = folder / "machine.yaml"
        quick = ["--quick"] if arguments.quick else []
        gpt2cost("calibrate", "--device", "cpu", *quick, "-o", str(device))
        passes = ("--model", "distilgpt2,gpt2", "--attn", "sdpa,eager", "--dtype", "fp32")
        gpt2cost("validate", "--gpu", str(device), *passes, "--rounds", arguments.rounds)
    print(TARGET)


def gpt2cost(*arguments: str) -> None:
    """Run a command of the tool; what it prints is this benchmark's output."""
    subprocess.run([sys.executable, "-m", "gpt2cost", *arguments], check=True)


if __name__ == "__main__":
    main()
