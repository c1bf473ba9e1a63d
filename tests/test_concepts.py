"""docs/concepts.md: its glossary is the page's, its parameters and shapes are those of the real model."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from helpers import ROOT
from oracle import build, tensors
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import DynamicCache

from gpt2cost.files import data_dir
from gpt2cost.output.glossary import GLOSSARY, SUBJECTS
from gpt2cost.prediction.trust import WORDS
from gpt2cost.table import symbols
from gpt2cost.table.formula import Formula
from gpt2cost.table.kernel import Kind
from gpt2cost.table.options import RUNTIMES
from gpt2cost.timing.kernel import BOUNDS

TEXT = (ROOT / "docs" / "concepts.md").read_text("utf-8")
EMBEDDINGS = ("transformer.wte", "transformer.wpe")


def section(title: str) -> str:
    """What stands below a heading, up to the next."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", TEXT, re.M | re.S)
    assert found, title
    return found[1]


def table(title: str) -> list[list[str]]:
    """The rows of a section's table, without its two lines of headings; cells without their backticks."""
    lines = re.findall(r"^\|.*\|$", section(title), re.M)[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def whole(number: str) -> int:
    return int(number.replace(",", ""))


# ---------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_glossary_is_the_pages(subject: str) -> None:
    """Each term with its sentence, in the same order; the page has no code font."""
    entries = re.findall(r"^\* \*\*(.+?)\*\*: (.+?)(?=^\* |\Z)", section(subject).rstrip() + "\n", re.M | re.S)
    plain = [tuple(" ".join(text.replace("`", "").split()) for text in entry) for entry in entries]
    assert plain == list(SUBJECTS[subject].items())


def test_a_term_is_explained_in_plain_words() -> None:
    assert len(GLOSSARY) == sum(map(len, SUBJECTS.values())), "once"
    for term, text in GLOSSARY.items():
        assert 20 < len(text) < 240, term
        assert text.endswith(".")
        assert "`" not in text


def test_what_the_output_says_has_an_entry() -> None:
    """Symbols, kinds, bounds, trust words, runtimes and attention implementations."""
    words = {str(value) for value in vars(symbols).values() if isinstance(value, Formula)}
    words |= {"GEMM" if kind == "gemm" else kind for kind in get_args(Kind)} | {f"{bound}-bound" for bound in BOUNDS}
    words |= {*WORDS, *RUNTIMES, "sdpa", "host-bound", "eager runtime", "eager attention", "flash attention"} - {
        "eager"
    }
    assert words <= GLOSSARY.keys(), words - GLOSSARY.keys()


# ---------------------------------------------------------------------------------------------- parameters


def real(name: str) -> GPT2LMHeadModel:
    """A preset's model, without data."""
    config = GPT2Config.from_json_file(str(data_dir("configs") / f"{name}.json"))
    with torch.device("meta"):
        return GPT2LMHeadModel(config)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_presets() -> None:
    rows = {name: list(map(whole, cells)) for name, *cells in table("Parameters")}
    assert rows.keys() == {path.stem for path in data_dir("configs").glob("*.json")}
    for name, (blocks, block, embeddings, total) in rows.items():
        model = real(name)
        assert blocks == len(model.transformer.h)
        assert {parameters(one) for one in model.transformer.h} == {block}
        assert sum(parameters(model.get_submodule(part)) for part in EMBEDDINGS) == embeddings
        assert parameters(model) == total


# ---------------------------------------------------------------------------------------------- shapes


class Shapes(TorchDispatchMode):
    """The ops of a pass in order, each with the shapes that it puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, tuple[int, ...], int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outputs = tensors(out)
        self.made.append((func.overloadpacket.__name__, tuple(outputs[0].shape), len(outputs)))
        return out


def ops(seq: int, cache: int) -> list[tuple[str, tuple[int, ...], int]]:
    """gpt2 with one block, 8 sequences, eager attention."""
    config = GPT2Config(n_layer=1)
    model, past = build(config, "eager", torch.float16), DynamicCache(config=config)
    if cache:
        old = (torch.empty((8, 12, cache, 64), dtype=torch.float16, device="meta") for _ in range(2))
        past.update(*old, 0)
    with torch.no_grad(), Shapes() as shapes:
        model(torch.empty((8, seq), dtype=torch.long, device="meta"), past)
    return shapes.made


@pytest.mark.parametrize(("column", "seq", "cache"), [(2, 512, 0), (3, 1, 512)])
def test_shapes_are_those_of_the_real_model(column: int, seq: int, cache: int) -> None:
    """Each row's op puts out its shape, in this order."""
    made, place = ops(seq, cache), 0
    rows = [(step, op.rstrip("\\*"), *cells) for step, op, *cells in table("Shapes through a block")]
    assert len(rows) > 25
    present = [row for row in rows if row[column] != "none"]
    for row in present:
        copies, sizes = re.fullmatch(r"(?:(\d) x )?\((.+)\)", row[column]).groups()
        wanted = (row[1], tuple(map(int, sizes.split(","))))
        places = [i for i, (op, shape, _) in enumerate(made) if i >= place and (op, shape) == wanted]
        assert places, row[0]
        assert copies is None or made[places[0]][2] == int(copies)
        place = places[0] + 1
    clones = [row for row in present if row[1] == "clone"]
    assert len([op for op, *_ in made if op == "clone"]) == len(clones) == (1 if seq == 1 else 2)


def test_the_mask_in_the_picture_is_causal() -> None:
    rows = re.findall(r"^ +\w+ ((?: +[01])+)$", section("Shapes through a block"), re.M)
    seen = [[int(cell) for cell in row.split()] for row in rows]
    assert seen == torch.tril(torch.ones(5, 5, dtype=torch.int)).tolist()
    assert all(sum(one) + 1 == sum(other) for one, other in pairwise(seen))


# ---------------------------------------------------------------------------------------------- docs/lab.md


def test_the_labs_product_is_worked_out_right() -> None:
    """Exercise 2: c_attn of 16 x 512 tokens, and of 16."""
    lab = (ROOT / "docs" / "lab.md").read_text("utf-8")
    cells = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", lab, re.M)[2:]]
    rows = {name.strip(): (prefill, decode) for name, prefill, decode in cells}
    k, n, element = 768, 3 * 768, 2
    for column, m in enumerate((16 * 512, 16)):
        flops, read, weight, written, moved, intensity = (
            float(rows[name][column].replace(",", "").replace("B", ""))
            for name in (
                "FLOPs, 2 m n k",
                "input, m k",
                "weight and bias, k n + n",
                "output, m n",
                "all bytes",
                "FLOP/B",
            )
        )
        assert (flops, read, weight, written) == (
            2 * m * n * k, m * k * element, (k * n + n) * element, m * n * element,
        )  # fmt: skip
        assert moved == read + weight + written
        assert intensity == pytest.approx(flops / moved, rel=0.005)
