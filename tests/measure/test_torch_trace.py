"""Recorded traces against the cost table. The oracle is the real model under the real torch.profiler, on a CPU."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import DynamicCache

from gpt2cost.errors import InputError
from gpt2cost.measure import trace_match
from gpt2cost.measure.observed import Observed, product_of
from gpt2cost.measure.profile_records import observed_of_profile
from gpt2cost.measure.torch_trace import load_trace, read_sized_trace, read_trace
from gpt2cost.measure.trace_file import read_trace_file
from gpt2cost.measure.trace_match import Match, match
from gpt2cost.measure.trace_says import device_of, said_by
from gpt2cost.output.chrome_trace import chrome_trace
from gpt2cost.prediction.one_pass import symbol_values, table_options, table_rows
from gpt2cost.prediction.predict import predict
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table.config import Model, load_model
from gpt2cost.table.kernel import Gemm, Kernel, Row
from gpt2cost.timing.queue_steps import unrolled

LAYERS, HEADS, WIDTH, VOCABULARY = 2, 2, 32, 64
PHASES = {"prefill": (6, 0), "chunk": (5, 9), "decode": (1, 9)}
ATTENTION = ["eager", "sdpa"]
Run = Callable[[], Any]


def config() -> GPT2Config:
    return GPT2Config(n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0)


def passes_of(attn: str, batch: int, seq: int, cache: int) -> Iterator[Run]:
    """Callables, each of which runs one pass of the same small model on a cache of its own, filled before."""
    ours = config()
    ours._attn_implementation = attn
    model = GPT2LMHeadModel(ours).eval()
    ids = torch.randint(0, VOCABULARY, (batch, seq))
    while True:
        past = DynamicCache(config=ours)
        for layer in range(LAYERS if cache else 0):
            past.update(*torch.randn(2, batch, HEADS, cache, WIDTH // HEADS), layer)
        yield functools.partial(model, ids, past, use_cache=True)


def recorded(attn: str, batch: int, seq: int, cache: int, passes: int = 1, shapes: bool = True, after: Any = id) -> Any:
    """torch.profiler over `passes` passes and what comes `after`."""
    runs = list(itertools.islice(passes_of(attn, batch, seq, cache), passes))
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=shapes) as profiler:
        for run in runs:
            logits = run().logits
        after(logits)
    return profiler


def exported(profiler: Any, path: Path) -> Path:
    profiler.export_chrome_trace(str(path))
    return path


def small_model() -> Model:
    return load_model(config())


def rows_of(attn: str, runtime: str = "eager") -> tuple[Row, ...]:
    return table_rows(table_options(small_model(), How("fp32", attn, runtime)), runtime)


def values_of(batch: int, seq: int, cache: int) -> dict[str, Any]:
    return symbol_values(small_model(), "fp32", Sizes(batch, seq, cache))


def matched(observed: Sequence[Observed], attn: str, batch: int, seq: int, cache: int) -> Match:
    return match(observed, rows_of(attn), values_of(batch, seq, cache))


def assert_whole(found: Match, passes: int = 1) -> None:
    assert found.passes == passes
    assert [row.path for row in found.missing] == []
    assert found.mapped_share >= 0.98
    assert found.in_order
    assert all(row.seen == row.expected > 0 and row.seconds > 0 for row in found.rows)


# ---------------------------------------------------------------------------------------------- the real profiler


@pytest.mark.parametrize("shapes", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("attn", ATTENTION)
def test_a_recorded_pass_is_the_table(attn: str, phase: str, batch: int, shapes: bool, tmp_path: Path) -> None:
    sizes = (batch, *PHASES[phase])
    path = exported(recorded(attn, *sizes, shapes=shapes), tmp_path / "trace.json")
    found = matched(read_trace(path), attn, *sizes)
    assert_whole(found)
    assert found.unmapped == ()
    assert read_sized_trace(path)[1] == (sizes if shapes else None)


@pytest.mark.parametrize("attn", ATTENTION)
def test_passes_in_a_row_and_work_around_them(attn: str, tmp_path: Path) -> None:
    sizes = (2, *PHASES["decode"])
    profiler = recorded(attn, *sizes, passes=3, after=lambda logits: logits[:, -1].argmax(-1))
    found = matched(read_trace(exported(profiler, tmp_path / "trace.json.gz")), attn, *sizes)
    assert [one.op for one in found.unmapped] == ["argmax"]
    assert (found.passes, found.in_order, found.missing) == (3, True, ())
    launches = {row.row.path: row.seen for row in found.rows}
    assert launches["lm_head"] == 3
    assert launches["transformer.h.mlp.c_fc"] == 3 * LAYERS


def test_a_list_of_events_is_a_trace_too(tmp_path: Path) -> None:
    path = exported(recorded("sdpa", 1, 4, 0), tmp_path / "trace.json")
    bare = tmp_path / "bare.json.gz"
    bare.write_bytes(gzip.compress(json.dumps(json.loads(path.read_text("utf-8"))["traceEvents"]).encode()))
    assert read_trace(bare) == read_trace(path)
    starts = [one.start_s for one in read_trace(path)]
    assert starts[0] == 0
    assert starts == sorted(starts)


def test_a_file_is_gzip_by_what_is_in_it(tmp_path: Path) -> None:
    events = json.dumps([{"ph": "X", "cat": "cpu_op", "name": "aten::add", "ts": 1.0, "dur": 1.0}]).encode()
    for name, content in (("packed.json", gzip.compress(events)), ("plain.json.gz", events)):
        (tmp_path / name).write_bytes(content)
        assert [one.op for one in read_trace(tmp_path / name)] == ["add"]


def test_a_document_is_read_event_by_event(tmp_path: Path) -> None:
    """What `json` reads of it, wherever the events stand and whatever their texts hold."""
    op = {"ph": "X", "cat": "cpu_op", "name": "aten::add", "ts": 1.0, "dur": 1.0, "args": {"a": '"traceEvents": [ ]}'}}
    path = tmp_path / "trace.json"
    for document in (
        {"a": 'no "traceEvents" yet', "traceEvents": [op, {"ph": "M"}, op], "deviceProperties": [{"id": 0}]},
        {"deviceProperties": [], "traceEvents": [op]},
    ):
        for indent in (None, 2):
            path.write_text(json.dumps(document, indent=indent), "utf-8")
            file = read_trace_file(path)
            kept = [event for event in document["traceEvents"] if event["ph"] == "X"]
            assert [(e.name, e.ts, e.dur, json.loads(bytes(e.args))) for e in file.slices] == [
                (e["name"], e["ts"], e["dur"], e["args"]) for e in kept
            ]
            assert file.head == {key: value for key, value in document.items() if key != "traceEvents"}


def test_another_pass_than_expected(tmp_path: Path) -> None:
    """A trace of the wrong kind is told from the right one: eager attention is not in the table of sdpa."""
    found = matched(read_trace(exported(recorded("eager", 1, 6, 0), tmp_path / "trace.json")), "sdpa", 1, 6, 0)
    assert not found.in_order
    assert [row.step.kind for row in found.missing if isinstance(row.step, Kernel)] == ["attention"]
    assert {"bmm", "_softmax", "where"} <= {one.op for one in found.unmapped}


def profile_record(profiler: Any) -> dict[str, Any]:
    """A `profile` measurement as campaigns write it, of torch.profiler's events."""
    views = (
        "view as_strided empty select resize_ reshape expand transpose unsqueeze slice t detach empty_like lift_fresh"
    )
    skipped = {f"aten::{name}" for name in [*views.split(), "permute", "squeeze", "alias"]}
    ops = sorted((e for e in profiler.events() if e.name.startswith("aten::")), key=lambda e: e.time_range.start)
    listed = [[e.name, str(e.input_shapes)[:90], round(e.cpu_time_total, 2), []] for e in ops if e.name not in skipped]
    return json.loads(json.dumps({"kind": "profile", "ops": listed, "kernel_names": []}))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("attn", ATTENTION)
