"""One step explained: as a record, as a document and as text: its reason, tensors, formulas with numbers, and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any

from gpt2cost.output.field import Field, Record
from gpt2cost.output.launch import (
    evaluated,
    flops_text,
    product_of,
    source_address,
    source_line,
    when_text,
    with_numbers,
)
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.shapes import numbers_text, symbols_text, tensors_of
from gpt2cost.output.shared import hardware_head, how_text, model_record, settings_of
from gpt2cost.prediction.one_step import Step, StepExplanation
from gpt2cost.prediction.settings import Number
from gpt2cost.table.kernel import Kernel, Tensor, short_path
from gpt2cost.units import format_quantity

FIGURES = {"flops": "flops", "reads": "read_bytes", "writes": "write_bytes"}
"""A kernel's formulas -> their names in a record."""
TEXT_WIDTH = 110
"""The longest line of prose."""


@dataclass(frozen=True)
class _Operand:
    """A tensor that a kernel reads or writes, at the values of the symbols."""

    role: str
    tensor: Tensor
    values: Mapping[str, Number]

    @property
    def shape(self) -> str:
        return symbols_text(self.tensor.shape)

    @property
    def numbers(self) -> str:
        return numbers_text(self.tensor.shape, self.values)

    @property
    def bytes(self) -> int:
        return int(self.tensor.bytes.evaluate(self.values))


def _operands(step: Step) -> list[_Operand]:
    """What a kernel reads and writes, and what another step takes and gives."""
    taken, given = ("read", "write") if step.kernel else ("takes", "gives")
    roles = ((taken, step.row.step.inputs), (given, step.row.step.outputs))
    return [_Operand(role, tensor, step.symbols) for role, tensors in roles for tensor in tensors]


# ---------------------------------------------------------------------------------------------- records


def _record(step: Step) -> Record:
    """A step as a flat row; figures are over all launches."""
    row, kernel, time = step.row, step.kernel, step.time
    record: Record = {
        "phase": step.phase,
        "name": step.path,
        "op": row.step.op,
        "kind": None if kernel is None else kernel.kind,
        "does": step.why.does,
        "removed_by": step.why.removed_by,
        "count_formula": str(row.count),
        "when": str(row.step.when),
        "count": step.launches if kernel else 0,
        **{key: step.figure(name) for name, key in FIGURES.items()},
    }
    formulas = {f"{key.removesuffix('_bytes')}_formula": getattr(kernel, name, None) for name, key in FIGURES.items()}
    record |= {key: None if formula is None else str(formula * row.count) for key, formula in formulas.items()}
    record |= {"source": None if kernel is None else str(kernel.source)}
    if time is not None:
        explanation = asdict(time.explanation)
        del explanation["name"], explanation["count"]
        record |= {"share": time.share, "bound": time.bound, "attention_kernel": time.attention_kernel, **explanation}
    return record


def _rows(result: StepExplanation) -> list[Record]:
    inputs = {"model": result.model.name, "gpu": result.hardware.name if result.hardware else None}
    inputs |= settings_of(result.model, result.how, result.train, result.sizes)
    return [{**inputs, **_record(step)} for step in result.steps]


def _launch(step: Step, kernel: Kernel) -> Record:
    """The tensors and formulas of one launch."""
    product = product_of(kernel)
    figures = evaluated({key: getattr(kernel, name) for name, key in FIGURES.items()}, step.symbols)
    formulas = {
        "flops_formula": flops_text(kernel), "read_formula": str(kernel.reads), "write_formula": str(kernel.writes),
    }  # fmt: skip
    sizes = {name: {"formula": str(size), "value": int(size.evaluate(step.symbols))} for name, size in product.items()}
    return {**figures, **formulas, **({"product": sizes} if product else {})}


def _tensor_records(step: Step) -> Record:
    """What a step takes and gives, with bytes."""
    records = tensors_of(step.row.step, step.symbols, flat=False)
    for role, tensors in (("inputs", step.row.step.inputs), ("outputs", step.row.step.outputs)):
        for record, tensor in zip(records[role], tensors, strict=True):
            record |= {"bytes": int(tensor.bytes.evaluate(step.symbols)), "bytes_formula": str(tensor.bytes)}
    return records


