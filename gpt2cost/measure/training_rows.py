"""Published training steps as a CSV file has them, in words: what was run, so that it can be predicted.

A file of this kind has the columns `source`, `hardware`, `software`, `attn_impl`, `dtype`, `model`, `phase`, `batch`,
`seq`, `metric`, `value`, `unit`, `trust`, `note`, and a row a measurement. What the words of a row mean is read from
them by rules, one a setting; a row that says of itself that it ran other code, or does not say what it ran, is passed
over, and why is counted. A ladder (rows whose software adds one thing to the row before) keeps what it has added.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from gpt2cost.device.catalog import load_hardware
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.files import is_folder
from gpt2cost.measure.kernel_formats import SkippedError

COLUMNS = frozenset(
    ("source", "hardware", "software", "attn_impl", "dtype", "model", "phase", "batch", "seq", "metric", "value",
     "unit", "trust", "note")
)  # fmt: skip
"""The columns of a file of published figures."""
PASS_COLUMNS = frozenset(
    ("gpu", "model", "n_layer", "mode", "seq", "batch", "variant", "measured_ms", "fw_ms", "bw_ms")
)  # fmt: skip
"""Those of a file of forward and backward passes in fp32, HuggingFace's model run eagerly (NeuSight's artefact)."""
Cells: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class TrainingRow:
    """A measured training step, or a part of one, and how it was run; the names are those of `gpt2cost train`.

    `vocab_size`, `bias` and `tied`: None where they are the model's own. `clip_grad_norm`: None for no clipping.
    `timed`: the whole step, or one micro-step's forward and backward without clip and optimiser, or one of the two; or
    the `memory` of a step, whose most bytes that were allocated at a time are then in `measured_bytes`.
    `box`: the machine, as far as it is told apart; rows of one box share its host and its clocks. `trust`: from 3, a
    primary source with known settings, to 1.
    """

    where: str
    source: str
    gpu: str
    model: str
    micro_batch: int
    seq: int
    measured_s: float
    gpus: int = 1
    nodes: int = 1
    grad_accum: int = 1
    impl: str = "nanogpt"
    vocab_size: int | None = None
    bias: bool | None = None
    dropout: float | None = None
    precision: str = "fp32"
    attn: str = "sdpa"
    runtime: str = "eager"
    compile_inside_ddp: bool = False
    zero: int = 0
    optimizer: str = "adamw"
    clip_grad_norm: float | None = None
    kernels: tuple[tuple[str, str], ...] = ()
    timed: str = "step"
    measured_bytes: float | None = None
    box: str = ""
    trust: int = 3
    note: str = ""

    @property
    def file(self) -> str:
        """The file that it is from."""
        return Path(self.where.rpartition(":")[0]).name

    @property
    def tokens(self) -> int:
        """Of a step, on all GPUs."""
        return self.micro_batch * self.seq * self.grad_accum * self.gpus


def read_training_rows(folder: Path) -> tuple[list[TrainingRow], Counter[str]]:
    """The training steps in the CSV files of `folder`, and why rows were passed over -> how many.

    Files with other columns are left alone. Raises `InputError` for a folder or a file that cannot be read.
    """
    if not is_folder(folder):
        raise InputError(f"{plain(str(folder))}: expected a folder with CSV files of measurements")
    rows: list[TrainingRow] = []
    skipped: Counter[str] = Counter()
    for path in sorted(path for path in folder.glob("*.csv") if path.is_file()):
        rows += _read_file(path, skipped)
    return rows, skipped


def is_of_steps(columns: Collection[str]) -> bool:
    """Whether a file with these columns may hold training steps."""
    return {*columns} >= COLUMNS or {*columns} >= PASS_COLUMNS


def _read_file(path: Path, skipped: Counter[str]) -> Iterator[TrainingRow]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            columns = {*(reader.fieldnames or ())}
            if not is_of_steps(columns):
                return
            lines = [(f"{plain(str(path))}:{reader.line_num}", row) for row in reader if None not in row.values()]
    except (OSError, csv.Error) as error:
        raise InputError(f"{plain(str(path))}: cannot read: {error}") from None
    before: dict[tuple[str, ...], TrainingRow] = {}
    for where, cells in lines:
        try:
            if columns >= COLUMNS:
                if not cells["phase"].startswith(("train step", "train memory")):
                    continue
                ladder = (cells["source"], cells["hardware"], cells["phase"])
                row = before[ladder] = _published(where, cells, before.get(ladder))
                yield row
            elif cells["mode"] == "training":
                yield from _passes(where, cells)
        except SkippedError as reason:
            skipped[str(reason)] += 1
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _whole(cells: Cells, name: str) -> int:
    """A whole number above 0."""
    text = cells[name].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise InputError(f"{name}: expected a whole number above 0, got {echo(text)}")
    return int(text)


def _number(cells: Cells, name: str) -> float:
    """A finite number above 0."""
    try:
        number = float(cells[name])
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(f"{name}: expected a number above 0, got {echo(cells[name])}")
    return number


# ---------------------------------------------------------------------------------------------- rows in words

OTHER_CODE = (
    (r"llm\.c|llm-kittens", "another program's kernels, in C"),
    (r"megatron-lm|libai", "Megatron's and LiBai's own kernels"),
    (r"muon|shampoo|soap", "an optimiser that is not modelled"),
    (r"rotary|relu2|rope|ternary", "a model that is no GPT-2: rotary embeddings or ReLU2"),
    (r"own layernorm|torch layernorm", "its own layer norm or GELU, in parts"),
    (r"deepspeed", "DeepSpeed's engine"),
    (r"windows", "Windows, with memory spilled to the host"),
    (r"cpu\b", "a CPU"),
    (r"inductor|aot_eager|dynamo", "a benchmark's own harness"),
    (r"163m|untied", "an untied head"),
    (r"batch inferred", "a batch that was inferred"),
    (r"hf train", "a benchmark that does not say whether it steps an optimiser"),
)
"""Words of a row -> why it is not predicted."""
_NEUTRAL = re.compile(r"\d+gb|hbm\w*|sxm\d*|nvlink|pcie\d*|blackwell|gpus?")
"""Words at the end of a device's name without which it may be known."""