def test_a_profile_record_of_a_cpu(attn: str, phase: str, batch: int) -> None:
    sizes = (batch, *PHASES[phase])
    found = matched(observed_of_profile(profile_record(recorded(attn, *sizes))), attn, *sizes)
    assert_whole(found)
    assert found.unmapped == ()


# ---------------------------------------------------------------------------------------------- a device

FUNCTOR = "void at::native::vectorized_elementwise_kernel<4, at::native::{}, std::array<char*, 3ul> >(int, ...)"
COPY = (
    "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::direct_copy_kernel_cuda"
)
FILL = FUNCTOR.format("FillFunctor<float>")
GATHER = "void at::native::(anonymous namespace)::vectorized_gather_kernel<16, long>(char*, char*, long*, int, long)"
REDUCE = "void cublasLt::splitKreduce_kernel<32, 16, int, float, float, float, float, true, false, false>"
FLASH = "void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<64, 64, 256, 4, false> >"
COMBINE = "void pytorch_flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<64, 64, 256, 4, false> >"
MEMSET = "Memset (Device)"
# op -> (the ops inside it, of which the last launches; its kernels)
ON_CUDA: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "embedding": (("index_select",), (GATHER,)),
    "arange": (("arange",), ("void (anonymous namespace)::elementwise_kernel_with_index<int, arange_cuda_out",)),
    "add": ((), (FUNCTOR.format("CUDAFunctor_add<float>"),)),
    "mul": ((), (FUNCTOR.format("AUnaryFunctor<float, float, float, binary_internal::MulFunctor<float> >"),)),
    "pow": ((), (FUNCTOR.format("(anonymous namespace)::pow_tensor_scalar_kernel_impl<float, float>"),)),
    "tanh": ((), (FUNCTOR.format("tanh_kernel_cuda(at::TensorIteratorBase&)"),)),
    "le": ((), ("void at::native::unrolled_elementwise_kernel<(anonymous namespace)::CompareFunctor<long> >",)),
    "where": ((), ("void at::native::elementwise_kernel<128, 4, (anonymous namespace)::where_kernel_impl",)),
    "zeros": (("zero_", "fill_"), (FILL,)),
    "scalar_tensor": (("fill_",), (FILL,)),
    "native_layer_norm": ((), ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>",)),
    "_softmax": ((), ("void (anonymous namespace)::softmax_warp_forward<float, float, float, 9, false, false>",)),
    "cat": ((), ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<OpaqueType<4u>, unsigned, 4, 64, 64>",)),
    "clone": (("copy_",), (COPY,)),
    "bmm": ((), ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x8_stage3_ffma_kernel",)),
    "addmm": ((), (MEMSET, "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_bias_NNT", REDUCE)),
    "mm": ((), ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_f16_s161616gemm_f16_16x16_128x2_tn_align8>",)),
    "scaled_dot_product_attention": (
        ("_scaled_dot_product_flash_attention", "_flash_attention_forward"),
        (FLASH, COMBINE),
    ),
}  # fmt: skip
SECOND = {MEMSET, REDUCE, COMBINE}
LAUNCHER = {"Memcpy": "cudaMemcpyAsync", "Memset": "cudaMemsetAsync"}
CATEGORY = {"Memcpy": "gpu_memcpy", "Memset": "gpu_memset"}


def cuda_trace(
    kernels: Sequence[Row], with_ops: bool, alien_after: Sequence[int] = ()
) -> tuple[list[Any], list[float]]:
    """Events of a CUDA trace that launches `kernels`, the device lagging behind; and each one's time in us."""
    events: list[dict[str, Any]] = []
    times: list[float] = []
    host, device, correlation = 5e9, 5e9 + 40, itertools.count(1)

    def launch(name: str, duration: float) -> None:
        nonlocal device, host
        kind, number = name.split()[0], next(correlation)
        runtime = {"cat": "cuda_runtime", "name": LAUNCHER.get(kind, "cudaLaunchKernel"), "pid": 7, "tid": 7}
        events.append({"ph": "X", **runtime, "ts": host, "dur": 3.0, "args": {"correlation": number}})
        args = {"correlation": number, "stream": 7, "device": 0}
        on_device = {"cat": CATEGORY.get(kind, "kernel"), "name": name, "pid": 0, "tid": 7}
        events.append({"ph": "X", **on_device, "ts": device, "dur": duration, "args": args})
        host, device = host + 4, device + duration + 1

    for i, row in enumerate(kernels):
        assert isinstance(row.step, Kernel)
        inner, names = ON_CUDA[row.step.op]
        spans, begin, before = [f"aten::{name}" for name in (row.step.op, *inner)], host, len(events)
        if row.step.op == "mm":
            spans = ["aten::linear", "aten::matmul", *spans]
        host += len(spans)
        durations = [1.5 if name in SECOND else 10.0 + i % 7 for name in names]
        for name, duration in zip(names, durations, strict=True):
            launch(name, duration)
        times.append(sum(durations))
        if with_ops:
            for depth, name in enumerate(spans):
                span = {"ts": begin + depth, "dur": host - begin - depth}
                events.insert(before, {"ph": "X", "cat": "cpu_op", "name": name, "pid": 7, "tid": 7, **span})
        host += 5
        if i in alien_after:
            launch("void alien::kernel_of_something_else<float>(float*)", 0.5)
    events.append({"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "GPU 0"}})
    return events, times


def write(path: Path, events: Any) -> Path:
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}), "utf-8")
    return path


def expected_kernels(attn: str, sizes: tuple[int, int, int], runtime: str = "eager") -> list[Row]:
    return [row for row, _ in unrolled(rows_of(attn, runtime), values_of(*sizes)) if isinstance(row.step, Kernel)]


@pytest.mark.parametrize("with_ops", [True, False])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("attn", ATTENTION)
def test_a_cuda_trace(attn: str, phase: str, with_ops: bool, tmp_path: Path) -> None:
    """Two passes, some with second kernels, an unknown one between them: every kernel's time comes to its row."""
    sizes = (2, *PHASES[phase])
    kernels = expected_kernels(attn, sizes)
    events, times = cuda_trace([*kernels, *kernels], with_ops, alien_after=[len(kernels) - 1])
    found = matched(read_trace(write(tmp_path / "trace.json", events)), attn, *sizes)
    assert_whole(found, passes=2)
    assert [(one.op, one.kernels[0].split()[1][:5]) for one in found.unmapped] == [("", "alien")]
    for row in found.rows:
        of_row = [us for kernel, us in zip([*kernels, *kernels], times, strict=True) if kernel is row.row]
        assert row.seen == len(of_row)
        memsets_us = 0 if with_ops else 1.5 * len(of_row)  # alone, they count with the kernel before
        assert 2e6 * row.seconds == pytest.approx(sum(of_row), abs=memsets_us + 1e-3)
    total = sum(row.seconds for row in found.rows)
    assert 2e6 * total == pytest.approx(sum(times))


ON_HIP = {
    ON_CUDA["addmm"][1][1]: "Cijk_Ailk_Bljk_HHS_BH_Bias_HA_S_SAV_UserArgs_MT256x128x32_MI16x16x1_SN_K1",
    ON_CUDA["mm"][1][0]: "Cijk_Alik_Bljk_HHS_BH_MT128x96x64_MI16x16x16x1_SN_1LDSB0_APM1",
    ON_CUDA["bmm"][1][0]: "Cijk_Alik_Bljk_SB_MT64x64x16_MI16x16x4x1_SN_GRVW4_GSU1",
    COMBINE: "Cijk_SS_BiasS_HAS_ScaleAlphaVec_PostGSU16", REDUCE: "Cijk_S_PostGSU8", FLASH: "attn_fwd.kd",
    MEMSET: "__amd_rocclr_fillBufferAligned", COPY: "__amd_rocclr_copyBuffer",
}  # fmt: skip
"""A kernel of CUDA -> one of AMD's libraries that does the same: hipBLASLt's, aotriton's, the runtime's own. PyTorch's
have the same names on both."""


@pytest.mark.parametrize("with_ops", [True, False])
@pytest.mark.parametrize("attn", ATTENTION)
def test_a_hip_trace(attn: str, with_ops: bool, tmp_path: Path) -> None:
    sizes = (2, *PHASES["chunk"])
    events, _ = cuda_trace(expected_kernels(attn, sizes), with_ops)
    for event in events:
        event["name"] = ON_HIP.get(event["name"], event["name"].replace("cudaLaunch", "hipLaunch"))
    assert_whole(matched(read_trace(write(tmp_path / "trace.json", events)), attn, *sizes))


@pytest.mark.parametrize("phase", PHASES)
def test_a_trace_of_apple_s_gpu(phase: str, tmp_path: Path) -> None:
    """The ops of MPS: attention has a name of its own, and a linear layer is one op, with nothing inside."""
    sizes = (2, *PHASES[phase])
    document = json.loads(exported(recorded("sdpa", *sizes), tmp_path / "cpu.json").read_text("utf-8"))
    events = [event for event in document["traceEvents"] if event.get("cat") == "cpu_op"]
    linears = [(e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "aten::linear"]
    kept = [e for e in events if not any(begin < e["ts"] <= end for begin, end in linears)]
    for event in kept:
        event["name"] = event["name"].replace("flash_attention_for_cpu", "attention_math_for_mps")
    assert_whole(matched(read_trace(write(tmp_path / "mps.json", kept)), "sdpa", *sizes))


def test_an_unknown_kernel_in_the_middle(tmp_path: Path) -> None:
    kernels = expected_kernels("eager", (1, 1, 9))
    events, _ = cuda_trace(kernels, True, alien_after=[30, 50])
    found = matched(read_trace(write(tmp_path / "trace.json", events)), "eager", 1, 1, 9)
    assert len(found.unmapped) == 2
    assert found.missing == ()
    assert not found.in_order


def test_kernels_of_a_graph_have_no_op(tmp_path: Path) -> None:
    """All kernels of a replay bear the one launch's number, whatever op surrounds it."""
    kernels = expected_kernels("sdpa", (1, 1, 9))
    events, _ = cuda_trace(kernels, False)
    replayed = [e for e in events if e.get("cat") in ("kernel", "gpu_memset")]
    for event in replayed:
        event["args"]["correlation"] = 1
    host = {"ph": "X", "pid": 7, "tid": 7, "args": {"correlation": 1}}
    replayed.append({**host, "cat": "cuda_runtime", "name": "cudaGraphLaunch", "ts": 10.0, "dur": 5.0})
    replayed.append({**host, "cat": "cpu_op", "name": "aten::other", "ts": 9.0, "dur": 9.0})
    observed = read_trace(write(tmp_path / "trace.json", replayed))
    assert {one.op for one in observed} == {""}
    assert_whole(matched(observed, "sdpa", 1, 1, 9))


def test_a_compiled_pass(tmp_path: Path) -> None:
    """Kernels of fused rows, named as inductor names them."""
    kernels = expected_kernels("sdpa", (2, 1, 9), "compile")
    names = {"elementwise": "poi", "reduction": "per"}
    events: list[dict[str, Any]] = []
    for i, row in enumerate(kernels):
        assert isinstance(row.step, Kernel)
        fused = row.step.op.replace("+", "_")
        name = f"triton_{names[row.step.kind]}_fused_{fused}_{i}" if row.step.kind in names else None
        name = name or next(name for name in ON_CUDA[row.step.op][1] if name not in SECOND)
        kernel = {"cat": "kernel", "name": name, "pid": 0, "tid": 7, "args": {}}
        events.append({"ph": "X", **kernel, "ts": 100.0 * i, "dur": 50.0})
    observed = read_trace(write(tmp_path / "trace.json", events))
    assert_whole(match(observed, rows_of("sdpa", "compile"), values_of(2, 1, 9)))


def test_a_profile_record_of_a_device() -> None:
    """Ops are named by the inner one that launched; without any, the kernels are there in device order."""
    for attn in ATTENTION:
        kernels, names, ops, times = expected_kernels(attn, (2, 5, 9)), [], [], []
        for i, row in enumerate(kernels):
            assert isinstance(row.step, Kernel)
            inner, launched = ON_CUDA[row.step.op]
            used = [name for name in launched if name != MEMSET]
            names += used
            numbers = range(len(names) - len(used), len(names))
            ops.append([f"aten::{(row.step.op, *inner)[-1]}", "[[]]", 3.0, [[n, 2.0 + i] for n in numbers]])
            times += [[n, 100.0 * n, 2.0 + i] for n in numbers]
        record = {"kind": "profile", "ops": ops, "kernels": times, "kernel_names": names}
        for one in (record, {**record, "ops": []}):
            found = matched(observed_of_profile(one), attn, 2, 5, 9)
            assert_whole(found)
            assert sum(row.seconds for row in found.rows) == pytest.approx(1e-6 * sum(us for _, _, us in times))


def test_a_predicted_trace_is_read_like_a_recorded_one(tmp_path: Path) -> None:
    prediction = predict("gpt2", "a100-80gb", batch=2, seq=32, attn="eager", phase="prefill")
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(chrome_trace(prediction)), "utf-8")
    model = load_model("gpt2")
    rows = table_rows(table_options(model, How("fp16", "eager")), "eager")
    found = match(read_trace(path), rows, symbol_values(model, "fp16", Sizes(2, 32, 0)))
    assert_whole(found)
    assert found.mapped_share == 1


def test_a_long_trace_is_matched_in_groups_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty passes of gpt2-xl, an unknown op in each layer of each: as one, the alignment would fill gigabytes."""
    cells: list[int] = []
    align = trace_match._longest_common

    def counted(labels: Sequence[str], expected: Sequence[frozenset[str]]) -> list[tuple[int, int]]:
        cells.append(len(labels) * len(expected))
        return align(labels, expected)

    monkeypatch.setattr(trace_match, "_longest_common", counted)
    model = load_model("gpt2-xl")
    rows = table_rows(table_options(model, How()), "eager")
    values = symbol_values(model, "fp16", Sizes(1, 1, 100))
    kernels = [row.step for row, _ in unrolled(rows, values) if isinstance(row.step, Kernel)]
    ops = [op for kernel in kernels for op in ([kernel.op] if kernel.op != "tanh" else ["tanh", "unknown"])]
    observed = [Observed(op, (), 1.0, float(i)) for i, op in enumerate(ops * 50)]
    found = match(observed, rows, values)
    assert len(cells) > 5
    assert max(cells) <= 1.2 * trace_match.TABLE_CELLS
    assert found.passes == 50
    assert found.missing == ()
    assert {one.op for one in found.unmapped} == {"unknown"}
    assert len(found.unmapped) == 50 * 48


def test_nothing_of_the_table_in_a_trace() -> None:
    found = matched([Observed("argmax", (), 1.0, 0.0)], "sdpa", 1, 1, 9)
    assert (found.passes, found.mapped_share, found.in_order) == (0, 0, False)
    assert len(found.missing) == len(found.rows) > 0
    assert matched([], "sdpa", 1, 1, 9).mapped_share == 0


# ---------------------------------------------------------------------------------------------- recorded on an H100

H100 = Path(__file__).parents[1] / "data" / "traces-h100"
"""torch 2.11 with CUDA 13, transformers 5.17: `record_shapes=True`, exported with `export_chrome_trace`."""


def test_a_pass_that_an_h100_ran_is_the_table() -> None:
    """Eager attention: a mask of numbers, one of which comes from the host, and `where` around another `where`."""
    trace, model = load_trace(H100 / "distilgpt2-fp16-eager-2x128.json.gz"), load_model("distilgpt2")
    assert list(trace.by_size) == [(2, 128, 0)]
    rows = table_rows(table_options(model, How("fp16", "eager")), "eager")
    found = match(trace.observed, rows, symbol_values(model, "fp16", Sizes(2, 128, 0)))
    assert_whole(found)
    assert found.unmapped == ()
    said = said_by(trace)
    assert (said.presets, said.dtypes, said.settings["attn"]) == (["distilgpt2"], ("fp16",), "eager")
    assert device_of(trace) == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(("name", "runtime"), [("default", "compile"), ("reduce-overhead", "reduce-overhead")])
def test_what_inductor_made_of_a_pass(name: str, runtime: str) -> None:
    """Every product, attention and layer norm is found; its own are the weight that it pads and the mask that it
    makes in each layer."""
    trace, model = load_trace(H100 / f"distilgpt2-fp16-compile-{name}-8x512.json.gz"), load_model("distilgpt2")
    said = said_by(trace)
    assert (said.settings["runtime"], said.dtypes) == (runtime, ("fp16",))
    if runtime == "compile":  # a graph's kernels have no shapes
        assert list(trace.by_size) == [(8, 512, 0)]
        assert said.presets == ["distilgpt2"]
    rows = table_rows(table_options(model, How("fp16", "sdpa", runtime)), runtime)
    found = match(trace.observed, rows, symbol_values(model, "fp16", Sizes(8, 512, 0)))
    assert found.passes == found.whole == 1
    assert found.mapped_share > 0.95
    kinds = ("gemm", "attention", "reduction", "copy")
    assert all(r.seen == r.expected for r in found.rows if isinstance(r.row.step, Kernel) and r.row.step.kind in kinds)


# ---------------------------------------------------------------------------------------------- several devices


def elsewhere(events: Sequence[dict[str, Any]], device: int, stream: int = 7, host: int = 7) -> list[dict[str, Any]]:
    """The same work on another device or stream, launched by another thread, at the same times."""
    moved = json.loads(json.dumps(events))
    for event in moved:
        args = event.get("args", {})
        if event.get("cat") in ("kernel", "gpu_memset"):
            args |= {"device": device, "stream": stream}
            event |= {"pid": device, "tid": stream}
        elif "cat" in event:
            event["tid"] = host
        if "correlation" in args:
            args["correlation"] += 10_000 * (10 * device + host)
    return moved


@pytest.mark.parametrize("with_ops", [True, False])
def test_replicas_on_several_devices_are_told_apart(with_ops: bool, tmp_path: Path) -> None:
    """Catches kernels of two devices, interleaved by their times, that are taken for one pass."""
    sizes = (2, *PHASES["decode"])
    events, times = cuda_trace(expected_kernels("sdpa", sizes), with_ops)
    both = write(tmp_path / "trace.json", [*events, *elsewhere(events, 1, host=8)])
    trace = load_trace(both)
    found = matched(trace.observed, "sdpa", *sizes)
    assert_whole(found)
    assert sum(row.seconds for row in found.rows) == pytest.approx(1e-6 * sum(times), rel=0.1)
    assert trace.devices == ("0",)
    assert "passes on 0 and 1: those of 0 are compared" in trace.note
    streams = load_trace(write(both, [*events, *elsewhere(events, 0, stream=20, host=8)]))
    assert_whole(matched(streams.observed, "sdpa", *sizes))
    assert "streams 20 and 7 in it, and passes on 20 and 7" in streams.note


def test_the_device_that_ran_the_model_is_compared(tmp_path: Path) -> None:
    sizes = (2, *PHASES["decode"])
    events, _ = cuda_trace(expected_kernels("sdpa", sizes), True)
    other = [event for event in events if "gemm" in event["name"] or event.get("cat") == "gpu_memset"]
    document = {
        "deviceProperties": [{"id": 0, "name": "Tesla T4"}, {"id": 3, "name": "NVIDIA A100-SXM4-80GB"}],
        "traceEvents": [*other, *elsewhere(events, 3, host=8)],
    }
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document), "utf-8")
    trace = load_trace(path)
    assert_whole(matched(trace.observed, "sdpa", *sizes))
    assert trace.devices == ("3",)
    assert "those of 3, which ran the model, are compared" in trace.note
    assert device_of(trace) == "NVIDIA A100-SXM4-80GB"


def test_layers_that_lie_on_two_devices_are_one_pass(tmp_path: Path) -> None:
    """`device_map="auto"`: the first layers on one device, the last on the next."""
    sizes = (2, *PHASES["prefill"])
    events, _ = cuda_trace(expected_kernels("sdpa", sizes), True)
    kernels = sorted(event["ts"] for event in events if event.get("cat") == "kernel")
    half = kernels[len(kernels) // 2]
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memset") and event["ts"] >= half:
            event["args"]["device"] = event["pid"] = 1
    trace = load_trace(write(tmp_path / "trace.json", events))
    assert_whole(matched(trace.observed, "sdpa", *sizes))
    assert trace.devices == ("0", "1")
    assert "the layers ran on 0 and 1, which are compared as one" in trace.note


# ---------------------------------------------------------------------------------------------- products by shape


def test_products_of_inductor_are_matched_by_their_shape() -> None:
    """A bias may be in the product, or in the kernel after it; the head may be padded. Each goes to the row of its
    shape, however it is called, and a product of another shape to none."""
    values = values_of(2, 5, 9)
    expected = expected_kernels("sdpa", (2, 5, 9), "compile")
    kernels = [row.step for row in expected if isinstance(row.step, Kernel)]
    names, observed, alien = itertools.cycle(["mm", "addmm", "bias_addmm"]), [], [7, WIDTH, 3]

    def product(m: int, k: int, n: int, start_s: float) -> Observed:
        op = next(names)
        sides = [[m, k], [k, n]]
        return Observed(op, ("nvjet_x",), 1.0, start_s, sides if op == "mm" else [[n], *sides])

    for i, kernel in enumerate(kernels):
        if isinstance(kernel.shape, Gemm) and kernel.kind == "gemm":
            m, k, n = (int(size.evaluate(values)) for size in (kernel.shape.m, kernel.shape.k, kernel.shape.n))
            observed += [product(m, k, n + -n % 8, i), product(*alien, i + 0.5)]
        else:
            observed.append(Observed(kernel.op.split("+")[-1], (f"triton_{i}",), 1.0, i))
    found = match(observed, rows_of("sdpa", "compile"), values)
    products = [row for row in found.rows if isinstance(row.row.step, Kernel) and row.row.step.kind == "gemm"]
    assert [row.seen for row in products] == [row.expected for row in products]
    assert len(found.unmapped) == sum(row.seen for row in products)
    assert all(product_of(one)[0] == 7 for one in found.unmapped)


# ---------------------------------------------------------------------------------------------- bad files


def bad_files() -> Iterator[Any]:
    slice_ = {"ph": "X", "cat": "cpu_op", "name": "aten::add", "ts": 1.0, "dur": 1.0}
    yield pytest.param(b"not JSON", "expected JSON", id="not JSON")
    yield pytest.param(b'[{"ph":"M","args":' + b"[" * 100_000, "expected JSON.*nested too deep", id="deep")
    yield pytest.param(b"\xff\xfe{}", "expected JSON", id="not UTF-8")
    for cut in (
        b'{"traceEvents": [{"ph":"M"}',
        b'{"traceEvents": [{"ph":"M"},]}',
        b'{"traceEvents": [{"ph":"M"} {"ph":"M"}]}',
        b'[{"ph":"M"}] 3',
        b'[,{"ph":"M"}]',
        b'[{"ph":"M"}]]',
    ):
        yield pytest.param(cut, "expected JSON", id=cut.decode())
    yield pytest.param(b"{}", "traceEvents", id="no traceEvents")
    yield pytest.param(b'{"traceEvents": {}}', "traceEvents", id="no list")
    yield pytest.param(b"3", "traceEvents", id="a number")
    yield pytest.param(b"[1, {}]", "objects with a 'ph'.*got int", id="an event that is a number")
    yield pytest.param(b"[{}]", "objects with a 'ph'.*missing", id="no ph")
    yield pytest.param(b"[]", "found none", id="no events")
    yield pytest.param(b'[{"ph": "M"}, {"ph": "X"}, {"ph": "X", "cat": "python_function"}]', "found none", id="no ops")
    for change in ({"ts": "1"}, {"dur": -1}, {"dur": None}, {"name": 3}, {"ts": 10**400}, {"ts": True}):
        text = json.dumps([slice_, {**slice_, **change}]).encode()
        yield pytest.param(text, r"traceEvents\[1\]: .*ts and dur in us", id=str(change)[:20])
    yield pytest.param(json.dumps([{**slice_, "ts": float("nan")}]).encode(), "expected JSON.*byte", id="NaN")


@pytest.mark.parametrize(("content", "message"), list(bad_files()))
def test_a_bad_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_trace(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_a_folder_and_no_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b"[]" * 1000)
    for name, content in (
        ("b.json.gz", whole[:-9]),
        ("c.json", whole[:12] + b"x" + whole[13:]),
    ):
        (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / "absent.json", *tmp_path.glob("?.json*")):
        with pytest.raises(InputError, match="cannot read"):
            read_trace(path)


@pytest.mark.parametrize("args", [3, {"Input Dims": 3}, {"Input Dims": [3, [[]]]}, {"correlation": []}])
def test_odd_arguments_are_ignored(args: Any, tmp_path: Path) -> None:
    op = {"ph": "X", "cat": "cpu_op", "name": "aten::embedding", "ts": 1.0, "dur": 1.0, "args": args}
    kernel = {**op, "cat": "kernel", "name": "k"}
    path = write(tmp_path / "trace.json", [op, {**op, "name": "aten::cat", "ts": 3.0}])
    assert read_sized_trace(path)[1] is None
    assert [one.op for one in read_trace(path)] == ["embedding", "cat"]
    assert [one.op for one in read_trace(write(path, [op, kernel]))] == [""]


@pytest.mark.parametrize("changes", [{"ops": 3}, {"ops": [[1]]}, {"ops": [["aten::add", "", 1.0, [[5, 1.0]]]]}])
def test_a_bad_profile_record(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="kind profile"):
        observed_of_profile({"kind": "profile", "kernel_names": [], **changes})


ATTENTION_OPS = [
    "aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention", "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_attention_math", "aten::_scaled_dot_product_fused_attention_overrideable",
    "aten::_efficient_attention_forward", "flash_attn::_flash_attn_forward",
]  # fmt: skip


@pytest.mark.parametrize("attn", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("name", ATTENTION_OPS)
def test_every_backend_is_the_attention_of_the_table(name: str, attn: str, tmp_path: Path) -> None:
    ops = ["native_layer_norm", *["native_layer_norm", name, "native_layer_norm"] * LAYERS]
    slices = [{"ph": "X", "cat": "cpu_op", "name": op if "::" in op else f"aten::{op}"} for op in ops]
    events = [{**slice_, "ts": 10.0 * i, "dur": 5.0} for i, slice_ in enumerate(slices)]
    events.append({**slices[2], "name": "aten::bmm", "ts": 21.0, "dur": 1.0})  # inside the first
    found = matched(read_trace(write(tmp_path / "trace.json", events)), attn, 1, 1, 9)
    seen = {row.row.step.kind: row.seen for row in found.rows if isinstance(row.row.step, Kernel)}
    assert seen["attention"] == LAYERS
    assert "bmm" not in {one.op for one in found.unmapped}
