"""Pictures: what the axes say and show is what `predict` says; how it looks has been looked at."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import gpt2cost
from gpt2cost.errors import InputError
from gpt2cost.output.pictures.plot_data import Picture, breakdown, curve, roofline, swept
from gpt2cost.output.pictures.plot_memory import memory, memory_of_training, memory_over_tokens
from gpt2cost.output.pictures.plot_runs import generated, step_split
from gpt2cost.output.pictures.plot_timeline import timeline
from gpt2cost.prediction.train_settings import check_train_how
from gpt2cost.units import format_quantity

pytest.importorskip("matplotlib")

from matplotlib.collections import FillBetweenPolyCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from gpt2cost.output.pictures.canvas import BARS, boxes_of
from gpt2cost.output.pictures.plot import draw

MODEL, A100, T4 = gpt2cost.load_model("distilgpt2"), gpt2cost.load_hardware("a100"), gpt2cost.load_hardware("t4")
SIZES: dict[str, object] = {"batch": "1-64*2", "seq": 32, "cache": 0}


def texts(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize("quantity", ["latency", "throughput"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_curve_shows_the_predictions(phase: str, quantity: str) -> None:
    figure = draw(curve(MODEL, [A100, T4], SIZES, phase, quantity, dtype="fp16"))
    (axes,) = figure.axes
    unit = "tokens/s" if quantity == "throughput" else "ms"
    assert f"({unit})" in axes.get_ylabel()
    assert axes.get_xlabel() == "batch size (sequences)"
    scale = 1.0 if quantity == "throughput" else 1e-3
    for line, device in zip(axes.get_lines(), ("a100", "t4"), strict=True):
        assert list(line.get_xdata()) == [1, 2, 4, 8, 16, 32, 64]
        for batch, value in zip(line.get_xdata(), line.get_ydata(), strict=True):
            totals = gpt2cost.predict("distilgpt2", device, batch=int(batch), seq=32, phase=phase).phases[0].totals
            expected = totals.tokens_per_s if quantity == "throughput" else totals.latency_s
            assert value * scale == pytest.approx(expected, rel=1e-12)
    bands = [c.get_paths()[0].get_extents() for c in axes.collections if isinstance(c, FillBetweenPolyCollection)]
    for band, line in zip(bands, axes.get_lines(), strict=True):
        assert band.y0 <= min(line.get_ydata())
        assert band.y1 >= max(line.get_ydata())
    said = texts(figure)
    for word in ("distilgpt2", phase, "fp16", "sdpa attention", "eager runtime", "Predicted"):
        assert word in said
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == [A100.name, T4.name]


def test_a_curve_is_hollow_where_the_host_sets_the_pace() -> None:
    """Which is where it is flat: twice the batch takes the same time."""
    data = curve(MODEL, [T4], {"batch": "1-64*2", "seq": 256})
    (line,) = data.lines
    bounds = [
        gpt2cost.predict(MODEL, T4, batch=int(batch), seq=1, cache=256).phases[0].totals.bound for batch in data.sizes
    ]
    assert line.host_bound.tolist() == [bound == "host" for bound in bounds]
    assert 0 < line.host_bound.sum() < len(data.sizes)
    figure = draw(data)
    hollow = figure.axes[0].collections[-1].get_offsets()
    assert [int(x) for x, _ in hollow] == data.sizes[line.host_bound].tolist()
    assert "host-bound" in figure.legends[0].get_texts()[-1].get_text()


@pytest.mark.parametrize("batch", ["1,2", "1,2,3", "5-12", "1,100"])
def test_no_size_is_written_twice_below_an_axis(batch: str) -> None:
    """Sizes are whole numbers; a tick between two of them would be rounded to one."""
    figure = draw(curve(MODEL, [A100], {**SIZES, "batch": batch}, "decode", "latency"))
    figure.canvas.draw()
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert len(ticks) == len(set(ticks)) > 0


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_throughput_without_a_cache_counts_new_tokens(phase: str) -> None:
    """A decode step without a KV cache runs over all tokens, but brings one per sequence."""
    data = curve(MODEL, [A100], SIZES, phase, "throughput", use_cache=False)
    assert len(data.sizes) == 7
    for batch, rate, low, high in zip(
        data.sizes, data.lines[0].values, data.lines[0].low, data.lines[0].high, strict=True
    ):
        prediction = gpt2cost.predict(MODEL, A100, batch=int(batch), seq=32, phase=phase, use_cache=False)
        assert rate == pytest.approx(prediction.phases[0].totals.tokens_per_s, rel=1e-12)
        assert low < rate < high


@pytest.mark.parametrize("asked", ["prefill", "decode"])
def test_a_decode_step_is_labelled_as_predict_labels_it(asked: str) -> None:
    """One token on a cache is a decode step, whatever it was asked for as."""
    swept: dict[str, object] = {"batch": "1,2,4", "seq": 1, "cache": 64}
    step = gpt2cost.predict(MODEL, A100, batch=2, seq=1, cache=64, phase=asked)
    assert [phase.phase for phase in step.phases] == ["decode"]
    line, bars = curve(MODEL, [A100], swept, asked), breakdown(MODEL, A100, swept, asked)
    assert line.lines[0].values[1] == pytest.approx(step.phases[0].totals.latency_s, rel=1e-12)
    assert sum(bars.kinds.values())[1] == pytest.approx(step.phases[0].totals.device_s, rel=1e-12)
    for data in (line, bars, timeline(step), memory(step)):
        assert "decode" in data.title
        assert "prefill" not in data.title + data.subtitle
    assert "after 64 tokens" in line.subtitle


@pytest.mark.parametrize("asked", ["prefill", "decode"])
@pytest.mark.parametrize(
    ("given", "cached"),
    [
        ({"seq": 1, "cache": "64-960+128"}, range(64, 961, 128)),
        ({"seq": 1, "cache": "0,64"}, [0, 64]),
        ({"seq": 128, "cache": "0,64"}, [128, 192]),
        ({"seq": "64,128", "cache": 32}, [96, 160]),
        ({"seq": "1,2,4", "cache": 32}, [32, 34, 36]),
    ],
)
def test_the_axis_of_a_decode_step_is_the_cache_that_it_has(asked: str, given: dict[str, object], cached: Any) -> None:
    """As predict names the pass and its sizes; a prefill's axis is what was given."""
    bars, line = breakdown(MODEL, T4, {"batch": 2, **given}, asked), curve(MODEL, [T4], {"batch": 2, **given}, asked)
    is_step = asked == "decode" or given["seq"] == 1
    for data in (bars, line):
        if not is_step:
            assert data.axis_text in ("new tokens per sequence", "cached tokens per sequence")
            swept_ = str(given["seq"]) if "," in str(given["seq"]) else str(given["cache"])
            assert list(data.sizes) == [int(size) for size in swept_.split(",")]
            assert "prefill" in data.title
            continue
        if given == {"seq": 1, "cache": "0,64"} and asked == "decode":
            cached = [1, 64]  # the step after one token on nothing
        assert data.axis_text == "cached tokens per sequence before the step"
        assert list(data.sizes) == list(cached)
        assert "one new token per sequence" in data.subtitle
        assert "decode" in data.title
        for number, size in enumerate(cached):
            if size:
                step = gpt2cost.predict(MODEL, T4, batch=2, seq=1, cache=size).phases[0].totals
                whole = sum(bars.kinds.values())[number] + bars.waiting[number]
                assert whole == pytest.approx(step.latency_s, rel=1e-12)
                assert line.lines[0].values[number] == pytest.approx(step.latency_s, rel=1e-12)


