"""A model's tree of modules as rows, as a document and as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from gpt2cost.output.field import Field, Record, attribute, attributes, record_of
from gpt2cost.output.formats import sections
from gpt2cost.output.page import NOTHING, Page, short_number
from gpt2cost.output.record import FLOPS_CONVENTION, View, envelope
from gpt2cost.output.shapes import numbers_text, shape_numbers, symbols_text
from gpt2cost.output.shared import hardware_head, how_text, model_record, settings_of
from gpt2cost.output.tree_lines import MODULES, Line, Shown, lines
from gpt2cost.prediction.model_tree import PassTree, Tree
from gpt2cost.prediction.tree import Weight
from gpt2cost.units import format_quantity

# ---------------------------------------------------------------------------------------------- records


def weight_records(weights: Iterable[Weight]) -> list[Record]:
    """Weights in a JSON document."""
    return [
        {
            "name": own.name,
            "shape": list(own.shape),
            "symbols": symbols_text(own.symbols),
            "tied_to": own.tied_to or None,
        }
        for own in weights
    ]


def _weights_text(line: Any) -> str:
    """`768x2304 (+2304)`: the weight's shape and the bias's; `50257x768 (= wte)` of a tied one."""
    if not line.weights:
        return ""
    first, *others = ("x".join(map(str, weight.shape)) for weight in line.weights)
    tied = line.weights[0].tied_to.rpartition(".")[2]
    return first + (f" (= {tied})" if tied else "") + "".join(f" (+{other})" for other in others)


def tied_elements(weights: Iterable[Weight]) -> int:
    """How many numbers there are in weights that are another module's."""
    return sum(weight.elements for weight in weights if weight.tied_to)


def parameters_text(line: Any) -> str:
    """A number, `0 of 38,597,376` of a tied weight, and a dash where there are none."""
    if tied := tied_elements(line.weights):
        return f"{line.parameters:,} of {tied:,}"
    return f"{line.parameters:,}" if line.parameters else NOTHING


WEIGHTS: Field[Any] = Field("weights", "", "", _weights_text)
"""The shapes of a line's or a component's weights."""


def _output_shape(line: Line) -> list[Any] | None:
    return None if line.output is None else shape_numbers(line.output.shape, line.symbols)


def _output_text(line: Line) -> str:
    if line.output is None:
        return ""
    shape = numbers_text(line.output.shape, line.symbols)
    return shape if line.outputs == 1 else f"{line.outputs} x {shape}"


def _output_symbols(line: Line) -> str | None:
    return None if line.output is None else symbols_text(line.output.shape)


def _intensity(line: Line) -> float | None:
    return line.figures.flops / line.moved_bytes if line.moved_bytes else None


_HEAD: tuple[Field[Line], ...] = (attribute("path"), attribute("class", path="cls"), attribute("count"))
_FIGURES: tuple[Field[Line], ...] = (
    attribute("parameters"), *attributes("launches", "flops", "read_bytes", "write_bytes", of="figures"),
    Field("arithmetic_intensity", "", "", _intensity), attribute("device_s", of="figures"),
    *attributes("share", "flops_share", "note"),
)  # fmt: skip
_WEIGHT_RECORDS: Field[Line] = Field("weights", "", "", lambda line: weight_records(line.weights))
_SYMBOLS: Field[Line] = Field("output_symbols", "", "", _output_symbols)
NODE = (*_HEAD, _WEIGHT_RECORDS, Field("output_shape", "", "", _output_shape), _SYMBOLS, *_FIGURES)
"""A line in a JSON document."""
FLAT = (*_HEAD, WEIGHTS, Field("output_shape", "", "", _output_text), _SYMBOLS, *_FIGURES)
"""The same as a flat row."""


def _settings(tree: Tree) -> Record:
    return settings_of(tree.model, tree.how, tree.train, tree.passes[0].sizes)


def _nodes(tree: Tree, shown: Shown, fields: tuple[Field[Line], ...]) -> list[Record]:
    return [{"phase": own.phase, **record_of(fields, line)} for own in tree.passes for line in lines(own, shown)]


def _rows(tree: Tree, shown: Shown) -> list[Record]:
    asked = {"model": tree.model.name, "gpu": None if tree.hardware is None else tree.hardware.name, **_settings(tree)}
    return [{**asked, **record} for record in _nodes(tree, shown, FLAT)]


def _document(tree: Tree, shown: Shown) -> Record:
    return {
        **envelope(tree.model, tree.hardware),
        "model": model_record(tree.model, tree.how),
        "hardware": None if tree.hardware is None else hardware_head(tree.hardware, tree.how.dtype),
        "settings": _settings(tree),
        "symbols": dict(tree.passes[0].symbols),
        "nodes": _nodes(tree, shown, NODE),
        "warnings": list(tree.warnings),
    }


