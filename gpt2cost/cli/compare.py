"""`gpt2cost compare`: the same work on several candidates."""

from __future__ import annotations

import dataclasses

from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import LogitsFlags, OutputFlags, PhaseFlag, SizeFlags, required, takes
from gpt2cost.cli.many import ManyFlags
from gpt2cost.errors import InputError
from gpt2cost.output.messages import print_warnings
from gpt2cost.prediction.compare import compare_choices
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.settings import check_sizes
from gpt2cost.prediction.sweep import plan

MOST = 20
"""The most candidates that can be put side by side."""


@takes
def compare(
    *,
    many: ManyFlags,
    sizes: SizeFlags,
    phase: PhaseFlag = "both",
    outputs: LogitsFlags,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Compare models, devices, dtypes, attention implementations, runtimes or --impl, each against the first.

    Shows the ratios, the difference by kernel kind, and the batch and sequence length where the ranking changes.
    """
    sink, axes = out.sink(), many.axes()
    for name in ("model", "gpu"):
        required(f"--{name}", axes[name])
    given, use_cache = dataclasses.asdict(sizes), not outputs.no_use_cache
    fixed = {"phase": phase, "logits": outputs.logits, "use_cache": use_cache, "cache_type": outputs.cache_type}
    grid = make_grid(**axes, **given, **fixed)
    choices, warnings = plan(grid, many.model_changes(), many.hw_changes())
    if not 2 <= len(choices) <= MOST:
        print_warnings(warnings)
        reason = "only one runs" if len(choices) == 1 else f"these are {len(choices)}"
        raise InputError(f"compare: expected 2 to {MOST} candidates, such as --gpu a100,h100; {reason}")
    comparison = compare_choices(choices, check_sizes(**given, use_cache=use_cache), phase, warnings)
    print_warnings(comparison.warnings)
    sink.show(comparison.view, comparison)
    exits.leave(all(candidate.prediction.memory.fits for candidate in comparison.candidates))
