"""One prediction as a page: a single file with its style, its script and its data in it, which asks for nothing.

The folder `page_files` has the template, the style and the script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.colours import KIND_COLOURS
from gpt2cost.output.field import Record
from gpt2cost.output.glossary import SUBJECTS
from gpt2cost.output.kernel_rows import modules_beside
from gpt2cost.output.pass_text import waiting_name
from gpt2cost.output.pictures.plot_data import KINDS, SMALLEST
from gpt2cost.output.prediction import prediction_view
from gpt2cost.output.record import FLOPS_CONVENTION
from gpt2cost.output.report import svg
from gpt2cost.output.report import text as report_text
from gpt2cost.output.report.charts import curves, pass_charts
from gpt2cost.output.report.model import Figures, Shown, figures_of_row, number, percent, quantity
from gpt2cost.output.report.parts import (
    device_rows,
    evidence_part,
    generate_part,
    memory_part,
    range_text,
    rate_text,
    stacked,
    train_part,
)
from gpt2cost.output.report.points import Points, points_around, table_of_all
from gpt2cost.output.report.record import points_record
from gpt2cost.output.shared import run_text, source_text
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.prediction.train import Training
from gpt2cost.prediction.trust import MEANING
from gpt2cost.table.kernel import short_path
from gpt2cost.version import __version__

FILES = Path(__file__).with_name("page_files")
AXES = {
    "batch": ("batch", "batch_size"), "seq": ("new tokens", "seq_len"), "cache": ("cached tokens", "cache_len"),
    "dtype": ("dtype", "a_bytes"), "attn": ("attention", "fused attention"),
}  # fmt: skip
"""What can be chosen -> its label, and its term in the glossary."""
COLUMNS = {
    "order": "#", "name": "kernel", "kind": "kind", "launches": "launches", "flops": "FLOPs", "read": "read",
    "write": "written", "fpb": "FLOP/B", "s": "time", "share": "share", "bound": "bound",
}  # fmt: skip
"""The table of kernels: what it sorts by -> its head."""
CAPTIONS = {
    "roofline": "Roofline of {phase}", "timeline": "{phase} on host and device", "memory": "live memory of {phase}",
    "curve": "{phase}: {quantity} over {over}", "kinds": "{phase}: kinds of kernels over {over}",
    "generate-time": "Time per token", "generate-memory": "Memory over the tokens",
    "train-memory": "Live memory of a step", "train-micro-batch": "A step over the micro-batch",
    "train-gpus": "A step over GPUs",
}  # fmt: skip
"""A picture, or all whose address begins so -> what stands above it."""
TERMS = {"gemm": "GEMM", "attention": "fused attention", "host": "host-bound"}
"""Kind of kernel -> its term in the glossary, where that is another word."""


@dataclass(frozen=True, eq=False)
class Report:
    """What a page shows. `others`: the devices beside the prediction's own."""

    prediction: Prediction
    others: tuple[Hardware, ...] = ()
    generation: Generation | None = None
    training: Training | None = None
    command: str = ""


def page(report: Report) -> str:
    """The page. Raises `InputError` for a prediction of more than one point."""
    css, js = (_packed((FILES / name).read_text("utf-8")) for name in ("page.css", "page.js"))
    css += svg.STYLE + "".join(f".k-{kind}{{--dot:{colour}}}" for kind, colour in KIND_COLOURS.items())
    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    environment.globals |= {"q": quantity, "term_id": term_id, "caption": caption}
    inline = {"css": Markup(css), "js": Markup(js), "css_hash": _hash(css), "js_hash": _hash(js)}
    return environment.get_template("page.html").render(**inline, **context(report))


def _packed(text: str) -> str:
    """A script or a style without indentation, empty lines and lines of comment."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _hash(text: str) -> str:
    """What the page's policy says of a script or a style that it runs."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def term_id(word: str) -> str:
    """The address of a term in the glossary."""
    return "term-" + "".join(letter if letter.isalnum() else "-" for letter in word.lower())