def test_without_a_cache_a_step_runs_all_tokens_anew() -> None:
    data = breakdown(MODEL, A100, {"seq": "16,32"}, "decode", use_cache=False)
    assert list(data.sizes) == [17, 33]
    assert "anew" in data.axis_text


def test_a_timeline_that_is_too_long() -> None:
    model = gpt2cost.change_model(MODEL, {"n_layer": 10**7})
    with pytest.raises(InputError, match="at most 200,000 slices"):
        timeline(gpt2cost.predict(model, A100, phase="prefill"))


def test_a_curve_marks_the_end_of_the_positions() -> None:
    sizes: dict[str, object] = {"cache": "900-1200+50", "seq": 1}
    (axes,) = draw(curve(MODEL, [A100], sizes)).axes
    assert list(axes.get_lines()[1].get_xdata()) == [1050, 1050]
    (axes,) = draw(curve(MODEL, [A100], SIZES)).axes
    assert len(axes.get_lines()) == 1


@pytest.mark.parametrize("sizes", [SIZES, {"seq": f"16-{16 * (BARS + 9)}+16"}], ids=["bars", "areas"])
def test_a_breakdown_adds_up_to_the_latency(sizes: dict[str, object]) -> None:
    data = breakdown(MODEL, A100, sizes)
    axis, values, given = swept(sizes)
    total = sum(data.kinds.values()) + data.waiting
    totals = gpt2cost.predict("distilgpt2", "a100", **given, phase="prefill").phases[0].totals
    assert total == pytest.approx(totals.latency_s, rel=1e-12)
    assert sum(data.kinds.values()) == pytest.approx(totals.device_s, rel=1e-12)
    assert np.all(data.waiting >= 0)
    figure = draw(data)
    upper, lower = figure.axes
    assert upper.get_ylabel() == "time of the pass (ms)"
    assert lower.get_ylabel() == "share of the pass (%)"
    if axis == "batch":
        tops = {round(float(p.get_x()), 6): float(p.get_y() + p.get_height()) for p in upper.patches}
        assert sorted(tops.values()) == pytest.approx(sorted(1e3 * total), rel=1e-9)
        assert [tick.get_text() for tick in lower.get_xticklabels()] == [str(value) for value in values]
    legend = [text.get_text().partition("\n")[0] for text in figure.legends[0].get_texts()]
    assert set(legend[1:]) == set(data.kinds)