def _published(where: str, cells: Cells, before: TrainingRow | None) -> TrainingRow:
    """A row of a file of published figures; `before` is the row before it of the same source and hardware."""
    software = cells["software"].lower()
    words = " ".join(cells[name] for name in ("software", "model", "hardware", "source", "note")).lower()
    for pattern, why in OTHER_CODE:
        if re.search(pattern, words):
            raise SkippedError(why)
    gpus, nodes, gpu = _devices(cells["hardware"])
    precision = _precision(cells["dtype"].lower(), software, before)
    adds = re.search(r"pytorch \+|\bsame \+", software) or cells["dtype"] in ("as named", "see software")
    kept = before if adds else None
    micro_batch, seq, grad_accum = _sizes(cells, gpus)
    row = TrainingRow(
        where=where,
        source=f"{cells['source']}, {cells.get('url_or_path', '')}".removesuffix(", "),
        gpu=gpu,
        model=_model(cells["model"].lower()),
        micro_batch=micro_batch,
        seq=seq,
        measured_s=1.0,
        gpus=gpus,
        nodes=nodes,
        grad_accum=grad_accum,
        impl="hf" if re.search(r"\bhf\b|huggingface", software) else "nanogpt",
        vocab_size=_vocabulary(f"{cells['model']} {software}", kept),
        bias=False if re.search(r"no biases|no bias\b", cells["model"].lower()) else None,
        precision=precision,
        attn="eager" if re.search(r"\b(math|eager|naive)\b", cells["attn_impl"].lower()) else "sdpa",
        runtime="compile" if "compile" in software or (kept and kept.runtime == "compile") else "eager",
        compile_inside_ddp="compile then ddp" in software,
        zero=3 if "full_shard" in software else 0,
        optimizer=_optimizer(software, kept),
        clip_grad_norm=1.0 if "clip" in software else kept.clip_grad_norm if kept else None,
        box=cells["hardware"],
        trust=_whole(cells, "trust"),
        note=cells["note"],
    )
    if cells["phase"].startswith("train memory"):
        return replace(row, timed="memory", measured_s=0.0, measured_bytes=_bytes(cells))
    return replace(row, measured_s=_seconds(cells, row))


def _devices(text: str) -> tuple[int, int, str]:
    """How many GPUs in all, on how many nodes, and which. Raises `SkippedError` for one without a hardware file."""
    nodes = int(found[1]) if (found := re.match(r"(\d+) nodes? x ", text)) else 1
    text = re.sub(r"^\d+ nodes? x ", "", text)
    count = int(found[1]) if (found := re.match(r"(\d+) ?x ?(?=[A-Z])", text)) else 1
    name = re.sub(r"^\d+ ?x ?(?=[A-Z])|\(.*|,.*|-class.*", "", text).strip().lower()
    parts = re.split(r"[\s/-]+", name)
    for left in range(len(parts), 0, -1):
        dropped = parts[left:]
        if not all(_NEUTRAL.fullmatch(word) for word in dropped):
            break
        for joined in ("-".join(parts[:left]), "".join(parts[:left])):
            try:
                return nodes * count, nodes, load_hardware(joined).name
            except InputError:
                continue
    raise SkippedError(f"no hardware file for {plain(name)}")


def _model(text: str) -> str:
    for pattern, name in (
        (r"medium|350m", "gpt2-medium"), (r"large|774m", "gpt2-large"), (r"1558m|1\.5b|-xl", "gpt2-xl"),
        (r"gpt-?2|124m|mpt-125m", "gpt2"),
    ):  # fmt: skip
        if re.search(pattern, text):
            return name
    raise SkippedError(f"no model like {plain(text)}")


