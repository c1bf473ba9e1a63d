"""Figures with their ranges, and what tokens cost: for tables that put devices side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from gpt2cost.output.field import Field
from gpt2cost.output.page import NOTHING, short_number
from gpt2cost.units import format_quantity, scale_for

T = TypeVar("T")
Ranged = tuple[float | None, ...]
"""The middle, the least and the most; empty or None where there is none."""


def with_range(header: str, unit: str, items: Iterable[T], ranged: Callable[[T], Ranged]) -> Field[T]:
    """A figure and its range in one cell, all cells with one prefix."""
    middles = [figures[0] for item in items if (figures := ranged(item))]
    divisor, label = scale_for([middle for middle in middles if middle is not None], unit)

    def cell(item: T) -> str:
        figures = [figure / divisor for figure in ranged(item) if figure is not None]
        if len(figures) < 3:
            return NOTHING
        middle, low, high = map(short_number, figures)
        return f"{middle} ({low}-{high})"

    return Field("", f"{header} {label}", "right", cell)


def cost_column(ranged: Callable[[Any], Ranged]) -> Field[Any]:
    """What a million tokens cost, with the range."""

    def cell(item: Any) -> str:
        figures = [money(figure) for figure in ranged(item) if figure is not None]
        return NOTHING if len(figures) < 3 else f"{figures[0]} ({figures[1]}-{figures[2]})"

    return Field("", "cost/M tokens", "right", cell)


def money(amount: float) -> str:
    """Three digits, and of large sums the whole."""
    return f"{amount:,.0f}" if amount >= 999.5 else f"{amount:.3g}"


def cost_text(ranged: Ranged, price_per_hour: float | None) -> str:
    """What a million tokens cost, with the range; nothing without a price."""
    figures = [figure for figure in ranged if figure is not None]
    if price_per_hour is None or len(figures) < 3:
        return ""
    middle, low, high = map(money, figures)
    per_dollar = format_quantity(1e6 / figures[0], "")
    return (
        f"{middle} ({low} to {high}) per million tokens, {per_dollar} tokens per dollar, at {price_per_hour:g} per hour"
    )
