"""Write anew what is generated, and held true by tests: the citations' lines, the residuals that ranges rest on,
the accuracy gate, README's output.

    python tests/regenerate.py

Run it after a change of the tool's output, of its constants, or of the transformers version that the tests pin, where
the package is installed in editable mode.

    pip install --no-deps --target FOLDER transformers==5.7.0; python tests/regenerate.py FOLDER

writes the lines of that version alone: a citation that is new has none in older versions before.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import columns
from gate import GATE, gate_figures
from pages import PAGES, regenerated

from gpt2cost.measure.residuals import residuals_text
from gpt2cost.measure.score import score_evidence
from gpt2cost.prediction.ranges import spread
from gpt2cost.prediction.shipped import RESIDUALS_FILE, shipped
from gpt2cost.table.activations import ACTIVATIONS
from gpt2cost.table.citations import LINES_FILE, Citation, cited, installed_transformers, resolve, shipped_lines
from gpt2cost.table.generate_loop import after, before, setup
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.heads import CLASSIFIES
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, CACHE_TYPES, HEADS, TableOptions
from gpt2cost.table.training import training_table


def all_citations() -> tuple[Citation, ...]:
    """Every citation that any table makes."""
    switches = itertools.product(ATTENTION_IMPLEMENTATIONS, ACTIVATIONS, (False, True), (False, True))
    for attn, activation, upcast, use_cache in switches:
        cost_table(TableOptions(attn, activation, upcast, use_cache, traced=not use_cache))
        cost_table(TableOptions(attn, activation, upcast, use_cache))
    for attn, activation, upcast in itertools.product(ATTENTION_IMPLEMENTATIONS, ACTIVATIONS, (False, True)):
        dropped = ("embd", "attn", "resid")
        training_table(TableOptions(attn, activation, upcast, train=True, dropout=dropped, autocast=True))
    for attn in ATTENTION_IMPLEMENTATIONS:
        cost_table(TableOptions(attn, encoder=True))
    setup(TableOptions(encoder=True), True, True)
    for head in CLASSIFIES:
        training_table(TableOptions(head=head, train=True))
    for head, has_pad_token in itertools.product(HEADS, (False, True)):
        cost_table(TableOptions(head=head, has_pad_token=has_pad_token))
    for attn, padded, sample in itertools.product(("eager", "sdpa"), (False, True), (False, True)):
        for cache_type in CACHE_TYPES:
            options = TableOptions(attn, padded=padded, cache_type=cache_type, in_generate=True)  # type: ignore[arg-type]
            cost_table(options), setup(options, True, True), before(options), after(options, sample)
            cost_table(TableOptions(attn, cache_type=cache_type))  # type: ignore[arg-type]
    return cited()


def lines_in(package: Path) -> dict[str, int | None]:
    """Every citation's line in the transformers at `package`; None for what is not there."""
    lines: dict[str, int | None] = {}
    for citation in all_citations():
        try:
            lines[citation.key] = resolve(citation, package)
        except LookupError:
            lines[citation.key] = None
    return lines


def citations_text(version: str, package: Path) -> str:
    """The content of citations.json with the column of `version` written anew; those of other minors stay."""
    shipped, lines = shipped_lines(), lines_in(package)
    others = [other for other in shipped.versions if other.split(".")[:2] != version.split(".")[:2]]
    versions = sorted([*others, version], key=lambda name: [int(part) for part in name.split(".")[:2]])
    rows = []
    for key, line in sorted(lines.items()):
        old = shipped.lines.get(key, {})
        rows.append(
            f"{json.dumps(key)}: {json.dumps([line if name == version else old.get(name) for name in versions])}"
        )
    return f'{{"versions": {json.dumps(versions)},\n"lines": {{\n' + ",\n".join(rows) + "}}\n"


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        (metadata,) = folder.glob("transformers-*.dist-info")
        number = metadata.name.removesuffix(".dist-info").partition("-")[2]
        LINES_FILE.write_text(citations_text(number, folder / "transformers"), "utf-8")
        shipped_lines.cache_clear()
    if sys.argv[1:]:
        sys.exit()
    installed = installed_transformers()
    assert installed is not None
    LINES_FILE.write_text(citations_text(*installed), "utf-8")
    RESIDUALS_FILE.write_text(residuals_text(), "utf-8")
    columns.PAGE.write_text(columns.page(), "utf-8")
    shipped.cache_clear(), spread.cache_clear()
    figures = gate_figures(score_evidence())
    GATE.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    for page in PAGES:
        page.write_text(regenerated(page), "utf-8")