def _vocabulary(text: str, before: TrainingRow | None) -> int | None:
    found = re.search(r"vocab\w* (?:v=)?(\d{5})", text)
    return int(found[1]) if found else before.vocab_size if before else None


def _precision(dtype: str, software: str, before: TrainingRow | None) -> str:
    """The name in `gpt2cost train`. A ladder's rows after one with autocast keep it."""
    text = f"{dtype} {software}" if dtype in ("as named", "see software") else dtype
    half = re.search(r"bf16|fp16", text)
    if re.search(r"autocast|\bamp\b", f"{dtype} {software}") and half:
        if re.search(r"fp16 or bf16|or fp32", text):
            return "bf16-mixed"
        return f"{half[0]}-mixed"
    if before and before.precision.endswith("-mixed") and not re.search(r"fp32|tf32|pure", text):
        return before.precision
    if half:
        if "torch.compile" in software or "pytorch" in software:
            return f"{half[0]}-mixed"
        if half[0] == "bf16":
            return "bf16"
        raise SkippedError("float16 weights")
    if "tf32" in text and "tf32 off" not in text:
        return "tf32"
    return "fp32"


def _optimizer(software: str, before: TrainingRow | None) -> str:
    """AdamW's default is foreach; what a note says is printed but not passed is not run."""
    if "foreach" in software:
        return "adamw"
    if "fused" in software:
        return "adamw-fused"
    return before.optimizer if before else "adamw"


def _sizes(cells: Cells, gpus: int) -> tuple[int, int, int]:
    """Micro-batch, sequence and accumulation steps per GPU. Raises `SkippedError` where they do not follow."""
    text = cells["batch"]
    seq = int(cells["seq"]) if cells["seq"].isdigit() else 0
    found = re.search(r"\b(?:B=|mb )(\d+)", text) or re.fullmatch(r"(\d+)", text.strip())
    if not seq or not found:
        raise SkippedError("no micro-batch or no sequence length is given")
    micro_batch = int(found[1])
    tokens = re.search(r"(\d{3,}) tok", text)
    if steps := re.search(r"\bga (\d+)", text):
        return micro_batch, seq, int(steps[1])
    if tokens is None:
        return micro_batch, seq, 1
    grad_accum, rest = divmod(int(tokens[1]), micro_batch * seq * gpus)
    if rest or not grad_accum:
        raise SkippedError("tokens a step are no multiple of a micro-batch's")
    return micro_batch, seq, grad_accum


def _seconds(cells: Cells, row: TrainingRow) -> float:
    """The seconds of a step, from a time or a rate."""
    if not re.search(r"\d", cells["value"]):
        raise SkippedError("no number")
    value, unit = _number(cells, "value"), cells["unit"]
    if unit in ("ms", "ms/iter"):
        return value * 1e-3
    of = row.gpus if "per GPU" in cells["metric"] else 1
    if unit == "tok/s":
        return row.tokens / of / value
    if unit == "samples/s":
        return row.tokens / row.seq / of / value
    raise SkippedError(f"a unit that is not read: {plain(unit)}")


def _bytes(cells: Cells) -> float:
    """What was allocated, from MiB. Raises `SkippedError` for what is reserved, or what the driver sees."""
    if cells["metric"] != "peak max_memory_allocated" or cells["unit"] != "MiB":
        raise SkippedError(f"memory that is not what was allocated: {plain(cells['metric'])}")
    return _number(cells, "value") * 2**20


# ---------------------------------------------------------------------------------------------- forward and backward


def _passes(where: str, cells: Cells) -> Iterator[TrainingRow]:
    """HuggingFace's GPT-2 of transformers 4.38 in train mode, fp32 with TF32 off, no optimiser: both passes, and each.

    Raises `SkippedError` for what ran on several GPUs in parallel.
    """
    if cells["variant"] != "none":
        raise SkippedError("tensor, pipeline or data parallel in a simulator's artefact")
    both = TrainingRow(
        where=where,
        source="NeuSight (ASPLOS 2025), sitar-lab/NeuSight@6945927",
        gpu=load_hardware(cells["gpu"]).name,
        model=cells["model"],
        micro_batch=_whole(cells, "batch"),
        seq=_whole(cells, "seq"),
        measured_s=1e-3 * _number(cells, "measured_ms"),
        impl="hf",
        attn="eager",
        kernels=(("scale", "div"), ("mask", "where")),
        timed="forward+backward",
        box=cells["gpu"],
    )
    yield both
    for timed, column in (("forward", "fw_ms"), ("backward", "bw_ms")):
        yield replace(both, timed=timed, measured_s=1e-3 * _number(cells, column))
