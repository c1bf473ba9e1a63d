"""Formulas are polynomials: a ring, evaluated exactly, printed as Python, compared as values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2cost.table.formula import ALWAYS, NEVER, Condition, Formula, formula, symbol

NAMES = ("x", "y", "z")
X, Y, Z = map(symbol, NAMES)

integers = st.integers(-(10**6), 10**6)
points = st.fixed_dictionaries({name: st.integers(-50, 50) for name in NAMES})
formulas = st.recursive(
    st.sampled_from((X, Y, Z)) | integers.map(formula),
    lambda inner: st.builds(lambda a, b, op: (a + b, a - b, a * b)[op], inner, inner, st.integers(0, 2)),
    max_leaves=8,
)


@given(formulas, formulas, points, integers)
def test_evaluation_respects_arithmetic(a: Formula, b: Formula, at: dict[str, int], number: int) -> None:
    left, right = a.evaluate(at), b.evaluate(at)
    assert (a + b).evaluate(at) == left + right
    assert (a - b).evaluate(at) == left - right
    assert (a * b).evaluate(at) == left * right
    assert (-a).evaluate(at) == -left
    assert (number + a).evaluate(at) == (a + number).evaluate(at) == left + number
    assert (number * a).evaluate(at) == (a * number).evaluate(at) == left * number


@given(formulas, points)
def test_what_is_printed_is_what_is_computed(a: Formula, at: dict[str, int]) -> None:
    assert eval(str(a), {}, dict(at)) == a.evaluate(at)


@given(formulas, formulas, formulas)
def test_equality_is_algebraic_identity(a: Formula, b: Formula, c: Formula) -> None:
    for left, right in ((a * (b + c), a * b + a * c), ((a * b) * c, a * (b * c)), (a + b, b + a), (a - a, formula(0))):
        assert left == right
        assert hash(left) == hash(right)
    assert a != a + 1
    assert bool(a) == (a != 0)


@given(formulas, formulas, st.lists(points, min_size=4, max_size=4))
def test_equal_formulas_are_the_ones_that_print_alike(a: Formula, b: Formula, at: list[dict[str, int]]) -> None:
    assert (a == b) == (str(a) == str(b))
    again = (a + b) - b  # `b` itself is hardly ever equal
    assert again == a
    assert str(again) == str(a)
    assert all(again.evaluate(point) == a.evaluate(point) for point in at)


def test_printing() -> None:
    assert str(formula(0)) == "0"
    assert str(X * X * 2 - Y - 1) == "2*x**2 - y - 1"
    assert str(-X) == "-x"
    assert str(Y * X) == "x*y", "symbols print in the order of their creation"
    assert (2 * X * Y - Y * X * 2).symbols == frozenset()


def test_arrays_broadcast() -> None:
    x, y = np.arange(3.0)[:, None], np.arange(4.0)[None, :]
    assert np.array_equal((2 * X * Y + X - 3).evaluate({"x": x, "y": y}), 2 * x * y + x - 3)


def test_integers_stay_exact() -> None:
    huge = 10**30 + 1
    value = (7 * X * X * Y).evaluate({"x": huge, "y": 3})
    assert value == 21 * huge**2
    assert type(value) is int


def test_a_symbol_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="y"):
        (X + Y).evaluate({"x": 1})


# A condition, and the same one as a Python function.
Pair = tuple[Condition, Any]
comparisons = st.builds(
    lambda name, more, bound: (
        (symbol(name) > bound, lambda at: at[name] > bound)
        if more
        else (symbol(name).is_ragged(3), lambda at: at[name] % 3 != 0)
        if bound > 2
        else (symbol(name) < bound, lambda at: at[name] < bound)
    ),
    st.sampled_from(NAMES),
    st.booleans(),
    st.integers(-3, 3),
)


def combined(op: int, a: Pair, b: Pair) -> Pair:
    return (
        (a[0] & b[0], lambda at: a[1](at) and b[1](at)),
        (a[0] | b[0], lambda at: a[1](at) or b[1](at)),
        (~a[0], lambda at: not a[1](at)),
    )[op]


conditions = st.recursive(
    comparisons | st.sampled_from([(ALWAYS, lambda at: True), (NEVER, lambda at: False)]),
    lambda inner: st.builds(combined, st.integers(0, 2), inner, inner),
    max_leaves=5,
)
near = st.fixed_dictionaries({name: st.integers(-5, 5) for name in NAMES})


@given(conditions, near)
def test_conditions_are_boolean_logic(pair: Pair, at: dict[str, int]) -> None:
    condition, expected = pair
    assert bool(condition.evaluate(at)) is expected(at)
    if condition not in (ALWAYS, NEVER) and () not in condition.any_of:
        assert bool(eval(str(condition), {}, dict(at))) is expected(at)


@given(conditions, st.lists(near, min_size=2, max_size=5))
def test_conditions_take_arrays(pair: Pair, at: list[dict[str, int]]) -> None:
    grid = {name: np.array([point[name] for point in at]) for name in NAMES}
    result = np.broadcast_to(pair[0].evaluate(grid), len(at))
    assert result.tolist() == [pair[1](point) for point in at]


def test_a_condition_is_not_a_truth_value() -> None:
    with pytest.raises(TypeError, match="evaluate"):
        bool(X > 1)


def test_a_formula_and_a_condition_with_some_symbols_known() -> None:
    assert (2 * X * Y + Y).where({"x": 3}) == 7 * Y
    assert (X * X * Y).where({"x": Y + 1}) == Y * Y * Y + 2 * Y * Y + Y
    condition = ((X > 1) & (Y > 0)) | (Y < X)
    for x, y in ((0, 0), (0, 2), (2, 1), (3, 5)):
        assert condition.where({"y": y}).evaluate({"x": x}) == condition.evaluate({"x": x, "y": y})
    assert (X > 1).where({"x": 2}) == ALWAYS
    assert (X > 1).where({"x": 1}) == NEVER


@given(conditions, st.fixed_dictionaries({name: st.integers(0, 3) for name in NAMES}))
def test_what_follows_from_least_sizes_holds_wherever_they_do(pair: Pair, more: dict[str, int]) -> None:
    condition, least = pair[0], {NAMES[0]: 1, NAMES[1]: 2}
    at = {name: more[name] + least.get(name, 0) for name in NAMES}
    assert bool(condition.given(least).evaluate(at)) is bool(condition.evaluate(at))


def test_what_follows_is_decided() -> None:
    assert (X > 0).given({"x": 1}) == ALWAYS
    assert X.at_most(0).given({"x": 1}) == NEVER
    assert (X > 1).given({"x": 1}) == (X > 1)
    assert ((X > 0) & (Y > 1)).given({"x": 1}) == (Y > 1)
    assert (X + 1 < 2).given({"x": 1}) == NEVER


def test_conditions_that_exclude_each_other() -> None:
    assert (X > 1).excludes(~(X > 1))
    assert ((X > 1) & (Y > 0)).excludes(X.at_most(1))
    assert not (X > 1).excludes(Y > 0)
    assert NEVER.excludes(ALWAYS)
    assert not ALWAYS.excludes(ALWAYS)
