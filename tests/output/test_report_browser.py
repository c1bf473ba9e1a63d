"""The page in a browser: Chromium opens it, and everything on it works without a request or an error.

Skipped where there is no browser; with GPT2COST_BROWSER=required in the environment it fails there instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gpt2cost
from gpt2cost.errors import InputError
from gpt2cost.prediction.predict import Prediction
from gpt2cost.table.kernel import short_path

REQUIRED = os.environ.get("GPT2COST_BROWSER") == "required"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAGES = {
    "gpt2": ("gpt2", "a100", {"batch": 8, "seq": 512}, ("h100",), True),
    "distilgpt2": ("distilgpt2", "t4", {"batch": 8, "seq": 512}, ("l4", "a100"), False),
    "gpt2-xl": ("gpt2-xl", "rtx4090", {"batch": 1, "seq": 128, "attn": "eager"}, (), False),
    "a step": ("gpt2", "m1", {"batch": 2, "seq": 1, "cache": 100}, (), False),
}
"""Name -> model, device, settings, other devices, whether it has a training step."""
SI = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def lacks(what: str) -> None:
    """Skip, or fail where the browser is required."""
    if REQUIRED:
        pytest.fail(f"GPT2COST_BROWSER=required, and there is no {what}")
    pytest.skip(f"no {what}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacks("playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        lacks("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


def predicted(name: str, **changes: Any) -> Prediction:
    model, gpu, settings, _, _ = PAGES[name]
    return gpt2cost.predict(model, gpu, **{**settings, **changes})


def written(folder: Path, name: str) -> Path:
    """The page's file."""
    pytest.importorskip("jinja2")
    from gpt2cost.output.report import context as report

    path = folder / f"{name}.html"
    if not path.exists():
        model, gpu, settings, others, trains = PAGES[name]
        prediction = predicted(name)
        tokens = {"prompt_tokens": prediction.sizes.kv_len, "batch": settings["batch"], "new_tokens": 32}
        path.write_text(
            report.page(
                report.Report(
                    prediction,
                    tuple(map(gpt2cost.load_hardware, others)),
                    gpt2cost.generate(model, gpu, **tokens, attn=prediction.how.attn),
                    gpt2cost.train(model, gpu, micro_batch=settings["batch"]) if trains else None,
                    "gpt2cost report",
                )
            ),
            "utf-8",
        )
    return path


