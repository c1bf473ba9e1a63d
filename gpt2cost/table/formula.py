"""Exact polynomials with integer coefficients, the language in which the cost table is written.

A formula is built by ordinary arithmetic on symbols, `2 * B * T * D`, and has three uses: evaluate it (Python integers
stay exact; numpy arrays broadcast), print it as plain Python that a script can evaluate, and compare it (`==` is
algebraic identity). A `Condition` says at which sizes a kernel is launched at all.

    >>> batch, seq = symbol("batch_size"), symbol("seq_len")
    >>> flops = 2 * batch * seq * (seq + 1)
    >>> str(flops)
    '2*batch_size*seq_len**2 + 2*batch_size*seq_len'
    >>> flops.evaluate({"batch_size": 8, "seq_len": 512})
    4202496
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, TypeAlias

import numpy as np

Monomial: TypeAlias = tuple[tuple[str, int], ...]
"""Symbols with their powers, sorted by name; `()` is the constant monomial."""

Value: TypeAlias = Any
"""A Python int, a float, or a numpy array of them."""


class Formula:
    """A polynomial over named symbols. Immutable and hashable."""

    terms: Mapping[Monomial, int]

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = {monomial: factor for monomial, factor in sorted(terms.items()) if factor}

    def __add__(self, other: Formula | int) -> Formula:
        return sum_of((self, formula(other)))

    def __mul__(self, other: Formula | int) -> Formula:
        product: dict[Monomial, int] = {}
        for left, left_factor in self.terms.items():
            for right, right_factor in formula(other).terms.items():
                powers = dict(left)
                for name, power in right:
                    powers[name] = powers.get(name, 0) + power
                monomial = tuple(sorted(powers.items()))
                product[monomial] = product.get(monomial, 0) + left_factor * right_factor
        return Formula(product)

    def __neg__(self) -> Formula:
        return self * -1

    def __sub__(self, other: Formula | int) -> Formula:
        return self + formula(other) * -1

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Formula | int) and self.terms == formula(other).terms

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(self.terms.items()))

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __gt__(self, other: Formula | int) -> Condition:
        return Condition((((self, ">", formula(other)),),))

    def __lt__(self, other: Formula | int) -> Condition:
        return Condition((((self, "<", formula(other)),),))

    def at_most(self, most: Formula | int) -> Condition:
        """Where the formula's value is `most` or less."""
        return self < most + formula(1)

    def is_zero(self) -> Condition:
        """Where the formula, which is never negative, is 0."""
        return self.at_most(0)

    def is_ragged(self, step: int) -> Condition:
        """Where the formula's value is no multiple of `step`."""
        return Condition((((self, "%", formula(step)),),))

    def evaluate(self, values: Mapping[str, Value]) -> Value:
        """The formula's value where each symbol has the value given. Integers give an exact integer.

        Raises `KeyError` for a symbol without a value.
        """
        if isinstance(values, Values):
            return values.known(self, values.polynomial)
        total: Value = 0
        for monomial, factor in self.terms.items():
            total = total + _product(monomial, values, factor)
        return total

    def bounds(self, ends: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
        """What the formula's value lies between where each symbol, none of them negative, is between two ends."""
        least = most = 0.0
        for monomial, factor in self.terms.items():
            low, high = (
                factor * math.prod(ends[name][end] ** power for name, power in monomial) for end in (0, 1)
            )  # fmt: skip
            least, most = least + min(low, high), most + max(low, high)
        return least, most

    def where(self, known: Mapping[str, Formula | int]) -> Formula:
        """The formula with other formulas in place of some symbols."""
        if not self.symbols & known.keys():
            return self
        total = formula(0)
        for monomial, factor in self.terms.items():
            term = Formula({tuple(power for power in monomial if power[0] not in known): factor})
            for name, power in monomial:
                for _ in range(power if name in known else 0):
                    term = term * known[name]
            total = total + term
        return total

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names that the formula depends on."""
        return frozenset(name for monomial in self.terms for name, _ in monomial)

    def has_only_product_of(self, *names: str) -> bool:
        """Whether some symbols come in it as powers of their product alone."""
        powers = (dict(monomial) for monomial in self.terms)
        return all(len({power.get(name, 0) for name in names}) == 1 for power in powers)

    def __str__(self) -> str:
        return " + ".join(self._printed_terms()).replace("+ -", "- ") or "0"

    def _printed_terms(self) -> Iterator[str]:
        by_degree = sorted(self.terms.items(), key=lambda term: -sum(power for _, power in term[0]))
        for monomial, factor in by_degree:
            factors = [
                name if power == 1 else f"{name}**{power}" for name, power in sorted(monomial, key=_reading_order)
            ]
            if not factors or factor not in (1, -1):
                factors.insert(0, str(factor))
            yield ("-" if factors[0] != str(factor) and factor == -1 else "") + "*".join(factors)

    def __repr__(self) -> str:
        return f"<{self}>"


def _product(monomial: Monomial, values: Mapping[str, Value], factor: Value) -> Value:
    for name, power in monomial:
        factor = factor * (values[name] if power == 1 else values[name] ** power)
    return factor


class Values(dict[str, Value]):
    """The values of symbols at some sizes, at which each formula and each condition is evaluated once."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        super().__init__(values)
        self._known: dict[Any, Value] = {}
        self._arrays = {name for name, value in values.items() if np.ndim(value)}

    def known(self, item: Any, evaluate: Callable[[Any], Value]) -> Value:
        """What `evaluate` makes of an item."""
        found = self._known.get(item)
        if found is None:
            found = self._known[item] = evaluate(item)
        return found

    def polynomial(self, formula: Formula) -> Value:
        """The value of a formula."""
        return self.summed(self.factors(formula))

    def factors(self, formula: Formula) -> dict[Monomial, Value]:
        """The formula as a polynomial of the arrays alone, in which numbers have taken the place of other symbols."""
        factors: dict[Monomial, Value] = {}
        for monomial, factor in formula.terms.items():
            arrays = tuple(power for power in monomial if power[0] in self._arrays)
            number = _product(tuple(power for power in monomial if power[0] not in self._arrays), self, factor)
            factors[arrays] = factors.get(arrays, 0) + number
        return factors

    def summed(self, factors: Mapping[Monomial, Value]) -> Value:
        """The value of a polynomial of arrays. Products of them are computed once, and small shapes stay small."""
        products = [(factor, self.known(arrays, self._product_of)) for arrays, factor in factors.items()]
        products.sort(key=lambda product: np.size(product[1]))
        total: Value = 0
        for factor, product in products:
            total = total + factor * product
        return total

    def _product_of(self, arrays: Monomial) -> Value:
        return reduce(operator.mul, (self[name] if power == 1 else self[name] ** power for name, power in arrays), 1)


def formula(value: Formula | int) -> Formula:
    """`value` as a formula."""
    return value if isinstance(value, Formula) else Formula({(): value})


def sum_of(formulas: Iterable[Formula]) -> Formula:
    """The sum of many formulas, faster than one by one."""
    total: dict[Monomial, int] = {}
    for one in formulas:
        for monomial, factor in one.terms.items():
            total[monomial] = total.get(monomial, 0) + factor
    return Formula(total)


_order: dict[str, int] = {}


def symbol(name: str) -> Formula:
    """The formula that is just `name`. Symbols print in the order of their first creation."""
    _order.setdefault(name, len(_order))
    return Formula({((name, 1),): 1})


def _reading_order(factor: tuple[str, int]) -> int:
    return _order[factor[0]]


Comparison: TypeAlias = tuple[Formula, str, Formula]

_COMPARE: dict[str, Callable[[Value, Value], Value]] = {
    ">": operator.gt,
    "<": operator.lt,
    "%": lambda left, right: left % right > 0,
    "|": lambda left, right: left % right < 1,
}
"""A sign -> what it says of two sides: `%`, that the left leaves a remainder, and `|`, that it leaves none."""


def _opposite(left: Formula, sign: str, right: Formula) -> Comparison:
    if sign in "%|":
        return (left, "|" if sign == "%" else "%", right)
    return (left, "<", right + 1) if sign == ">" else (left, ">", right - 1)


def _follows(left: Formula, sign: str, right: Formula, least: Mapping[str, int]) -> bool | None:
    """Whether a comparison holds wherever symbols are at least so much; None where that does not decide."""
    if sign in "%|":
        return None
    above = {name: symbol(name) + at_least for name, at_least in least.items()}  # each symbol by what it is more
    more = (left - right if sign == ">" else right - left).where(above)
    if all(factor >= 0 for factor in more.terms.values()) and more.terms.get((), 0) > 0:
        return True
    return False if all(factor <= 0 for factor in more.terms.values()) else None


@dataclass(frozen=True)
class Condition:
    """Comparisons of integer formulas, joined by `&`, `|` and `~`: any of several conjunctions.

    `ALWAYS` is the empty conjunction.
    """

    any_of: tuple[tuple[Comparison, ...], ...]

    def __and__(self, other: Condition) -> Condition:
        return _any_of(tuple(dict.fromkeys(left + right)) for left in self.any_of for right in other.any_of)

    def __or__(self, other: Condition) -> Condition:
        return _any_of(self.any_of + other.any_of)

    def __invert__(self) -> Condition:
        conjunctions = [
            reduce(operator.or_, (Condition(((_opposite(*c),),)) for c in conjunction), NEVER)
            for conjunction in self.any_of
        ]
        return reduce(operator.and_, conjunctions, ALWAYS)

    def where(self, known: Mapping[str, Formula | int]) -> Condition:
        """The condition with other formulas in place of some symbols; comparisons of numbers are decided."""
        any_of = []
        for conjunction in self.any_of:
            compared = [(left.where(known), sign, right.where(known)) for left, sign, right in conjunction]
            open_ones = [c for c in compared if c[0].symbols or c[2].symbols]
            if all(
                _COMPARE[sign](left.evaluate({}), right.evaluate({}))
                for left, sign, right in compared
                if not left.symbols and not right.symbols
            ):
                any_of.append(tuple(dict.fromkeys(open_ones)))
        return _any_of(any_of)

    def given(self, least: Mapping[str, int]) -> Condition:
        """The condition where symbols are at least so much, others at least 0: comparisons that follow are decided."""
        any_of = []
        for conjunction in self.any_of:
            decided = {comparison: _follows(*comparison, least) for comparison in conjunction}
            if False not in decided.values():
                any_of.append(tuple(comparison for comparison, holds in decided.items() if holds is None))
        return _any_of(any_of)

    def excludes(self, other: Condition) -> bool:
        """Whether the two can be seen never to hold at once: each conjunction has what the other's negates."""
        return all(any(_opposite(*c) in theirs for c in ours) for ours in self.any_of for theirs in other.any_of)

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names that the condition depends on."""
        sides = (side for conjunction in self.any_of for left, _, right in conjunction for side in (left, right))
        return frozenset(name for side in sides for name in side.symbols)

    def evaluate(self, values: Mapping[str, Value]) -> Value:
        """True or False, or an array of them where the sizes are arrays and some points differ from others."""
        if self.any_of == ((),):
            return True
        if isinstance(values, Values):
            return values.known(self, lambda condition: condition._evaluated(values))
        return self._evaluated(values)

    def _evaluated(self, values: Mapping[str, Value]) -> Value:
        def holds(left: Formula, sign: str, right: Formula) -> Value:
            return _COMPARE[sign](left.evaluate(values), right.evaluate(values))

        conjunctions = (reduce(operator.and_, (holds(*c) for c in conjunction), True) for conjunction in self.any_of)
        return settled(reduce(operator.or_, conjunctions, False))

    def __bool__(self) -> bool:
        raise TypeError("a condition has no truth value before its symbols have values: call evaluate()")

    def __str__(self) -> str:
        def text(left: Formula, sign: str, right: Formula) -> str:
            return f"({left}) % {right} {'>' if sign == '%' else '=='} 0" if sign in "%|" else f"{left} {sign} {right}"

        def conjunction(comparisons: tuple[Comparison, ...]) -> str:
            return " and ".join(text(*comparison) for comparison in comparisons)

        return " or ".join(map(conjunction, self.any_of))


def _any_of(conjunctions: Iterable[tuple[Comparison, ...]]) -> Condition:
    """Each of the conjunctions once; of `ALWAYS` and others, `ALWAYS` alone."""
    every = tuple(dict.fromkeys(conjunctions))
    return ALWAYS if () in every else Condition(every)


def settled(truth: Value) -> Value:
    """An array of truth values that are all alike as the one that they are, others as they are."""
    if np.ndim(truth) == 0:
        return bool(truth)
    return bool(truth.flat[0]) if truth.size and (truth.all() or not truth.any()) else truth


ALWAYS = Condition(((),))
NEVER = Condition(())