def test_small_batches_are_seen_beside_large_ones() -> None:
    """Where times differ much they are per token, and the bars say the time of the pass."""
    data = breakdown(MODEL, A100, {"batch": "1-256*4", "seq": 512})
    whole = sum(data.kinds.values()) + data.waiting
    upper = draw(data).axes[0]
    assert upper.get_ylabel() == "time per new token (us)"
    tops = {round(float(p.get_x()), 6): float(p.get_y() + p.get_height()) for p in upper.patches}
    assert list(tops.values()) == pytest.approx(1e6 * whole / (512 * data.sizes), rel=1e-9)
    assert min(tops.values()) > 0.1 * max(tops.values())
    assert [text.get_text() for text in upper.texts] == [format_quantity(seconds, "s") for seconds in whole]


@pytest.mark.parametrize("sizes", [{"batch": 8, "seq": 128}, {"batch": 64, "seq": 1, "cache": 960}])
@pytest.mark.parametrize("gpu", ["a100", "t4"])
def test_a_roofline_shows_every_kernel_that_matters(gpu: str, sizes: dict[str, int]) -> None:
    """Those with FLOPs below the roofs, the others in the strip; all of them in the list, whose shares are all."""
    prediction = gpt2cost.predict("distilgpt2", gpu, **sizes)
    hw, data = prediction.hardware, roofline(prediction)
    figure = draw(data)
    axes, strip = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("arithmetic intensity (FLOP/B)", "attained rate (FLOP/s)")
    marks = [
        [offset for collection in own.collections if isinstance(collection, PathCollection)
         for offset in collection.get_offsets()] for own in (axes, strip)
    ]  # fmt: skip
    below = {(round(x, 9), round(y)) for x, y in marks[0]}
    rates = {round(y) for _, y in marks[1]}
    shown = 0
    for phase in prediction.phases:
        for cost in phase.kernels:
            if cost.device_s / phase.totals.device_s >= 0.005:
                moved = cost.read_bytes + cost.write_bytes
                if cost.flops:
                    assert (round(cost.flops / moved, 9), round(cost.flops / cost.device_s)) in below
                else:
                    assert round(moved / cost.device_s) in rates
                shown += 1
        own = [point for point in data.points if point.phase == phase.phase]
        assert sum(point.share for point in own) == pytest.approx(1)
    assert shown == len(marks[0]) + len(marks[1]) >= 7
    roofs = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]
    flat = {float(line.get_ydata()[0]) for line in roofs if len(set(line.get_ydata())) == 1}
    assert flat == {hw.compute.peak_flop_per_s["fp16"], hw.compute.peak_flop_per_s["fp32"]}
    slopes = {round(line.get_ydata()[0] / line.get_xdata()[0]) for line in roofs if len(set(line.get_ydata())) > 1}
    assert slopes == {round(hw.memory.bandwidth_bytes_per_s), round(hw.memory.l2_bandwidth_bytes_per_s)}
    ridge = hw.compute.peak_flop_per_s["fp16"] / hw.memory.bandwidth_bytes_per_s
    assert any(f"ridge point\n{ridge:,.0f} FLOP/B" == text.get_text() for text in axes.texts)
    said = texts(figure)
    assert "lm_head" in said
    if "cache" in sizes:
        assert "h.attn.cat_key" in said
        assert "h.attn.cat_value" in said


