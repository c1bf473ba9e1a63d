"""Write anew what is generated, and held true by tests: the citations' lines, the accuracy gate, README's output.

    python tests/regenerate.py

Run it after a change of the tool's output, of its constants, or of the transformers version that the tests pin, where
the package is installed in editable mode.
"""

from __future__ import annotations

import itertools
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from gate import GATE, gate_figures
from pages import PAGES, regenerated

from gpt2cost.measure.score import score_evidence
from gpt2cost.table.activations import ACTIVATIONS
from gpt2cost.table.citations import LINES_FILE, Citation, cited, resolve
from gpt2cost.table.generate_loop import after, before, setup
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, CACHE_TYPES, TableOptions


def transformers_folder() -> Path:
    """Where the installed transformers lies; it is not imported."""
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def all_citations() -> tuple[Citation, ...]:
    """Every citation that any table makes."""
    switches = itertools.product(ATTENTION_IMPLEMENTATIONS, ACTIVATIONS, (False, True), (False, True))
    for attn, activation, upcast, use_cache in switches:
        cost_table(TableOptions(attn, activation, upcast, use_cache))
    for attn, padded, sample in itertools.product(("eager", "sdpa"), (False, True), (False, True)):
        for cache_type in CACHE_TYPES:
            options = TableOptions(attn, padded=padded, cache_type=cache_type, in_generate=True)  # type: ignore[arg-type]
            cost_table(options), setup(True), before(options), after(options, sample)
    return cited()


def citation_lines() -> dict[str, object]:
    """The content of citations.json for the installed transformers."""
    folder = transformers_folder()
    lines = {citation.key: resolve(citation, folder) for citation in all_citations()}
    return {"transformers": version("transformers"), "lines": dict(sorted(lines.items()))}


if __name__ == "__main__":
    LINES_FILE.write_text(json.dumps(citation_lines(), indent=1) + "\n", "utf-8")
    figures = gate_figures(score_evidence())
    GATE.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    for page in PAGES:
        page.write_text(regenerated(page), "utf-8")