def _document(result: StepExplanation) -> Record:
    steps = []
    for step in result.steps:
        kernel = step.kernel
        own = {} if kernel is None else {"launch": _launch(step, kernel), "source_line": source_line(kernel.source)}
        steps.append({**_record(step), "runs": bool(step.launches), **_tensor_records(step), **own})
    return {
        **envelope(result.model, result.hardware),
        "model": model_record(result.model, result.how),
        "hardware": hardware_head(result.hardware, result.how.dtype) if result.hardware else None,
        "settings": settings_of(result.model, result.how, result.train, result.sizes),
        "group": result.group or None,
        "symbols": dict(result.steps[0].symbols),
        "steps": steps,
        "warnings": list(result.warnings),
    }


# ---------------------------------------------------------------------------------------------- text


def _text(page: Page, result: StepExplanation) -> None:
    """One step or a few in full, of a group a few lines each."""
    page.line(f"{_how(result)}\n")
    if result.group:
        _group(page, result)
        return
    for number, step in enumerate(result.steps):
        if number:
            page.line()
        _step(page, step, result)


def _how(result: StepExplanation) -> str:
    """What is run."""
    sizes, precision = result.sizes, result.train.precision if result.train else ""
    tokens = "tokens" if result.train else f"new tokens on {sizes.cache_len} cached"
    own = f"{result.model.name}, {sizes.batch_size} x {sizes.seq_len} {tokens}"
    return f"{own}, {how_text(result.how, precision)}"


def _prose(page: Page, text: str, indent: int = 0) -> None:
    blank = " " * indent
    for line in wrap(text, min(page.width, TEXT_WIDTH), initial_indent=blank, subsequent_indent=blank):
        page.line(line)


def _step(page: Page, step: Step, result: StepExplanation) -> None:
    kernel, row = step.kernel, step.row
    what = f"{row.step.op}, a kernel of the kind {kernel.kind}" if kernel else _free_text(step)
    page.line(f"{short_path(step.path)} in {step.phase}: {what}", style="bold")
    page.line()
    _prose(page, step.why.does)
    if step.why.removed_by:
        _prose(page, f"What would remove it: {step.why.removed_by}.")
    page.line()
    _prose(page, f"runs: {_runs(step)}")
    if kernel is None:
        if _operands(step):
            page.line()
            _tensors(page, step)
        return
    text = source_line(kernel.source)
    page.line(f"source: {source_address(kernel.source)}")
    if text:
        page.line(f"    {text}")
    page.line("\ntensors of one launch\n")
    _tensors(page, step)
    page.line("\none launch")
    _formulas(page, step, kernel)
    if step.launches > 1:
        page.line(f"\nall {step.launches} launches: {_total(step)}")
    if step.time is not None and result.hardware is not None:
        _time(page, step, result)


def _free_text(step: Step) -> str:
    """What a step is that launches no kernel."""
    free = step.row.step
    count = "" if isinstance(free, Kernel) or free.count == 1 else f"{free.count} of them, "
    meaning = {"view": "a view", "call": "a Python call", "sync": "a wait of the host"}[free.op]
    return f"{meaning}, {count}no kernel"


def _runs(step: Step) -> str:
    """How often, and under which condition."""
    when = when_text(step.row.step.when)
    if not step.launches:
        return f"{when}, which is not so here"
    here = "" if when == "always" else ", which is so here"
    times = "once" if step.launches == 1 else f"{step.launches} times"
    copies = {"1": "", "num_layers": ", once per layer"}.get(str(step.row.count), f" ({step.row.count})")
    return f"{when}{here}; {times} in this pass{copies}"


def _tensors(page: Page, step: Step) -> None:
    operands = _operands(step)
    fields: list[Field[_Operand]] = [
        Field("name", "tensor", "", lambda own: own.tensor.name), Field("role", "", "", lambda own: own.role),
    ]  # fmt: skip
    numbers: Field[_Operand] = Field("numbers", "numbers", "", lambda own: own.numbers)
    symbols: Field[_Operand] = Field("shape", "shape", "", lambda own: own.shape)
    size: Field[_Operand] = Field("bytes", "bytes", ",", lambda own: own.bytes)
    moved = (size,) if step.kernel else ()
    page.fields(operands, (*fields, symbols, numbers, *moved), (*fields, numbers, *moved))


