"""The page as text: one file that asks for nothing, says no less than `predict`, and can be trusted with any name.

What it does in a browser is another test's.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest

import gpt2cost
from gpt2cost.output.phases import SIDE_BY_SIDE
from gpt2cost.output.shared import SHORT_NAMES
from gpt2cost.table.kernel import Kernel, short_path
from gpt2cost.table.why.reasons import why

pytest.importorskip("jinja2")

from gpt2cost.output.report import context as report

SIZES = {"batch": 8, "seq": 512}


@cache
def page(model: str = "gpt2", gpu: str = "a100", **settings: Any) -> str:
    """A page with all that is there without --train."""
    given = {**SIZES, **settings}
    prediction = gpt2cost.predict(model, gpu, **given)
    generation = gpt2cost.generate(model, gpu, batch=given["batch"], prompt_tokens=given["seq"])
    return report.page(
        report.Report(prediction, (gpt2cost.load_hardware("h100"),), generation, None, "gpt2cost report")
    )


def inside(text: str, id: str) -> Any:
    """The JSON in a script of the page."""
    (found,) = re.findall(rf'<script type="application/json" id="{id}">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


class Elements(HTMLParser):
    """Every start tag with its attributes, and what tags were left open."""

    VOID = ("meta", "input", "rect", "line", "circle", "path", "polyline", "polygon", "use", "br", "link", "img", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


# ---------------------------------------------------------------------------------------------- one file


@pytest.mark.parametrize(("model", "most"), [("gpt2", 500_000), ("gpt2-xl", 1_000_000)])
def test_its_size(model: str, most: int) -> None:
    assert len(page(model).encode("utf-8")) <= most


def test_it_asks_for_nothing() -> None:
    """No address of another file: no element that loads, no url() in the style, no address but in quoted text."""
    text = page()
    loading = {"src", "srcset", "data", "poster", "action", "formaction", "background"}
    for tag, attributes in Elements(text).found:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "video", "audio")
        assert not loading & attributes.keys()
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    spoken = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    for address in re.findall(r"https?://[^\s\"'<]*", spoken):
        assert any(address in row.source for row in gpt2cost.load_hardware("a100").evidence), address


def test_its_policy_allows_its_own_text_alone() -> None:
    text = page()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy).split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    for name, tag in (("style-src", "style"), ("script-src", "script")):
        (own,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode("utf-8")).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    for _, attributes in Elements(text).found:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_its_elements_are_closed_and_its_addresses_are_one_each() -> None:
    elements = Elements(page())
    assert elements.open == []
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in elements.found:
        if tag == "a" and "=" not in (attributes["href"] or ""):
            assert (attributes["href"] or "")[1:] in ids
        for name in ("aria-controls", "aria-labelledby"):
            assert attributes.get(name, ids[0]) in ids


def test_a_name_cannot_leave_its_place() -> None:
    name = 'x</script><script>alert(1)</script>"><b onload=1>'
    prediction = gpt2cost.predict(replace(gpt2cost.load_model("gpt2"), name=name), "a100", **SIZES)
    text = report.page(report.Report(prediction, command=f"gpt2cost report --model '{name}'"))
    assert "alert(1)</script>" not in text
    assert html.escape(name, quote=True).replace("&#x27;", "&#39;") in text
    assert inside(text, "prediction")["model"]["name"] == name
    assert [tag for tag, _ in Elements(text).found].count("script") == 3


# ---------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_the_json_is_that_of_predict(attn: str) -> None:
    assert inside(page(attn=attn), "prediction") == gpt2cost.predict("gpt2", "a100", **SIZES, attn=attn).to_dict()


@pytest.mark.parametrize("settings", [{}, {"attn": "eager"}, {"runtime": "compile"}], ids=str)
def test_every_step_has_its_reason(settings: dict[str, str]) -> None:
    text = html.unescape(page(**settings))
    for phase in gpt2cost.predict("gpt2", "a100", **SIZES, **settings).phases:
        for row in phase.pass_.rows:
            assert why(row).does in text
            assert f'data-kernel="{short_path(row.path)}"' in text
            if isinstance(row.step, Kernel):
                assert str(row.step.source) in text
                for formula in (row.step.flops, row.step.reads, row.step.writes):
                    assert str(formula) in text


def test_shares_are_written_as_in_the_text() -> None:
    assert re.search(r"\d%", text := page())
    assert not re.findall(r"\d\s%", text[text.index("<main>") : text.index("<footer>")])


def test_a_source_is_wrapped_between_its_names() -> None:
    text = page()
    sources = {html.escape(row.source) for row in gpt2cost.load_hardware("a100").evidence}
    cells = re.findall(r'<td class="source">(.*?)</td>', text)
    assert {cell.replace("<wbr>", "") for cell in cells} <= sources
    assert any(re.search(r"\w/<wbr>\w+@<wbr>\w{7}", cell) for cell in cells)


@pytest.mark.parametrize("settings", [{}, {"attn": "eager"}, {"runtime": "compile"}], ids=str)
def test_the_modules_side_by_side_are_those_of_compare(settings: dict[str, str]) -> None:
    prediction = gpt2cost.predict("gpt2", "a100", **SIZES, **settings)
    (table,) = re.findall(r'<section id="sides">.*?<tbody>(.*?)</tbody>', page(**settings), re.DOTALL)
    names = re.findall(r'<th scope="row">(.*?)</th>', table)
    modules = [short_path(row["module"]) for row in SIDE_BY_SIDE.document(prediction)["modules"]]
    assert names == [*modules, "the whole pass"]


def test_every_term_is_explained() -> None:
    text = page()
    for word in re.findall(r'class="term[^"]*" href="#([^"]*)"', text):
        assert f'<div id="{word}">' in text


# ---------------------------------------------------------------------------------------------- points


def points_of(text: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every point of a page that runs: its settings as `predict` takes them, and what the page has of it."""
    data = inside(text, "points-data")
    axes = data["axes"]
    found = []
    for number, choice in enumerate(data["points"]):
        dtype, attn = axes["dtype"][number // len(axes["attn"])], axes["attn"][number % len(axes["attn"])]
        sizes = [(b, s, c) for b in axes["batch"] for s in axes["seq"] for c in axes["cache"]]
        for (batch, seq, cached), point in zip(sizes, choice, strict=bool(choice)):
            given = {"batch": batch, "seq": seq, "cache": cached, "dtype": dtype, "attn": attn}
            found.append((given, {**data["distinct"][point], "table": data["tables"][number]}))
    return found


class Phase:
    """What the page's script reads of a phase: seconds of the pass, and each kernel's with what bounds it."""

    def __init__(self, data: dict[str, Any], phase: list[Any], table: list[int]) -> None:
        self.data = data
        self.sizes, _, bound, _, text = phase
        self.bound = data["pass_bounds"][bound]
        if isinstance(text, dict):
            totals, kernels = text["t"], list(zip(text["k"], map(int, text["c"]), strict=True))
        else:
            count = 5 + len(data["what_ifs"])
            totals = [self.ns(self.code(text[4 * place :][:4]), data["wide"]) for place in range(5)]
            codes = [self.code(text[start:][:3]) for start in range(4 * count, len(text), 3)]
            levels = data["levels"]
            kernels = [(self.ns(code % levels, levels), code // levels) for code in codes]
        self.seconds = [1e-9 * ns for ns in totals]
        self.kernels = {
            data["kernels"][number][0]: (1e-9 * ns, data["bounds"][bound])
            for number, (ns, bound) in zip(table, kernels, strict=True)
            if ns
        }

    def code(self, letters: str) -> int:
        code = 0
        for letter in letters:
            code = 64 * code + self.data["letters"].index(letter)
        return code

    def ns(self, level: int, levels: int) -> float:
        return math.exp(level * self.data["longest"] / (levels - 1)) if level else 0.0


def test_points_are_those_of_predict() -> None:
    """Some points of the grid beside predictions of their own: some of each dtype and attention."""
    text = page()
    data = inside(text, "points-data")
    points = points_of(text)
    assert len(points) > 100
    for given, point in points[:: len(points) // 12]:
        single = gpt2cost.predict("gpt2", "a100", **given)
        memory = single.memory
        assert point["m"] == [memory.weights_bytes, memory.kv_cache_bytes, memory.activations_bytes]
        for phase, own in zip(single.phases, point["p"], strict=True):
            totals = phase.totals
            seconds = [totals.latency_s, totals.latency_low_s, totals.latency_high_s, totals.device_s, totals.host_s]
            read = Phase(data, own, point["table"])
            assert read.sizes == [phase.batch_size, phase.seq_len, phase.cache_len]
            assert read.seconds == pytest.approx(seconds, rel=1e-5)
            assert read.bound == totals.bound
            assert read.kernels.keys() == {short_path(cost.row.path) for cost in phase.kernels}
            for cost in phase.kernels:
                seconds_of, bound = read.kernels[short_path(cost.row.path)]
                assert seconds_of == pytest.approx(cost.device_s, rel=1e-3)
                assert bound == cost.bound


def test_the_script_has_the_names_of_the_rooflines_list() -> None:
    """What is written in the picture is what the script writes of another point; no rule of names is in the script."""
    text = page(attn="eager")
    listed = {name: short for name, _, _, short in inside(text, "points-data")["kernels"]}
    written = dict(re.findall(r'data-kernel="([^"]*)" data-name="\d+">([^<]*)<', text))
    assert written.items() <= listed.items()
    assert len(written) > 6
    script = text[text.rindex("<script>") :]
    assert not [word for word in (*SHORT_NAMES, *SHORT_NAMES.values(), "transformer.") if word in script]


def test_the_asked_point_is_exact() -> None:
    text = page()
    data = inside(text, "points-data")
    asked = {name: data["axes"][name][place] for name, place in zip(data["axes"], data["asked"], strict=True)}
    assert asked == {**SIZES, "cache": 0, "dtype": "fp16", "attn": "sdpa"}
    (point,) = (point for given, point in points_of(text) if given == asked)
    for phase, own in zip(gpt2cost.predict("gpt2", "a100", **SIZES).phases, point["p"], strict=True):
        read = Phase(data, own, point["table"])
        assert read.seconds[0] == pytest.approx(phase.totals.latency_s, rel=1e-15)
        assert sum(seconds for seconds, _ in read.kernels.values()) == pytest.approx(phase.totals.device_s, rel=1e-14)


def test_what_does_not_run_stays_and_says_why() -> None:
    data = inside(page(), "points-data")
    attns, dtypes = data["axes"]["attn"], data["axes"]["dtype"]
    place = dtypes.index("fp32") * len(attns) + attns.index("flash_attention_2")
    assert "flash_attention_2 needs fp16 or bf16" in data["refused"][place]
    assert data["points"][place] == []
    assert data["n_positions"] == 1024
    longest = max(sum(point["p"][0][0][1:]) for point in data["distinct"])
    assert longest > 1024, "a point that no real model can run is there, and its script marks it"


def test_a_graph_that_cannot_be_captured() -> None:
    """At batch 1 flash attention asks the device for values: that point alone says so."""
    data = inside(page(attn="flash_attention_2", runtime="cuda-graph"), "points-data")
    attns, dtypes = data["axes"]["attn"], data["axes"]["dtype"]
    place = dtypes.index("fp16") * len(attns) + attns.index("flash_attention_2")
    points = [data["distinct"][number] for number in data["points"][place]]
    fails = [point["p"][0][0][0] for point in points if "cannot capture" in point.get("x", "")]
    assert set(fails) == {1}


def test_a_generation_and_a_step_say_what_cannot_run() -> None:
    run = gpt2cost.generate("distilgpt2", "a100", prompt_tokens=1000, new_tokens=100)
    step = gpt2cost.train("distilgpt2", "a100", seq=2048)
    text = report.page(report.Report(gpt2cost.predict("distilgpt2", "a100"), (), run, step))
    warned = re.findall(r'<p class="warning">(.*?)</p>', text)
    assert [" exceeds n_positions 1024 of distilgpt2" in warning for warning in warned] == [True, True]