def test_a_phase_has_one_mark() -> None:
    """A decode step is a triangle, whatever it is drawn beside."""

    def marks(**sizes: int) -> dict[str, Any]:
        legend = draw(roofline(gpt2cost.predict(MODEL, A100, **sizes))).legends[0]
        names = [text.get_text() for text in legend.get_texts()]
        return {
            name: h.get_marker()
            for name, h in zip(names, legend.legend_handles, strict=True)
            if hasattr(h, "get_marker")
        }

    both, alone = marks(batch=8), marks(seq=1, cache=64)
    assert both["prefill"] != both["decode"] == alone["decode"]


@pytest.mark.parametrize("runtime", ["eager", "compile", "cuda-graph"])
@pytest.mark.parametrize("gpu", ["a100", "t4"])
def test_a_timeline_shows_every_launch(gpu: str, runtime: str) -> None:
    prediction = gpt2cost.predict("distilgpt2", gpu, batch=2, seq=64, runtime=runtime, phase="prefill")
    data = timeline(prediction)
    assert data.latency_s == pytest.approx(prediction.phases[0].totals.latency_s, rel=1e-9)
    figure = draw(data)
    whole, *close = figure.axes
    device, host = whole.collections
    assert len(device.get_paths()) == prediction.phases[0].totals.launches
    assert host.get_paths()
    scale = {"(ms)": 1e-3, "(us)": 1e-6}[whole.get_xlabel()[-4:]]
    assert whole.get_xlim()[1] * scale == pytest.approx(data.latency_s)
    assert {"embeddings", "lm_head", "h.3"} <= {text.get_text() for text in whole.texts}
    assert len(close) == (1 if runtime == "cuda-graph" else 2)  # the host issues a graph in one launch
    assert all("h.3" in axes.get_title(loc="left") for axes in close)
    assert any("mlp.c_fc" in text.get_text() for text in close[-1].texts)


@pytest.mark.parametrize("sizes", [{"batch": 8, "seq": 512}, {"batch": 8, "seq": 1, "cache": 512}])
@pytest.mark.parametrize("gpu", ["a100", "t4"])
def test_one_layer_is_one_layer(gpu: str, sizes: dict[str, int]) -> None:
    """The window of each track is the layer's own, and every kernel of the layer has its name there."""
    prediction = gpt2cost.predict("distilgpt2", gpu, **sizes)
    data = timeline(prediction)
    for track, (low, high) in data.windows.items():
        (own,) = (group for group in data.groups if group.track == track and group.label == "h.3")
        assert {piece.module.split(".")[2] for piece in own.slices} == {"3"}
        assert low <= own.start_s < own.end_s <= high
        assert own.end_s - own.start_s > 0.85 * (high - low)
    labels = {group.label for group in data.groups}
    assert labels == {"", "embeddings", "ln_f", "lm_head", *(f"h.{layer}" for layer in range(6))}
    names = [text.get_text() for text in draw(data).axes[2].texts if text.get_rotation() == 90]
    layer = [piece for piece in data.slices if piece.track == "device" and piece.module.startswith("transformer.h.3")]
    assert len(names) == len(layer)


@pytest.mark.parametrize(("model", "runtime"), [("nano", "eager"), ("nano", "compile"), ("gpt2", "compile")])
def test_the_first_and_the_last_step_belong_somewhere(model: str, runtime: str) -> None:
    """What a compiler takes out of the first block, and nanoGPT's steps, which have no module."""
    impl = "nanogpt" if model == "nano" else "hf"
    data = timeline(gpt2cost.predict("gpt2", "a100", impl=impl, runtime=runtime, logits="last", phase="prefill"))
    labels = [group.label for group in data.groups if group.track == "device"]
    assert labels[0] in ("embeddings", "h.0")
    assert labels[-1] == "lm_head"
    assert len(set(labels)) == len(labels)