def _markdown(tree: Tree, shown: Shown) -> str:
    """A table for each pass, without what no line has."""
    parts = []
    for own in tree.passes:
        records = [record_of(FLAT, line) for line in lines(own, shown)]
        empty = [key for key in records[0] if all(record[key] in (None, "") for record in records)]
        parts.append((f"## {own.phase}", [{k: v for k, v in record.items() if k not in empty} for record in records]))
    return sections(*parts)


# ---------------------------------------------------------------------------------------------- text


def _text(page: Page, tree: Tree, shown: Shown) -> None:
    """A table for each pass, and what its figures are."""
    page.line(f"{heading(tree)}; {FLOPS_CONVENTION}")
    for own in tree.passes:
        sizes = own.sizes
        tokens = "tokens" if own.is_training else f"new tokens on {sizes.cache_len} cached"
        page.line(f"\n{own.phase}: {sizes.batch_size} x {sizes.seq_len} {tokens}\n", style="bold")
        page.fields(lines(own, shown, summed=True), *_layouts(tree.hardware is not None))
    page.line()
    for own in tree.passes:
        page.line(_totals(own))
    page.line(f"{tree.model.parameters:,} parameters")
    if tree.model.n_layer > 1:
        page.line(f"a block and what is in it: figures of one, shares of all {tree.model.n_layer}")


def heading(tree: Tree) -> str:
    """The model, the device if there is one, and how it is run."""
    device = "" if tree.hardware is None else f" on {tree.hardware.name}"
    name = f"{tree.model.name} ({format_quantity(tree.model.parameters, '')} parameters)"
    return f"{name}{device}, {how_text(tree.how, tree.train.precision if tree.train else '')}"


def _totals(own: PassTree) -> str:
    """The sums of a pass, as `predict` writes them."""
    root = own.root
    moved = root.read_bytes + root.write_bytes
    sums = f"{format_quantity(root.flops, 'FLOP')}, {format_quantity(moved, 'B')} moved"
    device = "" if root.device_s is None else f", {format_quantity(root.device_s, 's')} on the device"
    return f"{own.phase}: {sums}: {short_number(root.flops / moved)} FLOP/B; {root.launches} launches{device}"


def _name(line: Line) -> str:
    return "  " * line.level + line.name


def _weights_or_note(line: Line) -> str:
    """The weights' shapes; where there are none, why the line costs nothing."""
    return _weights_text(line) or line.note


def _weights_or_word(line: Line) -> str:
    """The same where there is less room."""
    return _weights_text(line) or line.note.removesuffix(" in inference")


def _cost(header: str, unit: str, get: Callable[[Line], Any]) -> Field[Line]:
    """A column of what kernels cost: nothing where there is none."""
    return Field("", header, unit, lambda line: get(line) if line.figures.launches else None)


def _layouts(has_device: bool) -> list[tuple[Field[Line], ...]]:
    """The columns, the fullest layout first."""
    name, cls = Field("", "module", "", _name), attribute("cls", "class")
    noted, weights = (Field("", "weight (+bias)", "", get) for get in (_weights_or_note, _weights_or_word))
    output = Field("", "output", "", _output_text)
    parameters = Field("", "parameters", "right", parameters_text)
    flops = _cost("FLOPs", "own ", lambda line: line.figures.flops)
    moved = _cost("moved", "own B", lambda line: line.moved_bytes)
    intensity = _cost("FLOP/B", ".", _intensity)
    share: tuple[Field[Line], ...] = (_cost("of FLOPs", "%", lambda line: line.flops_share),)
    if has_device:
        seconds = _cost("time", "own s", lambda line: line.figures.device_s)
        share = (seconds, _cost("share", "%", lambda line: line.share))
    return [
        (name, cls, noted, output, parameters, flops, moved, intensity, *share),
        (name, cls, weights, output, parameters, flops, moved, intensity, *share),
        (name, cls, weights, output, parameters, flops, moved, *share),
        (name, cls, weights, output, parameters, flops, moved, share[-1]),
        (name, weights, output, parameters, flops, moved, share[-1]),
        (name, output, parameters, flops, moved, share[-1]),
        (name, output, parameters, flops, share[-1]),
    ]


# ---------------------------------------------------------------------------------------------- views


def tree_view(shown: Shown = MODULES) -> View[Tree]:
    """A tree, of which that is shown."""
    parts: dict[str, Any] = {"shown": shown}
    return View(
        partial(_rows, **parts), partial(_document, **parts), partial(_text, **parts), _summary,
        partial(_markdown, **parts),
    )  # fmt: skip


def _summary(tree: Tree) -> tuple[str, str]:
    modules = sum(1 for _ in tree.root.walk())
    own = tree.passes[0].sizes
    phases = " and ".join(own.phase for own in tree.passes)
    return f"<Tree: {heading(tree)};", f" {phases} of {own.text}, {modules} modules (a block's once)>"


VIEWS: dict[type, View[Any]] = {Tree: tree_view()}