def _formulas(page: Page, step: Step, kernel: Kernel) -> None:
    """FLOPs and bytes of one launch as formulas, with numbers in their places, and their values."""
    product = product_of(kernel)
    values = {**step.symbols, **evaluated(product, step.symbols)}
    texts = {"FLOPs": (flops_text(kernel), kernel.flops)}
    texts |= {name: (str(getattr(kernel, name)), getattr(kernel, name)) for name in ("reads", "writes")}
    for name, (text, formula) in texts.items():
        value = int(formula.evaluate(step.symbols))
        numbers = "" if text.isdecimal() else f" = {with_numbers(text, values)}"
        equal = "" if text.isdecimal() or with_numbers(text, values).isdecimal() else f" = {value:,}"
        line = f"    {name:<6} {text}"
        if len(line + numbers + equal) <= page.width:
            page.line(line, numbers, equal)
        else:
            page.line(line)
            page.line(f"          {numbers}{equal}")
        for size, own in product.items() if name == "FLOPs" else ():
            page.line(f"           {size} = {own} = {values[size]:,}")


def _total(step: Step) -> str:
    return _moved(*(step.figure(name) for name in FIGURES))


def _launches(step: Step) -> str:
    return "1 launch" if step.launches == 1 else f"{step.launches} launches"


def _moved(flops: int, reads: int, writes: int) -> str:
    """Figures in short: `87.0 GFLOP, 59.0 MB read, 113 MB written, 505 FLOP/B`."""
    moved = f"{format_quantity(reads, 'B')} read, {format_quantity(writes, 'B')} written"
    intensity = f", {flops / (reads + writes):.3g} FLOP/B" if flops and reads + writes else ""
    return f"{format_quantity(flops, 'FLOP')}, {moved}{intensity}"


def _time(page: Page, step: Step, result: StepExplanation) -> None:
    """What all launches take on the device, and what each resource alone would."""
    time, hardware = step.time, result.hardware
    assert time is not None
    assert hardware is not None
    own = time.explanation
    by = f", by {time.attention_kernel}" if time.attention_kernel else ""
    total, least, host = (format_quantity(value, "s") for value in (own.device_s, own.speed_of_light_s, own.host_s))
    page.line(f"\non {hardware.name}: {total}, {time.share:.1%} of the kernels of {step.phase}, {time.bound}-bound{by}")
    terms = {
        "compute": own.compute_s, "DRAM": own.memory_s, "L2": own.l2_s, "latency": own.serial_s, "launch": own.launch_s,
    }  # fmt: skip
    alone = ", ".join(f"{name} {format_quantity(value, 's')}" for name, value in terms.items() if value)
    _prose(page, f"{alone}: what each alone would take; they overlap.", indent=4)
    if own.speed_of_light_s:
        gap = f"{own.gap:.3g} times as long"
        _prose(page, f"The device's peaks (speed of light) would allow {least}: it takes {gap}.", indent=4)
    _prose(page, f"The host issues it in {host}.", indent=4)


def _group(page: Page, result: StepExplanation) -> None:
    """A few lines for each step of a module, without the calls of the modules in it."""
    inside = {step.row.module for step in result.steps if step.path == step.row.path}
    steps = [step for step in result.steps if step.path == step.row.path or not _holds(step.path, inside)]
    kernels = [step for step in steps if step.kernel is not None and step.launches]
    flops, reads, writes = (sum(step.figure(name) for step in kernels) for name in FIGURES)
    title = f"{short_path(result.group)}: {len(steps)} steps, of which {len(kernels)} launch a kernel here"
    page.line(f"{title}; together {_moved(flops, reads, writes)}", style="bold")
    phase = "" if len({step.phase for step in steps}) > 1 else steps[0].phase
    for step in steps:
        if step.phase != phase:
            phase = step.phase
            page.line(f"\n{phase}", style="bold")
        what = step.row.step.op if step.kernel else _free_text(step)
        times = f", {_launches(step)}, {_total(step)}" if step.kernel and step.launches else ""
        if not step.launches:
            times = f", {_runs(step)}"
        page.line(f"\n{short_path(step.path)}: {what}{times}")
        _prose(page, step.why.does, indent=4)


def _holds(module: str, modules: set[str]) -> bool:
    """Whether one of some modules is this one, or in it."""
    return any(f"{other}.".startswith(f"{module}.") for other in modules)


# ---------------------------------------------------------------------------------------------- views


def _summary(result: StepExplanation) -> tuple[str, str]:
    names = dict.fromkeys(short_path(step.path) for step in result.steps)
    return f"<StepExplanation {result.group or ', '.join(names)}:", f" {_how(result)}>"


EXPLAIN: View[StepExplanation] = View(_rows, _document, _text, _summary)
VIEWS: dict[type, View[Any]] = {StepExplanation: EXPLAIN}