# ---------------------------------------------------------------------------------------------- how texts lie


def pictures() -> dict[str, Callable[[], Picture]]:
    """Settings that crowd a picture."""
    decode = {"batch": 8, "seq": 1, "cache": 512}
    how = check_train_how()
    return {
        "roofline": lambda: roofline(gpt2cost.predict("gpt2", A100, batch=8, seq=512)),
        "roofline of a decode step": lambda: roofline(gpt2cost.predict(MODEL, T4, **decode)),
        "roofline in fp32": lambda: roofline(gpt2cost.predict("gpt2-xl", "h100", batch=8, attn="eager", dtype="fp32")),
        "timeline": lambda: timeline(gpt2cost.predict("gpt2-xl", A100, batch=2, seq=64, attn="eager", phase="prefill")),
        "timeline of a decode step": lambda: timeline(gpt2cost.predict(MODEL, T4, **decode)),
        "timeline of a graph": lambda: timeline(gpt2cost.predict("gpt2", A100, runtime="cuda-graph")),
        "breakdown": lambda: breakdown(MODEL, A100, {"batch": "1-64*2", "seq": 512}, attn="eager"),
        "breakdown of many": lambda: breakdown(MODEL, T4, {"seq": "32-640+32"}),
        "curve": lambda: curve(MODEL, [A100, T4, gpt2cost.load_hardware("h200")], SIZES),
        "curve beyond": lambda: curve(MODEL, [T4], {"seq": 1, "cache": "900-1400+50"}),
        "memory": lambda: memory(gpt2cost.predict("gpt2", A100, batch=8, seq=512, phase="prefill")),
        "memory of a chunk": lambda: memory(gpt2cost.predict("gpt2-xl", A100, seq=64, cache=64, attn="eager")),
        "memory over tokens": lambda: memory_over_tokens(gpt2cost.generate(MODEL, T4, batch=32)),
        "memory of a step": lambda: memory_of_training(gpt2cost.train(MODEL, A100, micro_batch=4)),
        "generation": lambda: generated(MODEL, T4, batch=8, new_tokens=40),
        "generation at one pace": lambda: generated(MODEL, A100, prompt_tokens=16, new_tokens=20),
        "step": lambda: step_split(MODEL, A100, how, {"gpus": "1-64*2", "micro_batch": 8}),
    }  # fmt: skip


@pytest.mark.parametrize("name", pictures())
def test_texts_keep_apart_and_inside(name: str) -> None:
    """No two texts of a picture touch, and none leaves it; legends stay off the axes."""
    figure = draw(pictures()[name]())
    figure.canvas.draw()
    beyond = _ticks_beyond(figure)
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in beyond]
    boxes = {text: [box.padded(-1) for box in boxes_of(text)] for text in shown}
    for text, own in boxes.items():
        for box in own:
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
    for one, other in combinations(shown, 2):
        assert not any(a.overlaps(b) for a in boxes[one] for b in boxes[other]), (one, other)
    for legend in figure.legends:
        assert not any(axes.bbox.overlaps(legend.get_window_extent()) for axes in figure.axes)


def _ticks_beyond(figure: Figure) -> set[Any]:
    """The names of ticks beyond the end of their axis, which are not drawn."""
    beyond: set[Any] = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    beyond |= {tick.label1, tick.label2}
    return beyond


def test_parts_of_a_picture_can_be_told_apart() -> None:
    """Catches two kinds of kernels that are filled alike, and two devices whose lines look alike."""
    axes = draw(breakdown(MODEL, A100, SIZES, attn="eager")).axes[0]
    bars = [container.patches[0] for container in axes.containers]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == len(bars) > 4
    names = ("a100", "t4", "h100", "l4", "v100", "rtx4090", "h200")
    lines = draw(curve(MODEL, [gpt2cost.load_hardware(name) for name in names], SIZES)).axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == len(names)


# ---------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "exactly one"),
        ({"batch": "1,2", "seq": "1,2"}, "exactly one"),
        ({"batch": "4-1"}, "batch: .*backwards"),
        ({"batch": "x"}, "batch: expected"),
        ({"batch": "0,1"}, "batch: expected"),
    ],
)
def test_sizes_that_are_no_sweep(sizes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        swept(sizes)
