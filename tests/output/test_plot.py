"""Pictures: what the axes say and show is what `predict` says; how it looks has been looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpt2cost
from gpt2cost.errors import InputError
from gpt2cost.output.plot_data import breakdown, curve, roofline, swept
from gpt2cost.output.plot_timeline import timeline

pytest.importorskip("matplotlib")

from gpt2cost.output.plot import BARS, draw, rendered

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
    bands = [collection.get_paths()[0].get_extents() for collection in axes.collections]
    for band, line in zip(bands, axes.get_lines(), strict=True):
        assert band.y0 <= min(line.get_ydata())
        assert band.y1 >= max(line.get_ydata())
    said = texts(figure)
    for word in ("distilgpt2", phase, "fp16", "sdpa attention", "eager runtime", "Predicted"):
        assert word in said
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [A100.name, T4.name]


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
    for data in (line, bars, timeline(step)):
        assert "decode" in data.title
        assert "prefill" not in data.title + data.subtitle
    assert "after 64 tokens" in line.subtitle


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
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(legend[1:]) == set(data.kinds)


def test_a_roofline_shows_every_kernel_that_matters() -> None:
    prediction = gpt2cost.predict("distilgpt2", "a100", batch=8, seq=128)
    data = roofline(prediction)
    figure = draw(data)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("arithmetic intensity (FLOP/B)", "attained rate (FLOP/s)")
    spots = {(round(x, 9), round(y)) for collection in axes.collections for x, y in collection.get_offsets()}
    shown = 0
    for phase in prediction.phases:
        for cost in phase.kernels:
            if cost.flops and cost.device_s / phase.totals.device_s >= 0.005:
                intensity = cost.flops / (cost.read_bytes + cost.write_bytes)
                assert (round(intensity, 9), round(cost.flops / cost.device_s)) in spots
                shown += 1
    assert shown > 20
    flat = {float(line.get_ydata()[0]) for line in axes.get_lines() if len(set(line.get_ydata())) == 1}
    assert flat == {A100.compute.peak_flop_per_s["fp16"], A100.compute.peak_flop_per_s["fp32"]}
    slopes = {
        round(line.get_ydata()[0] / line.get_xdata()[0]) for line in axes.get_lines() if len(set(line.get_ydata())) > 1
    }
    assert slopes == {round(A100.memory.bandwidth_bytes_per_s), round(A100.memory.l2_bandwidth_bytes_per_s)}
    assert "lm_head" in texts(figure)


@pytest.mark.parametrize("runtime", ["eager", "compile", "cuda-graph"])
def test_a_timeline_shows_every_launch(runtime: str) -> None:
    prediction = gpt2cost.predict("distilgpt2", "a100", batch=2, seq=64, runtime=runtime, phase="prefill")
    data = timeline(prediction)
    assert data.latency_s == pytest.approx(prediction.phases[0].totals.latency_s, rel=1e-9)
    figure = draw(data)
    whole, close = figure.axes
    device, host = whole.collections
    assert len(device.get_paths()) == prediction.phases[0].totals.launches
    assert host.get_paths()
    scale = {"(ms)": 1e-3, "(us)": 1e-6}[whole.get_xlabel()[-4:]]
    assert whole.get_xlim()[1] * scale == pytest.approx(data.latency_s)
    assert "transformer.h.3" in close.get_title(loc="left")
    assert any("mlp.c_fc" in text.get_text() for text in close.texts)


def test_nothing_leaves_the_picture() -> None:
    """Titles, names and legends stay inside, and the legends off the data."""
    pictures = [
        roofline(gpt2cost.predict("gpt2-xl", "a100-pcie-40gb", batch=8, seq=128, attn="flash_attention_2")),
        breakdown(MODEL, A100, SIZES, attn="eager"),
        curve(MODEL, [A100, T4, gpt2cost.load_hardware("h200")], SIZES),
        timeline(gpt2cost.predict("gpt2-xl", "a100", batch=2, seq=64, attn="eager", phase="prefill")),
    ]
    for data in pictures:
        figure = draw(data)
        rendered(figure, "png")
        box = figure.bbox
        for artist in [*figure.texts, *figure.legends, *(axes.xaxis.label for axes in figure.axes)]:
            extents = artist.get_window_extent()
            assert box.x0 - 1 <= extents.x0, artist
            assert extents.x1 <= box.x1 + 1, artist
            assert box.y0 - 1 <= extents.y0, artist
            assert extents.y1 <= box.y1 + 1, artist
        for legend in figure.legends:
            assert not any(axes.bbox.overlaps(legend.get_window_extent()) for axes in figure.axes)


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
