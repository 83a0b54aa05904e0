"""Whether two formulas are equal as mathematics: math-verify, and what is kept from it.

A formula is LaTeX, with or without what delimits it. math-verify takes a formula out of prose; here all of an answer is one.
"""

import logging
import math
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

LONGEST, DEEPEST = 1000, 24  # characters of a formula, brackets in brackets: 2,000 open ones take math-verify two minutes
DIFFERENT = 1e-6  # of a number's own size: math-verify compares six decimals where one of two is written with a point
_WRITTEN = (LatexExtractionConfig(boxed_match_priority=-1),)
_POINTS = (sympy.Rational(73, 100), sympy.Rational(219, 100))  # at which expressions are told apart
_DELIMITERS = [
    re.compile(rf"\s*{begin}(.*){end}\s*\.?\s*", re.DOTALL)
    for begin, end in ((r"\$\$", r"\$\$"), (r"\$", r"\$"), (r"\\\(", r"\\\)"), (r"\\\[", r"\\\]"), (r"\\boxed\{", r"\}"))
]
_NAMED = re.compile(r"\s*(?:[a-zA-Z]|[a-z]_\{?n\}?|[a-zA-Z]'?\([a-z]\)|\([a-z](?:, ?[a-z])+\))\s*(?:=|\\in(?![a-z]))")
_FUNCTIONS = re.compile(r"(?<![\\a-zA-Z])(sin|cos|tan|arctan|exp|ln|pi)(?![a-zA-Z])")
# What takes longer to compute than anyone waits: powers of powers of numbers, and numbers and exponents of many digits.
_ENDLESS = re.compile(r"\^\s*\{?[\s({-]*\d+[\s)}]*\^|\d{40}|\^\s*\{?[\s({-]*\d{4}")


def read_formula(text: str) -> str:
    """The formula alone: without what delimits it, and the name of what it is; empty where it is too long.

    Powers, products and functions may be written as programs write them; `\\log` is the natural logarithm, as it is to sympy.
    """
    if len(text) > LONGEST:
        return ""
    for delimiters in _DELIMITERS:
        if (inside := delimiters.fullmatch(text)) is not None:
            text = inside[1]
    text = _NAMED.sub("", text, count=1) if _NAMED.match(text) else text
    text = text.replace("**", "^").replace("*", r" \cdot ")
    text = re.sub(r"\\log(?![a-zA-Z_])", r"\\ln", _FUNCTIONS.sub(r"\\\1", text))
    return " ".join(text.split())


def is_equal(answer: str, gold: str) -> bool:
    """Whether a formula that a model wrote is equal to the one on record, both as `read_formula` leaves them.

    What math-verify cannot read is equal to nothing. How long it takes is the sandbox's to bound.
    """
    if _ENDLESS.search(answer) or _depth(answer) > DEEPEST:
        return False
    said, known = _parsed(answer), _parsed(gold)
    if said is None or known is None or _differ(said, known):
        return False
    return bool(verify(known, said, timeout_seconds=None))


def _depth(formula: str) -> int:
    return max(accumulate((character in "({[") - (character in ")}]") for character in formula), default=0)


def _parsed(formula: str) -> Any:
    """As sympy has it; None for what is no formula."""
    found = parse(f"${formula}$", _WRITTEN, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


def _differ(one: Any, other: Any) -> bool:
    """Whether numbers tell them apart, which takes a twentieth of the time until simplifying does not make them equal."""
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    for point in _POINTS if symbols else _POINTS[:1]:
        mine, others = (list(_values(formula, dict.fromkeys(symbols, point))) for formula in (one, other))
        known = len(mine) == len(others) and all(map(math.isfinite, mine + others))
        if known and any(abs(a - b) > DIFFERENT * max(1.0, abs(a), abs(b)) for a, b in zip(mine, others, strict=True)):
            return True
    return False


def _values(formula: Any, at: dict[Any, Any]) -> Iterator[float]:
    """The numbers that a formula holds there, those of a set in order; not a number where it has none that is real."""
    if isinstance(formula, sympy.FiniteSet):
        yield from sorted(_value(part, at) for part in formula)
    elif isinstance(formula, sympy.Tuple):
        yield from (_value(part, at) for part in formula)
    elif isinstance(formula, sympy.MatrixBase):
        yield from (_value(part, at) for part in formula.flat())
    else:
        yield _value(formula, at) if isinstance(formula, sympy.Expr) and not formula.has(sympy.MatrixBase) else math.nan


def _value(formula: Any, at: dict[Any, Any]) -> float:
    try:
        return float(formula.subs(at).evalf())
    except Exception:  # what sympy makes of a formula that is none is anybody's guess
        return math.nan


# It says of every text that it cannot read that it cannot, and once that nothing but the sandbox bounds its time.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
# A call of the sandbox is a fork of the worker that has imported this. The grammar's tables and sympy's caches, which a first
# formula fills in 2 s, are there for every call.
is_equal(
    r"\left\{1 - \sqrt{2}, \frac{1}{2}\right\} \cup \left(2, \infty\right)", r"\{\frac{1}{2}, 1 - \sqrt{2}\} \cup (2, \infty)"
)
is_equal(r"2 x \cos{\left(x^{2} \right)} e^{x}", r"x \left(e^{x} \cos(x^2) + \cos(x^2) e^x\right)")
is_equal(r"\begin{pmatrix} 1 & \frac{1}{2} \\ 0 & 3 \end{pmatrix}", r"\begin{bmatrix} 1 & 0.5 \\ 0 & 3 \end{bmatrix}")