class Tab:
    """A page that is open. `close` says what went wrong in it."""

    def __init__(self, browser: Any, path: Path, hash: str = "", **context: Any) -> None:
        still = {"viewport": WIDE, "reduced_motion": "reduce"}  # a page that scrolls smoothly has not arrived yet
        self.context = browser.new_context(**{**still, **context})
        self.context.set_default_timeout(120_000)  # many browsers may run beside this one
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.asked: list[str] = []
        self.url = path.as_uri()
        self.page.goto(self.url + hash)

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []
        assert {url.partition("#")[0] for url in self.asked} == {self.url}

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            self.close()
        else:
            self.context.close()

    def texts(self, selector: str) -> list[str]:
        """The texts of the elements that can be seen."""
        return [text.strip() for text in self.page.locator(f"{selector}:visible").all_inner_texts()]

    def text(self, selector: str) -> str:
        (text,) = self.texts(selector)
        return text

    def overflow(self) -> float:
        """By how much the document is wider than the window."""
        return float(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def si(text: str) -> float:
    """The value of `9.28 ms` or `1,091`."""
    number, prefix = re.fullmatch(r"([\d.,]+)\s*(?:([nuµmkMGTP]?)(?:s|B|FLOP|tokens/s)?)?", text.strip()).groups()  # type: ignore[union-attr]
    return float(number.replace(",", "")) * SI[prefix or ""]


def choose(tab: Tab, axis: str, value: str) -> None:
    tab.page.locator(f'[data-axis="{axis}"] label', has_text=re.compile(rf"^\s*{value}\s*$")).click()


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / (3 * 255)


# ---------------------------------------------------------------------------------------------- every page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "390"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens(browser: Any, folder: Path, name: str, size: dict[str, int], scheme: str) -> None:
    """Each of its cards and everything unfolded: nothing is wider than the window, every chart has its room."""
    with Tab(browser, written(folder, name), viewport=size, color_scheme=scheme) as tab:
        cards = tab.page.locator('[role="tab"]')
        assert cards.count() >= 2
        for index in range(cards.count()):
            cards.nth(index).click()
            assert cards.nth(index).get_attribute("aria-selected") == "true"
            assert tab.overflow() <= 0
            if tab.page.locator("#unfold").is_visible():
                tab.page.locator("#unfold").click()
            assert tab.overflow() <= 0
            boxes = [chart.bounding_box() for chart in tab.page.locator("svg.chart:visible").all()]
            assert len(boxes) >= 2
            for box in boxes:
                assert box["width"] >= 300
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= size["width"]


def test_the_names_of_kernels_are_read_on_a_phone(browser: Any, folder: Path) -> None:
    """They are not broken into slivers: none takes more than three lines."""
    with Tab(browser, written(folder, "gpt2-xl"), viewport=NARROW) as tab:
        for link in tab.page.locator("#kernel-table tbody a:visible").all():
            assert link.evaluate("link => link.getClientRects().length") <= 3, link.inner_text()


@pytest.mark.parametrize("name", PAGES)
def test_no_text_of_a_chart_covers_another(browser: Any, folder: Path, name: str) -> None:
    """As the browser's own font has them; of turned texts the middles are apart."""
    with Tab(browser, written(folder, name)) as tab:
        for card in tab.page.locator('[role="tab"]').all():
            card.click()
            for chart in tab.page.locator("svg.chart:visible").all():
                texts = chart.evaluate(
                    """chart => [...chart.querySelectorAll("text:not([transform])")].map(text => {
                         const box = text.getBBox();
                         return [text.textContent, box.x, box.y + 2, box.x + box.width, box.y + box.height - 3];
                       })"""
                )
                for place, (one, *a) in enumerate(texts):
                    assert a[0] >= -1, one
                    assert a[2] <= 481, one
                    for other, *b in texts[place + 1 :]:
                        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                        assert apart, (chart.get_attribute("aria-label"), one, other)


# ---------------------------------------------------------------------------------------------- what one can do


def test_sorting(browser: Any, folder: Path) -> None:
    """A head sorts its column, the largest first, then the other way; the rows stay the same ones."""
    phase = predicted("gpt2").phases[0]
    names = [short_path(c.row.path) for c in phase.kernels if c.count]
    by_time = [short_path(c.row.path) for c in sorted(phase.kernels, key=lambda c: -c.device_s)]
    with Tab(browser, written(folder, "gpt2")) as tab:
        rows = '#kernel-table tbody tr th[scope="row"]'
        assert tab.texts(rows) == names
        time = tab.page.locator('#kernel-table th[data-sort="s"]')
        time.locator("button").click()
        assert time.get_attribute("aria-sort") == "descending"
        assert tab.texts(rows)[:3] == by_time[:3]
        assert set(tab.texts(rows)) == set(names)
        seconds = [si(text) for text in tab.texts('#kernel-table tbody td[data-f="t.s"]')]
        assert seconds == sorted(seconds, reverse=True)
        time.locator("button").click()
        assert time.get_attribute("aria-sort") == "ascending"
        seconds = [si(text) for text in tab.texts('#kernel-table tbody td[data-f="t.s"]')]
        assert seconds == sorted(seconds)
        tab.page.locator('#kernel-table th[data-sort="name"] button').press("Enter")
        assert tab.texts(rows) == sorted(names)


def test_folding(browser: Any, folder: Path) -> None:
    with Tab(browser, written(folder, "gpt2")) as tab:
        step = tab.page.locator('details[data-kernel="h.mlp.act.tanh"]')
        why = step.locator(".why")
        tab.page.locator("#fold").click()
        assert not why.is_visible()
        tab.page.locator("#unfold").click()
        assert why.is_visible()
        assert len(why.inner_text()) > 40
        tab.page.locator("#fold").click()
        assert not why.is_visible()
        mlp = tab.page.locator(
            ".tree .module", has=tab.page.locator("summary .name", has_text=re.compile("^mlp "))
        ).last
        mlp.locator("> summary").focus()
        opened = mlp.get_attribute("open")
        tab.page.keyboard.press("Enter")
        assert mlp.get_attribute("open") != opened


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(("batch", "dtype"), [("32", "fp16"), ("1", "fp32")])
def test_a_button_shows_another_point(browser: Any, folder: Path, phase: str, batch: str, dtype: str) -> None:
    """What is shown there is what `predict` says of it; and back."""
    other = predicted("gpt2", batch=int(batch), dtype=dtype)
    own = other.prefill if phase == "prefill" else other.decode
    assert own is not None
    with Tab(browser, written(folder, "gpt2")) as tab:
        before = tab.text(f'#tab-{phase} [data-v="latency"]')
        tab.page.locator(f"#tab-{phase}").click()
        choose(tab, "batch", batch)
        choose(tab, "dtype", dtype)
        assert si(tab.text(f'#tab-{phase} [data-v="latency"]')) == pytest.approx(own.totals.latency_s, rel=0.006)
        low, high = tab.text(f'#tab-{phase} [data-v="range"]').split(" to ")
        assert si(low) == pytest.approx(own.totals.latency_low_s, rel=0.006)
        assert si(high) == pytest.approx(own.totals.latency_high_s, rel=0.006)
        assert tab.text(f'#tab-{phase} [data-v="bound"]') == f"{own.totals.bound}-bound"
        unit = {"ms": 1e-3, "µs": 1e-6, "us": 1e-6}[tab.text('#kernel-table [data-unit="s"]')]
        shown = dict(
            zip(
                tab.texts('#kernel-table tbody th[scope="row"]'),
                tab.texts('#kernel-table tbody td[data-f="t.s"]'),
                strict=True,
            )
        )
        flops = dict(zip(shown, tab.texts('#kernel-table tbody td[data-f="t.flops"]'), strict=True))
        flop_unit = SI[tab.text('#kernel-table [data-unit="flops"]').removesuffix("FLOP")]
        assert set(shown) == {short_path(c.row.path) for c in own.kernels if c.count}
        for cost in own.kernels:
            name = short_path(cost.row.path)
            assert si(shown[name]) * unit == pytest.approx(cost.device_s, rel=0.01, abs=0.0051 * unit)
            assert si(flops[name]) * flop_unit == pytest.approx(cost.flops, rel=0.01, abs=0.0051 * flop_unit)
        assert "point=" in tab.page.url
        tab.page.locator("#back").click()
        assert tab.text(f'#tab-{phase} [data-v="latency"]') == before


def test_a_point_that_does_not_run_says_why(browser: Any, folder: Path) -> None:
    with pytest.raises(InputError) as refused:
        predicted("gpt2", dtype="fp32", attn="flash_attention_2")
    with Tab(browser, written(folder, "gpt2")) as tab:
        choose(tab, "dtype", "fp32")
        choose(tab, "attn", "flash_attention_2")
        assert str(refused.value) in tab.text("#warning")
        choose(tab, "dtype", "fp16")
        assert "does not run" not in tab.page.locator("#warning").inner_text()


def test_a_link_restores(browser: Any, folder: Path) -> None:
    """The address of a point, a phase and a kernel shows them in a new window; and going back goes back."""
    path = written(folder, "gpt2")
    with Tab(browser, path) as tab:
        tab.page.locator("#tab-decode").click()
        choose(tab, "batch", "32")
        tab.page.locator('#kernel-table a[href="#kernel=h.attn.c_attn"]').click()
        address = tab.page.url.partition("#")[2]
        latency = tab.text('#tab-decode [data-v="latency"]')
        tab.page.go_back()
        tab.page.go_back()
        own = """text => document.querySelector('#tab-decode [data-v="latency"]').innerText.trim() !== text"""
        tab.page.wait_for_function(own, arg=latency)  # the page hears of it later
    with Tab(browser, path, f"#{address}") as tab:
        assert tab.text('#tab-decode [data-v="latency"]') == latency
        assert tab.page.locator("#tab-decode").get_attribute("aria-selected") == "true"
        step = tab.page.locator('details[data-kernel="h.attn.c_attn"]')
        assert step.get_attribute("open") is not None
        box = step.bounding_box()
        assert box["y"] < WIDE["height"]
        assert box["y"] + box["height"] > 0
        assert tab.page.locator('.chart:visible [data-kernel="h.attn.c_attn"].on').count() >= 2
    with Tab(browser, path, "#point=x,,&phase=nonsense&kernel=%E0%A4%A") as tab:
        assert tab.page.locator("#tab-prefill").get_attribute("aria-selected") == "true"


def test_the_roofline_follows_the_point(browser: Any, folder: Path) -> None:
    """Marks stand where a prediction of the point has them, as the axes' scales say, and the list names the largest."""
    tab = Tab(browser, written(folder, "gpt2"), "#point=32,512,0,fp16,eager")
    (phase,) = predicted("gpt2", batch=32, attn="eager", phase="prefill").phases
    costs = sorted(phase.kernels, key=lambda cost: -cost.device_s)
    chart = tab.page.locator("#roofline-prefill")
    names, shares = (chart.locator(f"[data-{key}]").all_text_contents() for key in ("name", "share"))
    assert names == [short_path(cost.row.path) for cost in costs[:6]]
    assert shares == [f"{cost.device_s / phase.totals.device_s:.1%}" for cost in costs[:6]]
    scales = [chart.locator(".scales").get_attribute(f"data-{axis}").split() for axis in ("x", "y")]
    for cost in costs[:6]:
        mark = chart.locator(f'.mark.moved[data-kernel="{short_path(cost.row.path)}"]')
        values = cost.flops / cost.moved_bytes, cost.flops / cost.device_s
        for axis, value, (low, high, start, end) in zip(("cx", "cy"), values, scales, strict=True):
            share = (float(mark.get_attribute(axis)) - float(start)) / (float(end) - float(start))
            assert float(low) * (float(high) / float(low)) ** share == pytest.approx(value, rel=0.01)
    tab.page.click("#back")
    assert chart.locator(".moved").count() == 0
    tab.close()


def test_the_saved_prediction_is_that_of_predict(browser: Any, folder: Path) -> None:
    with Tab(browser, written(folder, "gpt2")) as tab:
        with tab.page.expect_download() as download:
            tab.page.click("#save")
        assert json.loads(Path(download.value.path()).read_text("utf-8")) == predicted("gpt2").to_dict()
        tab.asked = [url for url in tab.asked if not url.startswith("blob:")]


def test_a_mark_opens_its_kernel(browser: Any, folder: Path) -> None:
    with Tab(browser, written(folder, "gpt2")) as tab:
        tab.page.locator('#roofline-prefill text[data-kernel="lm_head"]').click()
        assert tab.page.locator('details[data-kernel="lm_head"]').get_attribute("open") is not None
        assert tab.page.url.endswith("kernel=lm_head")


def test_every_kernel_of_a_chart_is_in_the_tree(browser: Any, folder: Path) -> None:
    with Tab(browser, written(folder, "gpt2")) as tab:
        marks, steps = tab.page.evaluate(
            """["#pictures .chart [data-kernel]", "details[data-kernel]"].map(selector =>
                 [...new Set([...document.querySelectorAll(selector)].map(element => element.dataset.kernel))])"""
        )
        assert len(marks) > 20
        assert set(marks) <= set(steps)


def test_the_glossary_shows_on_focus(browser: Any, folder: Path) -> None:
    with Tab(browser, written(folder, "gpt2")) as tab:
        term = tab.page.locator(".term:visible").first
        assert not tab.page.locator("#tip").is_visible()
        term.focus()
        explained = tab.text("#tip")
        target = (term.get_attribute("href") or "").removeprefix("#")
        assert explained == tab.page.locator(f'[id="{target}"] dd').inner_text().strip()
        assert len(explained) > 20
        assert tab.overflow() <= 0
        tab.page.keyboard.press("Escape")
        assert not tab.page.locator("#tip").is_visible()
        term.hover()
        assert tab.text("#tip") == explained


def test_keys_choose_a_card(browser: Any, folder: Path) -> None:
    with Tab(browser, written(folder, "gpt2")) as tab:
        tab.page.locator("#tab-prefill").focus()
        for id in ("tab-decode", "tab-generate", "tab-train", "tab-prefill"):
            tab.page.keyboard.press("ArrowRight")
            assert tab.page.evaluate("document.activeElement.id") == id
            assert tab.page.locator(f"#{id}").get_attribute("aria-selected") == "true"


def test_a_name_is_only_a_name(browser: Any, folder: Path) -> None:
    """A model may be called anything; and what is not the page's own script does not run in it."""
    pytest.importorskip("jinja2")
    from gpt2cost.output.report import context as report

    name = "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">&amp;"
    model = replace(gpt2cost.load_model("gpt2"), name=name)
    path = folder / "wicked.html"
    path.write_text(report.page(report.Report(gpt2cost.predict(model, "a100", seq=16))), "utf-8")
    with Tab(browser, path) as tab:
        assert tab.text("h1") == f"{name} on a100-sxm-80gb"
        assert tab.page.title() != "ran"
    tab = Tab(browser, path)
    tab.page.evaluate(
        """() => { const own = document.createElement("script"); own.textContent = "document.title = 'ran'";
                   document.body.append(own); }"""
    )
    assert tab.page.title() != "ran"
    assert any("Content Security Policy" in text for text in tab.wrong)
    tab.context.close()


COLOURS = """() => {
  const of = (selector, what) => getComputedStyle(document.querySelector(selector))[what];
  const text = of(".chart text:not(.tick)", "fill");
  return [of("body", "backgroundColor"), of("body", "color"), text, of(".chart .grid", "stroke")];
}"""


def test_dark_mode(browser: Any, folder: Path) -> None:
    """As the system has it, and by the button: the page and its charts."""
    path = written(folder, "gpt2")
    with Tab(browser, path, color_scheme="light") as tab:
        paper, ink, text, grid = tab.page.evaluate(COLOURS)
        assert brightness(paper) > 0.9
        assert max(brightness(ink), brightness(text)) < 0.3
        tab.page.locator("#theme").click()
        by_button = tab.page.evaluate(COLOURS)
    with Tab(browser, path, color_scheme="dark") as tab:
        dark = tab.page.evaluate(COLOURS)
    assert dark == by_button
    assert brightness(dark[0]) < 0.15
    assert min(brightness(dark[1]), brightness(dark[2])) > 0.7
    assert brightness(dark[3]) < brightness(grid)


BARS = """() => [...document.querySelectorAll("svg.stack")].filter(bar => bar.checkVisibility()).map(bar => {
  const parts = [...bar.querySelectorAll("rect")].filter(part => part.width.baseVal.value > 2);
  const entries = [...bar.nextElementSibling.querySelectorAll("li:not([hidden]) .dot")];
  return [parts.map(part => getComputedStyle(part).fill), entries.map(dot => getComputedStyle(dot).backgroundColor)];
})"""


def test_every_bar_has_its_colour(browser: Any, folder: Path) -> None:
    """The parts of a bar are told apart, and each is the colour of its entry in the legend."""
    with Tab(browser, written(folder, "gpt2"), color_scheme="light") as tab:
        for card, bars in (("prefill", 2), ("train", 2)):
            tab.page.locator(f"#tab-{card}").click()
            found = tab.page.evaluate(BARS)
            assert len(found) == bars
            for parts, entries in found:
                assert len(set(parts)) == len(parts) >= 2
                assert set(parts) <= set(entries)


def test_print(browser: Any, folder: Path) -> None:
    """All cards, all steps, on white paper, from a dark page too."""
    with Tab(browser, written(folder, "gpt2"), color_scheme="dark") as tab:
        assert not tab.page.locator("#panel-generate").is_visible()
        tab.page.emulate_media(media="print", color_scheme="dark")
        tab.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        for panel in tab.page.locator('[role="tabpanel"]').all():
            assert panel.is_visible()
        for chart in tab.page.locator("svg.chart").all():
            assert chart.is_visible(), chart.get_attribute("aria-label")
        assert tab.page.locator('details[data-kernel="h.attn.c_attn"] .why').is_visible()
        paper, ink, *_ = tab.page.evaluate(COLOURS)
        assert brightness(paper) > 0.9 or paper == "rgba(0, 0, 0, 0)"
        assert brightness(ink) < 0.3
        assert tab.page.pdf().startswith(b"%PDF")
