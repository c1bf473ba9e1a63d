"""`gpt2cost models`: the presets."""

from __future__ import annotations

from gpt2cost.cli.flags import OutputFlags, takes
from gpt2cost.output.catalog import MODELS
from gpt2cost.table.config import list_models


@takes
def models(*, out: OutputFlags) -> None:
    """List the presets."""
    out.sink().show(MODELS, list_models())
