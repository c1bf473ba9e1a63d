"""The output in README and docs/ is the tool's: each block below a marker is run again and compared. See `pages`."""

from __future__ import annotations

import doctest
import math
import re
import shlex
from pathlib import Path

import pytest
from helpers import ROOT, Call
from pages import BLOCKS, PAGES, README, output

from gpt2cost.device.catalog import validate_file
from gpt2cost.table.citations import shipped_lines, transformers_version

EXAMPLES = [block for page, block in BLOCKS if page == README]
HARDWARE, TRAINING = ROOT / "docs" / "hardware.md", ROOT / "docs" / "training.md"


def test_there_are_blocks() -> None:
    assert len(EXAMPLES) >= 3
    assert {page for page in PAGES if page not in {page for page, _ in BLOCKS}} == {
        ROOT / "docs" / name for name in ("columns.md", "decisions.md", "python.md")
    }


def test_the_readme_is_short() -> None:
    """What it is, two commands, a picture, where the rest stands: the listings are in docs/."""
    assert len(README.read_bytes()) <= 16_000
    assert README.read_text("utf-8").count("![") == 1


def test_the_first_example_fits_a_screen() -> None:
    """45 lines of 100 columns, longer ones wrapped, and no warning."""
    lines = output(EXAMPLES[0]["command"], "100").splitlines()
    assert EXAMPLES[0]["width"] is None
    assert sum(max(1, math.ceil(len(line) / 100)) for line in lines) <= 45
    assert not [line for line in lines if "warning" in line.lower()]


def test_what_warns_is_shown_after_that() -> None:
    """The set-up's own command asks for more positions than there are; its warning stands below it, explained."""
    setup = re.search(r"\.venv/bin/gpt2cost (predict .+)\n```", README.read_text("utf-8"))
    assert setup
    assert EXAMPLES[1]["command"].startswith(f"gpt2cost {setup[1]}")
    assert EXAMPLES[1]["text"].startswith("warning: ")
    assert "n_positions" in EXAMPLES[1]["text"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Each page, picture and heading that a page links to is there."""
    for target, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page.read_text("utf-8")):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not heading or heading in anchors(linked), f"{target}#{heading}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> set[str]:
    """The commands that a page writes down, in a shell's lines or in a sentence, without what is piped to them."""
    text = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.S)
    written = re.findall(r"(?<!`)`(gpt2cost [^`]+)`", text)
    for script in re.findall(r"```sh\n(.*?)```", text, re.S):
        lines = re.sub(r"#.*| --[a-z-]+ <\([^)]*\)", "", script.replace("\\\n", "")).splitlines()
        written += [part.strip() for line in lines for part in re.split(r"[|;&)]| do |<\(", line)]
    return {" ".join(command.split()) for command in written if re.match("gpt2cost [a-z]", command)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_there(page: Path, gpt2cost: Call) -> None:
    """Each command that a page writes down has its flags: it would print its help."""
    for command in sorted(commands(page)):
        result = gpt2cost(*shlex.split(command)[1:], "--help")
        assert result.code == 0, f"{command}: {result.err}"


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README.read_text("utf-8")))
    assert linked == {f"docs/{page.name}" for page in PAGES if page != README}


def test_no_block_loops_in_a_shell() -> None:
    """Each process imports everything anew: half a second, of some twenty on all pages."""
    looping = [block["command"] for _, block in BLOCKS if re.search(r"\bdo\b|\(\) *\{", block["command"])]
    assert not looping


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=f"{page.stem}: {block['command'][:40]}") for page, block in BLOCKS]
)
def test_block(block: re.Match[str]) -> None:
    if re.search(r"\w\.py:\d", block["text"]) and transformers_version() != shipped_lines().versions[-1]:
        pytest.skip("the lines of HuggingFace's source are those of the newest transformers")
    assert output(block["command"], block["width"]) == block["text"], "python tests/regenerate.py writes it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_examples_run(page: Path) -> None:
    found = doctest.testfile(str(page), module_relative=False)
    assert found.attempted > 5 or page != README
    assert found.failed == 0


def yaml_block(page: Path) -> str:
    found = re.search(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S)
    assert found
    return found[1]


def test_the_hardware_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "my-gpu.yaml"
    path.write_text(yaml_block(HARDWARE))
    assert [device.name for device in validate_file(path)] == ["my-gpu"]
    path.write_text(yaml_block(HARDWARE) + yaml_block(TRAINING))
    (device,) = validate_file(path)
    assert device.interconnect is not None
    assert device.interconnect.network is not None
