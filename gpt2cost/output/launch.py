"""One launch of a kernel in words and formulas: its product by m, n and k, numbers put into formulas, when it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpt2cost.table.citations import (
    FILES,
    Citation,
    installed_transformers,
    place_of,
    resolve,
    transformers_version,
)
from gpt2cost.table.formula import ALWAYS, Condition, Formula, Value
from gpt2cost.table.kernel import Gemm, Kernel


def product_of(kernel: Kernel) -> dict[str, Formula]:
    """The sizes of a matrix product by name, of which its FLOPs are twice the product; empty for another kernel."""
    shape = kernel.shape
    if not isinstance(shape, Gemm):
        return {}
    return {**({} if shape.batch == 1 else {"batch": shape.batch}), "m": shape.m, "n": shape.n, "k": shape.k}


def flops_text(kernel: Kernel) -> str:
    """The FLOPs of one launch: of a product `2*m*n*k`, with `batch` where there are several; else the formula."""
    product = product_of(kernel)
    return "*".join(("2", *product)) if product else str(kernel.flops)


def with_numbers(text: str, values: Mapping[str, Value]) -> str:
    """A formula's text with the numbers in the places of its names: `2*4096*2304*768`."""
    return re.sub(r"[A-Za-z_]\w*", lambda name: str(int(values[name[0]])), text)


def evaluated(sizes: Mapping[str, Formula], values: Mapping[str, Value]) -> dict[str, int]:
    """The numbers of formulas by name."""
    return {name: int(size.evaluate(values)) for name, size in sizes.items()}


# ---------------------------------------------------------------------------------------------- when

WORDS = {
    "a_bytes < stat_bytes": "activations have 16 bits",
    "a_bytes > stat_bytes - 1": "activations have 32 bits",
    "batch_size < 2": "there is one sequence",
    "batch_size > 1": "there are several sequences",
    "batch_size*seq_len*hidden_size > seq_len*hidden_size": "there are several sequences",
    "cache_len + seq_len < kv_len": "the static cache is not full",
    "cache_len < 1": "the cache is empty",
    "cache_len > 0": "there are cached tokens",
    "kv_len < seq_len + 1": "there are no keys but the new tokens'",
    "(kv_len) % 8 > 0": "kv_len is no multiple of 8",
    "num_heads > 1": "there are several heads",
    "seq_len < 2": "there is one new token",
    "seq_len > 1": "there are several new tokens",
}
"""A comparison in a condition -> the same in words."""


def when_text(when: Condition) -> str:
    """When a step runs: `always`, or `when there are several new tokens and there are cached tokens`."""
    if when == ALWAYS:
        return "always"
    clauses = (" and ".join(map(_in_words, each.split(" and "))) for each in str(when).split(" or "))
    return f"when {', or '.join(dict.fromkeys(clauses))}"


_ROWS = re.compile(r"(?:batch_size|seq_len|encoder_len|\*)+ (?P<sign>[<>]) (?P<number>[0-9]+)")
"""How many rows a product of quantised weights has, beside a number."""


def _in_words(comparison: str) -> str:
    if comparison in WORDS:
        return WORDS[comparison]
    found = _ROWS.fullmatch(comparison)
    assert found is not None, comparison
    number = int(found["number"])
    return f"there are more than {number} rows" if found["sign"] == ">" else f"there are at most {number - 1} rows"


# ---------------------------------------------------------------------------------------------- source


def source_address(citation: Citation) -> str:
    """`modeling_gpt2.py:185 in transformers 5.24.0`; of torch and nanoGPT the function."""
    return f"{citation} in transformers {transformers_version()}" if citation.file in FILES else str(citation)


def source_line(citation: Citation) -> str:
    """The line that a citation names, read from the installed package; "" where it is not there, or not the same."""
    installed = installed_transformers()
    name, place = place_of(citation)
    if installed is None or not name:
        return ""
    package = installed[1].parent / name
    try:
        line = resolve(citation, package)
    except (LookupError, OSError):
        return ""
    return (package / place).read_text("utf-8").splitlines()[line - 1].strip()