def caption(chart: Record) -> Record:
    """What stands above a picture here, where model, device and settings are known: its address says what it is."""
    kind, _, rest = chart["id"].partition("-")
    phase, _, axis = rest.partition("-")
    over = "batch" if axis == "batch" else "context"
    title = CAPTIONS.get(chart["id"]) or CAPTIONS[kind].format(
        phase=phase, over=over, quantity="throughput" if over == "batch" else "latency"
    )
    return {
        "title": f"{title[0].upper()}{title[1:]}",
        "subtitle": chart["subtitle"].partition("\n")[0].partition(";")[0],
    }


def in_script(document: Any) -> Markup:
    """JSON that no name in it can end: `<` is written as an escape."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def context(report: Report) -> Record:
    """What the template is filled with."""
    prediction = report.prediction
    model, hw, how = prediction.model, prediction.hardware, prediction.how
    points = points_around(model, hw, how, prediction.sizes)
    rows = table_of_all(points)
    record = points_record(points, rows)
    phases = prediction.phases
    shown = Shown(prediction, phases[0], rows)
    tree = shown.tree()
    memory = memory_part(prediction.memory)
    generated, trained = generate_part(report.generation), train_part(report.training)
    record |= _for_script(report)
    return {
        "version": __version__, "convention": FLOPS_CONVENTION, "source": source_text(how.impl),
        "title": f"{model.name} on {hw.name}, predicted by gpt2cost", "model": model, "hw": hw,
        "run": run_text(model, hw, how), "lead": report_text.lead(prediction, points),
        "warning": "; ".join(prediction.warnings),
        "sections": _sections(report), "cards": _cards(report, generated, trained), "axes": _axes(points),
        "shown": _shown(prediction),
        "first": _first(prediction, points), "fits": report_text.fits(prediction.memory),
        "kinds": _kinds(phases[0]), "tree": tree, "kernels": shown.kernels(), "columns": shown.columns(COLUMNS),
        "total": shown.total(), "sides": _sides(prediction),
        "ridge": f"{number(hw.ridge_flop_per_byte(how.dtype))} FLOP/B",
        "charts": list(pass_charts(prediction)), "curves": curves(prediction, report.others), "memory": memory,
        "generate": generated, "train": trained,
        "devices": device_rows(prediction, report.others), "evidence": evidence_part(hw, how),
        "words": MEANING, "own_words": _own_words(prediction), "glossary": SUBJECTS, "command": report.command,
        "data_note": "The prediction as gpt2cost predict --format json writes it is in this file.",
        "prediction_json": in_script(prediction_view().document(prediction)), "points_json": in_script(record),
    }  # fmt: skip


def _sections(report: Report) -> list[tuple[str, str]]:
    names = {
        "verdict": "Verdict", "model": "Model", "kernels": "Kernels", "pictures": "Pictures", "memory": "Memory",
        "curves": "Curves", "devices": "Devices", "evidence": "Evidence", "glossary": "Glossary", "data": "Data",
    }  # fmt: skip
    return [(name, label) for name, label in names.items() if name != "devices" or report.others]


def _first(prediction: Prediction, points: Points) -> Record:
    phase = prediction.phases[0]
    said, meaning = report_text.trust(prediction, phase)
    return {
        "pace": report_text.pace(phase, prediction.hardware), "slowest": report_text.slowest(phase),
        "helps": report_text.helps(points, 0, phase), "said": said, "trust": meaning,
        "word": str(phase.totals.trust), "bound": f"{phase.totals.bound}-bound",
    }  # fmt: skip


def _cards(report: Report, generated: Record | None, trained: Record | None) -> list[Record]:
    """What can be chosen above: the passes, a generation, a training step."""
    prediction = report.prediction
    cards: list[Record] = []
    for phase in prediction.phases:
        totals, (word, _) = phase.totals, report_text.trust(prediction, phase)
        cards.append({
            "id": phase.phase, "panel": "panel-pass", "label": phase.phase, "value": quantity(totals.latency_s, "s"),
            "range": range_text(totals.latency_low_s, totals.latency_high_s), "bound": f"{totals.bound}-bound",
            "rate": rate_text(totals.tokens_per_s), "trust": word,
        })  # fmt: skip
    if run := generated:
        cards.append({
            "id": "generate", "panel": "panel-generate", "label": f"generate {run['tokens']} tokens",
            "value": run["total"], "range": run["range"], "bound": f"{run['stretches'][-1].bound}-bound",
            "rate": run["rate"], "trust": run["trust"],
        })  # fmt: skip
    if step := trained:
        cards.append({
            "id": "train", "panel": "panel-train", "label": "training step", "value": step["step"],
            "range": step["range"], "bound": f"{step['bound']}-bound", "rate": step["rate"], "trust": step["trust"],
        })  # fmt: skip
    return cards


def _axes(points: Points) -> list[Record]:
    return [
        {"name": name, "label": label, "term": term, "values": getattr(points.axes, name), "asked": points.asked[place]}
        for place, (name, (label, term)) in enumerate(AXES.items())
    ]


def _shown(prediction: Prediction) -> str:
    how = prediction.how
    return f"Shown: batch {prediction.sizes.text}, {how.dtype}, {how.attn} attention: the point that was asked for."


def _kinds(phase: Phase) -> list[Record]:
    """The pass's latency by kind of kernel, and what it waits for the host."""
    sums = dict.fromkeys(KINDS, 0.0)
    for cost in phase.kernels:
        sums[cost.kernel.kind] += float(cost.device_s)
    sums["host"] = float(phase.totals.waiting_s)
    return [
        {
            **bar, "name": bar["key"], "share": percent(bar["width"] / 1000),
            "label": waiting_name(phase.pass_) if bar["key"] == "host" else bar["key"],
            "term": TERMS.get(bar["key"], bar["key"]), "hidden": bar["width"] < 1000 * report_text.LEAST_SHARE,
        }
        for bar in stacked(sums.items())
    ]  # fmt: skip


