"""What a trace itself says: of which model it was recorded, on which device and how. Held against what is asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gpt2cost.device.catalog import hardware_names
from gpt2cost.device.driver_names import device_called
from gpt2cost.device.dtypes import DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.measure.observed import (
    ANCHOR,
    ATTENTION,
    Observed,
    aligned,
    embeds,
    label_of,
    pass_starts,
    product_of,
)
from gpt2cost.measure.torch_trace import Trace
from gpt2cost.measure.trace_file import shape_of_dims
from gpt2cost.prediction.settings import How
from gpt2cost.table.config import Model, list_models
from gpt2cost.table.options import (
    ATTENTION_IMPLEMENTATIONS,
    CACHE_TYPES,
    HEADS,
    IMPLEMENTATIONS,
    LOGITS,
    RUNTIMES,
    WEIGHTS,
)
from gpt2cost.table.quantization_config import QUANTIZATION_KEYS

DIMENSIONS = ("n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions")
"""What shapes can say of a model, under `GPT2Config`'s names."""
_TYPES = {"float": ("fp32", "tf32"), "c10::Half": ("fp16",), "c10::BFloat16": ("bf16",)}
"""A type in C++ -> the dtypes whose tensors have it. tf32 is one of products alone."""
_NAMED = {
    "c10::Half": re.compile(r"c10::Half|nvjet_(sm\d+_)?hs|(?<!b)f16"),
    "c10::BFloat16": re.compile(r"c10::BFloat16|nvjet_(sm\d+_)?ts|bf16"),
    "float": re.compile(r"float|nvjet_(sm\d+_)?ss|f32"),
}
"""A type in C++ -> what kernels of it have in their names, accumulators aside: the first of several is the weights'."""
_CHOICES = {
    "dtype": DTYPES, "attn": ATTENTION_IMPLEMENTATIONS, "runtime": RUNTIMES, "logits": LOGITS,
    "cache_type": CACHE_TYPES, "impl": IMPLEMENTATIONS, "use_cache": (True, False),
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What a trace says. Whatever it does not say is absent, empty or None.

    `dimensions`: of the model. `dtypes`: those that its types may be. `device`: its name, as the driver has it.
    `settings`: how the passes ran, under the names of `How`; of a predicted trace all of it. `switches`: the model's
    head and cross-attention under the names of `Model`, of a predicted one.
    """

    dimensions: Mapping[str, int] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    device: str = ""
    torch: str = ""
    is_old: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, Any] = field(default_factory=dict)

    @property
    def presets(self) -> list[str]:
        """The names of the presets that have all of these dimensions."""
        fitting = (model for model in list_models() if not self.unlike(model))
        return [model.name for model in fitting] if self.dimensions else []

    def unlike(self, model: Model) -> list[str]:
        """The dimensions in which a model is another one."""
        return [name for name, size in self.dimensions.items() if getattr(model, name) != size]


def said_by(trace: Trace) -> Said:
    """What a trace says of itself."""
    head, predicted, switches = trace.file.head, trace.file.prediction, {}
    ops = trace.ops if trace.ops and predicted is None else trace.observed
    dimensions, settings, dtypes = _dimensions(ops), _settings(trace, ops), _dtypes(ops, trace.observed)
    if predicted is not None:
        own, model = _part(predicted, "settings"), _part(predicted, "model")
        settings = {name: value for name, value in own.items() if value in _CHOICES.get(name, ())}
        dtypes = (settings["dtype"],) if "dtype" in settings else ()
        dimensions = {name: model.get(name, 0) for name in DIMENSIONS}
        changed = _part(_part(predicted, "what_if"), "model")
        known_values = {"head": HEADS, "weights": WEIGHTS}
        switches = {name: model[name] for name, values in known_values.items() if model.get(name) in values}
        switches |= {name: changed[name] for name in QUANTIZATION_KEYS[1:] if name in changed}
        if encoder_len := changed.get("encoder_len"):
            switches |= {"add_cross_attention": True, "encoder_len": encoder_len}
    torch = next((v for k, v in head.items() if re.search(r"(?i)torch.*version", k) and isinstance(v, str)), "")
    known = {name: size for name, size in dimensions.items() if isinstance(size, int) and size > 0}
    return Said(known, dtypes, device_of(trace), torch, trace.file.is_old, settings, switches)


def _part(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping in what a predicted trace says; empty where there is none."""
    part = said.get(name)
    return part if isinstance(part, dict) else {}


# ------------------------------------------------------------------------------------------------ held against


def check_model(said: Said, model: Model, where: str, beside: Iterable[str] = ()) -> None:
    """Raise `InputError` where the trace is of another model, with the one that it may be of.

    `beside`: what else differs.
    """
    if not (names := said.unlike(model)):
        return
    says = ", ".join(f"{name} {echo(said.dimensions[name])}" for name in names)
    has = ", ".join(str(getattr(model, name)) for name in names)
    better = (
        f"--model {' or '.join(said.presets)} has them" if said.presets else "no preset has them, give a config.json"
    )
    more = "".join(f"; {text}" for text in beside)
    raise InputError(f"{where}: its own shapes say {says}, and {plain(model.name)} has {has}; {better}{more}")


def check_forward(trace: Trace, where: str) -> None:
    """Raise `InputError` where the trace is of a training step."""
    if trains(trace):
        raise InputError(
            f"{where}: it is of a training step, and forward passes are compared with a trace: record one under"
            " torch.no_grad(); gpt2cost train predicts steps"
        )


def trains(trace: Trace) -> bool:
    """Whether a backward pass is in a trace."""
    return any("_backward" in op.op for op in trace.observed)


def check_attention(said: Said, how: How, where: str) -> None:
    """Raise `InputError` where attention ran as other kernels."""
    ran = said.settings.get("attn")
    if ran is not None and (ran == "eager") != (how.attn == "eager"):
        what = "products and a softmax" if ran == "eager" else "one fused kernel"
        raise InputError(f"{where}: its attention is {what}, and not that of --attn {how.attn}; --attn {ran} is")


def differences(said: Said, hw: Hardware, how: How) -> Iterator[str]:
    """What the trace says otherwise, each with the flag that would be right."""
    if said.device and (better := _other_device(said.device, hw)) is not None:
        flag = f" (--gpu {better})" if better else ""
        yield f"it was recorded on {plain(said.device)}{flag}, not on {hw.name}"
    if said.dtypes and how.dtype not in said.dtypes:
        dtype = said.dtypes[0]
        flag = f"--dtype {dtype}" if dtype in hw.compute.peak_flop_per_s else f"which {hw.name} has not"
        yield f"it was recorded in {dtype} ({flag}); {how.dtype} is compared"
    runtime = said.settings.get("runtime", how.runtime)
    if runtime != how.runtime:
        yield f"it ran as --runtime {runtime}, not as {how.runtime}"
    version = re.match(r"\d+", said.torch)
    if said.is_old:
        yield "torch before 1.12 or so wrote it, whose kernels are not all those of torch 2"
    elif version and int(version[0][:4]) < 2:
        yield f"torch {plain(said.torch)} wrote it, whose kernels are not all those of torch 2"


def _other_device(name: str, hw: Hardware) -> str | None:
    """The device of this name where it is another one, "" for one that there is no file of; None where it is not."""
    if name.casefold() in map(str.casefold, hw.names) or hw.name not in hardware_names():
        return None
    device = device_called(name)
    if device is None:
        return ""
    return None if device.name == hw.name else device.name


# ------------------------------------------------------------------------------------------------ shapes


def _dimensions(ops: Sequence[Observed]) -> dict[str, int]:
    """The model's dimensions, as far as shapes and the number of layer norms say them."""
    shapes = [(op.op, [shape_of_dims(dim) for dim in op.dims]) for op in ops if op.dims]
    tables = [table for op, dims in shapes if embeds(op) for table in dims[::2] if len(table) == 2]
    products = [product for op in ops if len(product := product_of(op)) == 3]
    said: dict[str, int] = {}
    widths = [dims[0][-1] for op, dims in shapes if op == ANCHOR and dims and dims[0]]
    widths += [table[1] for table in tables] or [k for _, k, n in products if n == 3 * k]
    if widths:
        width = said["n_embd"] = Counter(widths).most_common(1)[0][0]
        if inner := {k for _, k, n in products if n == width}:
            said["n_inner"] = next(iter(inner - {width}), width)
    if tables:
        said["vocab_size"] = tables[0][0]
        said |= {"n_positions": tables[1][0]} if len(tables) > 1 else {}
    cached = [shape_of_dims(part) for op in ops if op.op == "cat" and op.dims for part in op.dims[0]]
    by_heads = [dims[0] for op, dims in shapes if op == ATTENTION and dims] + cached
    if heads := [shape[1] for shape in by_heads if len(shape) == 4]:
        said["n_head"] = heads[0]
    if layers := _layers(ops):
        said["n_layer"] = layers
    return said


def _layers(ops: Sequence[Observed]) -> int | None:
    """How many layers the passes have that are there from end to end: two layer norms each, and one after the last."""
    begins, labels = pass_starts(ops), [label_of(op) for op in ops]
    passes = [labels[begin:end] for begin, end in pairwise([*begins, len(labels)])]
    norms = [[i for i, label in enumerate(labels) if label == ANCHOR] for labels in passes]
    if passes and not (norms[-1] and "mm" in passes[-1][norms[-1][-1] :]):  # no lm_head: it was cut off
        norms.pop()
    counts = Counter(len(places) for places in norms if len(places) % 2)
    return counts.most_common(1)[0][0] // 2 if counts else None


# ------------------------------------------------------------------------------------------------ how it ran


def _settings(trace: Trace, ops: Sequence[Observed]) -> dict[str, Any]:
    """The attention, the runtime and the logits, as far as ops and the names of kernels say them."""
    said: dict[str, Any] = {}
    labels = Counter(map(label_of, trace.observed))
    if labels["attention"] or labels["_softmax"]:
        said["attn"] = "sdpa" if labels["attention"] else "eager"
    graph = any("GraphLaunch" in event.name for event in trace.file.slices)
    compiled = any(name.startswith("triton_") for op in trace.observed for name in op.kernels)
    eager = bool(trace.ops) and trace.on_device
    if graph or compiled or eager:
        names = {(True, True): "reduce-overhead", (True, False): "cuda-graph", (False, True): "compile"}
        said["runtime"] = names.get((graph, compiled), "eager")
    sizes = [size for size in trace.by_size if size and size[1] > 1]
    products = [product for op in ops if len(product := product_of(op)) == 3]
    vocab = {op.dims[0][0] for op in ops if embeds(op.op) and op.dims and shape_of_dims(op.dims[0])}
    heads = {product[0] for product in products if product[2] in {*vocab, *map(aligned, vocab)}}
    if sizes and heads:
        said["logits"] = "last" if sizes[0][0] in heads and sizes[0][0] * sizes[0][1] not in heads else "all"
    return said


def _dtypes(ops: Iterable[Observed], observed: Iterable[Observed]) -> tuple[str, ...]:
    """The dtypes that the weights of products may have, or where none were recorded those that most kernels name."""
    for wanted in (("addmm", "mm", "bmm"), (ANCHOR,), ("embedding",)):
        types = Counter(op.types[0] for op in ops if op.op in wanted and op.types)
        if types:
            found = types.most_common(1)[0][0]
            break
    else:
        names = [name for op in observed for name in op.kernels]
        kinds = (next((kind for kind, named in _NAMED.items() if named.search(name)), "") for name in names)
        types = Counter(kind for kind in kinds if kind)
        if not types:
            return ()
        found = types.most_common(1)[0][0]
    if found == "float" and any("tf32" in name for op in observed for name in op.kernels):
        return ("tf32",)
    return _TYPES.get(found, ())


def device_of(trace: Trace) -> str:
    """The name of the device whose kernels are compared; empty where it is not said."""
    devices = trace.file.head.get("deviceProperties")
    named = (
        [d for d in devices if isinstance(d, dict) and isinstance(d.get("name"), str)]
        if isinstance(devices, list)
        else []
    )
    used = trace.devices[:1]
    return next((d["name"] for d in named if (str(d.get("id")),) == used), named[0]["name"] if named else "")