def _sides(prediction: Prediction) -> Record | None:
    """Modules with the figures of each phase; None where there is one phase."""
    if len(prediction.phases) < 2:
        return None
    modules = modules_beside(prediction.phases)
    groups = {short_path(name): list(map(figures_of_row, rows)) for name, rows in modules.items()}
    sums = [sum(column, Figures()) for column in zip(*groups.values(), strict=True)]
    lines = [*groups.items(), ("the whole pass", sums)]
    seconds = [phase.totals.device_s for phase in prediction.phases]
    return {
        "phases": [phase.phase for phase in prediction.phases],
        "rows": [
            {"name": name, "phases": [own.text(whole) for own, whole in zip(figures, seconds, strict=True)]}
            for name, figures in lines
        ],
    }


def _own_words(prediction: Prediction) -> dict[str, str]:
    """The words of this page's phases -> which phases, and whose constants."""
    words: dict[str, list[str]] = {}
    for phase in prediction.phases:
        said, _ = report_text.trust(prediction, phase)
        words.setdefault(str(phase.totals.trust), []).append(f"{phase.phase}, {said}")
    return {word: "; ".join(texts) for word, texts in words.items()}


def _for_script(report: Report) -> Record:
    """What else the page's script needs to write another point as this one is written."""
    prediction = report.prediction
    return {
        "phrases": report_text.phrases(prediction.hardware), "phases": [phase.phase for phase in prediction.phases],
        "labels": {"shown": _shown(prediction), "warning": "; ".join(prediction.warnings)},
        "capacity": prediction.memory.capacity_bytes, "least_gain": report_text.LEAST_GAIN,
        "least_share": report_text.LEAST_SHARE, "least_mark": SMALLEST,
    }  # fmt: skip
