"""Problems of mathematics whose answers have many equal forms, judged by math-verify. Functions as in gym.py.

Each has its answer by construction. What a question asks to be done cannot be written in the answer's shape: an integral,
a limit or a sine is no answer to the question of its value. For that reason nothing asks for a formula to be simplified.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from math import comb, gcd
from random import Random
from typing import Any

import sympy
from sympy import Rational

from athanor.rl.tasks.kinds import Entry, Kind, Made, judge, level_counts, make

X, N = sympy.Symbol("x", real=True), sympy.Symbol("n", integer=True, positive=True)
_ALONE = "Answer in LaTeX, with nothing else."


def attributes(generator: str) -> dict[str, int]:
    """How many levels each attribute has."""
    return level_counts(KINDS[generator])


def generate(generator: str, levels: Mapping[str, int], seed: int, count: int, first: int = 0) -> list[Entry]:
    """`count` problems at these levels, or at the first of all, from number `first` on."""
    return make(generator, KINDS[generator], levels, seed, range(first, first + count))


def score(generator: str, answers: Sequence[str], entries: Sequence[Entry]) -> list[float | str]:
    """1.0 for what is equal to the answer on record, 0.0 for what is not."""
    return judge(KINDS[generator], answers, entries)


def _read(answer: str) -> str:
    from athanor.rl.tasks.equality import read_formula  # takes 3 s, in the sandbox alone

    return read_formula(answer)


def _is_equal(answer: str, entry: Entry) -> bool:
    from athanor.rl.tasks.equality import is_equal

    return is_equal(answer, _read(entry["answer"]))


def _written(value: Any) -> str:
    return f"${sympy.latex(value, ln_notation=True, inv_trig_style='full')}$"


def _asked(question: str, answer: Any) -> Made:
    return Made(f"{question} {_ALONE}", _written(answer))


def _other_than_zero(random: Random, most: int) -> int:
    return random.choice([-1, 1]) * random.randint(1, most)


def _polynomial(random: Random, degree: int, most: int = 6) -> Any:
    """Of exactly this degree."""
    lower = sum((random.randint(-most, most) * X**power for power in range(degree)), sympy.Integer(0))
    return lower + _other_than_zero(random, most) * X**degree


def _function(random: Random, inside: Any) -> Any:
    return random.choice([sympy.sin, sympy.cos, sympy.exp])(inside)


def _derivative(random: Random, form: int) -> Made:
    """`form`: 1 a sum, 2 a product, 3 a function of a function, 4 a quotient."""
    slope = _other_than_zero(random, 6)
    asked = {
        1: lambda: _polynomial(random, 3) + _other_than_zero(random, 6) * _function(random, slope * X),
        2: lambda: _polynomial(random, 2) * _function(random, slope * X),
        3: lambda: _other_than_zero(random, 6) * _function(random, _polynomial(random, 2)) + sympy.log(X**2 + abs(slope)),
        4: lambda: _function(random, slope * X) / (X**2 + random.randint(1, 9)) * _polynomial(random, 1),
    }[form]()
    return _asked(f"What is the derivative of {_written(asked)} with respect to $x$?", sympy.diff(asked, X))


def _definite_integral(random: Random, terms: int, functions: int) -> Made:
    """`functions`: 1 powers, 2 also 1/x, 3 also exponentials, 4 also 1/(x² + 1) may be integrated."""
    made = [
        lambda: Rational(_other_than_zero(random, 6), random.randint(1, 4)) * X ** random.randint(1, 5),
        lambda: _other_than_zero(random, 6) * sympy.log(X),
        lambda: _other_than_zero(random, 6) * sympy.exp(random.choice([-2, -1, 1, 2]) * X),
        lambda: _other_than_zero(random, 6) * sympy.atan(X),
    ]
    whole = made[functions - 1]() + sum(random.choice(made[:functions])() for _ in range(terms))
    end = random.randint(2, 5)
    value = whole.subs(X, end) - whole.subs(X, 1)
    return _asked(f"What is the exact value of $\\int_1^{end} \\left({_written(whole.diff(X))[1:-1]}\\right) dx$?", value)


def _roots(random: Random, degree: int, surds: int) -> Made:
    """Real and different, with `surds` two of them not rational."""
    roots = [Rational(number, random.choice([1, 1, 2, 3])) for number in random.sample(range(-9, 10), degree - 2 * surds)]
    polynomial = sympy.prod([root.q * X - root.p for root in roots])
    found = list(roots)
    if surds:
        middle, square = random.randint(-5, 5), random.choice([2, 3, 5, 6, 7, 10, 11, 13])
        polynomial *= X**2 - 2 * middle * X + middle**2 - square
        found += [middle - sympy.sqrt(square), middle + sympy.sqrt(square)]
    question = f"What are the roots of ${sympy.latex(sympy.expand(polynomial))}$?"
    return _asked(f"{question} Write them as a set, such as $\\{{1, 2\\}}$.", sympy.FiniteSet(*found))


def _linear_system(random: Random, unknowns: int, denominator: int) -> Made:
    names = sympy.symbols("x y z w")[:unknowns]
    solution = [Rational(random.randint(-9, 9), random.randint(1, denominator)) for _ in names]
    while True:
        rows = [[random.randint(-5, 5) for _ in names] for _ in names]
        if sympy.Matrix(rows).det():
            break
    sides = [sum(a * b for a, b in zip(row, solution, strict=True)) for row in rows]
    scales = [value.q for value in map(sympy.nsimplify, sides)]
    equations = [
        sympy.Eq(sum(scale * a * name for a, name in zip(row, names, strict=True)), scale * side)
        for row, side, scale in zip(rows, sides, scales, strict=True)
    ]
    told = ", ".join(f"${sympy.latex(equation, order='none')}$" for equation in equations)
    tuple_of = ", ".join(map(str, names))
    return _asked(f"Solve {told}. Write the solution as $({tuple_of})$.", sympy.Tuple(*solution))


def _matrix_inverse(random: Random, size: int, largest: int) -> Made:
    while True:
        matrix = sympy.Matrix(size, size, lambda *_: random.randint(-largest, largest))
        if matrix.det():
            return _asked(f"What is the inverse of {_written(matrix)}?", matrix.inv())


def _eigenvalues(random: Random, size: int, surds: int) -> Made:
    """Of a matrix similar to a diagonal one, or with `surds` to one whose first block has irrational ones."""
    diagonal = sympy.diag(*random.sample(range(-7, 8), size))
    if surds:
        diagonal[0, 1], diagonal[1, 0] = random.choice([1, 2]), random.choice([1, 2])
    lower = sympy.Matrix(size, size, lambda i, j: 1 if i == j else random.randint(-2, 2) if i > j else 0)
    upper = sympy.Matrix(size, size, lambda i, j: 1 if i == j else random.randint(-2, 2) if i < j else 0)
    change = lower * upper  # its determinant is 1
    values = sympy.FiniteSet(*diagonal.eigenvals())
    question = f"What are the eigenvalues of {_written(change * diagonal * change.inv())}?"
    return _asked(f"{question} Write them as a set, such as $\\{{1, 2\\}}$.", values)


def _limit(random: Random, form: int) -> Made:
    """`form`: 1 a hole, 2 at infinity, 3 of sines, 4 of powers that grow."""
    a, b = _other_than_zero(random, 9), _other_than_zero(random, 9)
    c, d = random.randint(1, 9), random.randint(1, 9)
    if form == 1:
        while c * a + b == 0 or d * a + a == 0 or c * a == b * d:
            b = _other_than_zero(random, 9)
        top, bottom = sympy.expand((X - a) * (c * X + b)), sympy.expand((X - a) * (d * X + a))
        return _ask_limit(f"\\frac{{{sympy.latex(top)}}}{{{sympy.latex(bottom)}}}", str(a), Rational(c * a + b, d * a + a))
    if form == 2:
        top, bottom = a * X**2 + _polynomial(random, 1), c * X**2 + _polynomial(random, 1)
        return _ask_limit(f"\\frac{{{sympy.latex(top)}}}{{{sympy.latex(bottom)}}}", "\\infty", Rational(a, c))
    if form == 3:
        shown = random.choice(
            [
                (f"\\frac{{\\sin({a} x)}}{{{c} x}}", Rational(a, c)),
                (f"\\frac{{1 - \\cos({d} x)}}{{{c} x^2}}", Rational(d * d, 2 * c)),
                (f"\\frac{{\\tan({a} x)}}{{\\sin({c} x)}}", Rational(a, c)),
                (f"\\frac{{e^{{{a} x}} - 1}}{{{c} x}}", Rational(a, c)),
            ]
        )
        return _ask_limit(shown[0], "0", shown[1])
    shift = random.randint(-9, 9)
    power = f"{c} x" + (f" {'+' if shift > 0 else '-'} {abs(shift)}" if shift else "")
    return _ask_limit(f"\\left(1 + \\frac{{{a}}}{{{d} x}}\\right)^{{{power}}}", "\\infty", sympy.exp(Rational(a * c, d)))


def _ask_limit(shown: str, end: str, value: Any) -> Made:
    return _asked(f"What is $\\lim_{{x \\to {end}}} {shown}$?", value)


def _inequality(random: Random, roots: int, poles: int) -> Made:
    """A product of linear factors, of which `poles` divide, against 0."""
    places = sorted(random.sample(range(-9, 10), roots + poles))
    below = set(random.sample(places, poles))
    strict, positive = random.random() < 0.5, random.random() < 0.5
    top = sympy.expand(sympy.prod([X - place for place in places if place not in below]))
    bottom = sympy.expand(sympy.prod([X - place for place in below]))
    ends = [-sympy.oo, *places, sympy.oo]
    parts = [
        sympy.Interval(a, b, strict or a in below, strict or b in below)
        for number, (a, b) in enumerate(pairwise(ends))
        if ((len(places) - number) % 2 == 0) is positive
    ]
    shown = f"\\frac{{{sympy.latex(top)}}}{{{sympy.latex(bottom)}}}" if poles else sympy.latex(top)
    sign = (">" if positive else "<") if strict else ("\\ge" if positive else "\\le")
    form = "Write the solution in intervals, such as $(-\\infty, 1] \\cup (2, 3)$."
    return _asked(f"For which real $x$ is ${shown} {sign} 0$? {form}", sympy.Union(*parts))


def _congruence(random: Random, modulus: int, solutions: int) -> Made:
    """With `solutions` of them in a ring of up to modulus x solutions."""
    small = random.randint(modulus // 2, modulus)
    factor = random.choice([number for number in range(2, small) if gcd(number, small) == 1])
    first, whole = random.randrange(small), small * solutions
    a, b = factor * solutions, factor * first * solutions % whole
    found = sympy.FiniteSet(*(first + small * number for number in range(solutions)))
    question = f"Find all $x$ in $\\{{0, 1, \\dots, {whole - 1}\\}}$ with ${a} x \\equiv {b} \\pmod{{{whole}}}$."
    return _asked(f"{question} Write them as a set, such as $\\{{1, 2\\}}$.", found)


def _series_sum(random: Random, form: int) -> Made:
    """`form`: 1 geometric, 2 telescoping, 3 n times a geometric one."""
    begin, scale = random.randint(0, 4), random.randint(1, 9)
    if form == 2:
        a = random.randint(1, 5)
        b = a + random.randint(1, 4)
        value = Rational(scale, b - a) * sum(Rational(1, begin + a + number) for number in range(b - a))
        return _asked(f"What is $\\sum_{{n={begin}}}^{{\\infty}} \\frac{{{scale}}}{{(n + {a})(n + {b})}}$?", value)
    bottom = random.randint(3, 9)
    ratio = Rational(random.choice([k for k in range(1 - bottom, bottom) if k and gcd(k, bottom) == 1]), bottom)
    shown = f"\\left({sympy.latex(ratio)}\\right)^n"
    if form == 1:
        return _asked(f"What is $\\sum_{{n={begin}}}^{{\\infty}} {scale} {shown}$?", scale * ratio**begin / (1 - ratio))
    value = scale * ratio / (1 - ratio) ** 2 - sum(scale * number * ratio**number for number in range(begin))
    return _asked(f"What is $\\sum_{{n={begin}}}^{{\\infty}} {scale} n {shown}$?", value)


def _sum_of_powers(random: Random, degree: int) -> Made:
    k = sympy.Symbol("k")
    summand = _polynomial(random, degree).subs(X, k)
    value = sympy.factor(sympy.summation(summand, (k, 1, N)))
    return _asked(f"What is $\\sum_{{k=1}}^{{n}} \\left({sympy.latex(summand)}\\right)$ as a formula of $n$?", value)


def _recurrence(random: Random, order: int) -> Made:
    """Of first order with a constant, or of second order with two different whole roots."""
    one, other = random.sample([-4, -3, -2, 2, 3, 4, 5], 2)
    a, b = _other_than_zero(random, 5), _other_than_zero(random, 5)
    if order == 1:
        value = a * one**N + b
        told = f"$a_0 = {a + b}$ and $a_{{n+1}} = {one} a_n {b - one * b:+d}$"
    else:
        value = a * one**N + b * other**N
        told = f"$a_0 = {a + b}$, $a_1 = {a * one + b * other}$ and $a_{{n+2}} = {one + other} a_{{n+1}} {-one * other:+d} a_n$"
    return _asked(f"A sequence has {told}. What is $a_n$ as a formula of $n$?", value)


def _taylor(random: Random, order: int, factor: int) -> Made:
    """About 0; `factor`: the degree of a polynomial that the function is multiplied with."""
    slope = _other_than_zero(random, 4)
    functions = [sympy.sin(slope * X), sympy.cos(slope * X), sympy.exp(slope * X), sympy.log(1 + slope * X), 1 / (1 + slope * X)]
    whole = _polynomial(random, factor) * random.choice([*functions, sympy.sqrt(1 + slope * X)])
    value = sympy.series(whole, X, 0, order + 1).removeO()
    return _asked(f"What is the Taylor polynomial of {_written(whole)} about $x = 0$, up to and with $x^{order}$?", value)


def _remainder(random: Random, degree: int, divisor: int) -> Made:
    bottom = X**divisor + sum(random.randint(-4, 4) * X**power for power in range(divisor))
    while True:
        top = _polynomial(random, degree + divisor)
        if value := sympy.rem(top, bottom, X):
            break
    return _asked(f"What is the remainder of ${sympy.latex(top)}$ when it is divided by ${sympy.latex(bottom)}$?", value)


def _tangent(random: Random, degree: int) -> Made:
    curve, place = _polynomial(random, degree), random.randint(-3, 3)
    value = sympy.expand(curve.subs(X, place) + curve.diff(X).subs(X, place) * (X - place))
    question = f"The tangent of $y = {sympy.latex(curve)}$ at $x = {place}$ is a line $y = f(x)$."
    return _asked(f"{question} What is $f(x)$?", value)


def _exact_trigonometry(random: Random, parts: int, terms: int) -> Made:
    """A sum of sines, cosines and, of one term, tangents of multiples of π/parts."""
    names = ["sin", "cos", *(["tan"] if terms == 1 else [])]
    while True:
        shown, value = [], sympy.Integer(0)
        for _ in range(terms):
            scale, name = _other_than_zero(random, 9), random.choice(names)
            angle = sympy.pi * Rational(random.randint(1, 4 * parts), parts)
            shown.append(f"{scale:+d} \\{name} {_written(angle)[1:-1].join(('{', '}'))}")
            value += scale * getattr(sympy, name)(angle)
        if value.is_finite and value != 0:
            return _asked(f"What is ${' '.join(shown).lstrip('+')}$, exactly and without trigonometric functions?", value)


def _probability(random: Random, draws: int, colours: int) -> Made:
    """Of so many of the first of `colours` among balls that are drawn and not put back."""
    balls = [random.randint(draws, draws + 6) for _ in range(colours)]
    wanted = random.randint(1, draws - 1)
    others, total = sum(balls[1:]), sum(balls)
    value = Rational(comb(balls[0], wanted) * comb(others, draws - wanted), comb(total, draws))
    names = ["red", "blue", "green", "white"][:colours]
    told = ", ".join(f"{count} {name}" for count, name in zip(balls, names, strict=True))
    question = f"An urn holds {told} balls. {draws} are drawn and not put back."
    return _asked(
        f"{question} What is the probability that exactly {wanted} of them {'is' if wanted == 1 else 'are'} red?", value
    )


def _meeting_time(random: Random, workers: int) -> Made:
    """How long it takes together what each does alone in whole hours."""
    hours = random.sample(range(2, 25), workers)
    value = 1 / sum(Fraction(1, one) for one in hours)
    told = ", ".join(f"pump {number} in {one} hours" for number, one in enumerate(hours, start=1))
    return _asked(f"A basin is filled by {told}. In how many hours do all fill it together?", Rational(value))


def _formula(letters: str, commands: str, more: str = "") -> str:
    """A shape: numbers, signs and brackets, these letters, and these commands of LaTeX.

    Possessive, since it stands in shapes that repeat it: in 30 digits that are no answer a pattern would try 2^30 cuts.
    """
    known = f"{commands}|frac|dfrac|tfrac|cdot|times|left|right"
    return rf"(?:\\(?:{known})(?![a-zA-Z])|\\[,;:! ]|[{letters}\d+\-*/^(){{}}.\s{more}])++"


_NUMBER = _formula("", "div")
_EXACT = _formula("", "sqrt").replace(r".\s", r"\s")
_REAL = _formula("e", "sqrt|exp|ln|pi|arctan").replace(r".\s", r"\s")
_SET = rf"(?:\\[{{}}]|\\pm(?![a-zA-Z])|,|{_EXACT})+"
_MATRIX = r"(?:\\(?:begin|end)\{[bp]?matrix\}|\\(?:left|right)[(\[)\]]|\\d?frac(?![a-zA-Z])|\\\\|[\d+\-/(){}\[\]&.\s])+"
_POLYNOMIAL = _formula("xX", "over")
_OF_X = _formula("xe", "sin|cos|tan|exp|ln|sqrt")
_OF_N = _formula("n", "over")

KINDS: dict[str, Kind] = {  # a generator each of MathematicsTask
    "congruence": Kind(_congruence, _is_equal, {"modulus": (8, 20, 60, 150), "solutions": (1, 2, 3, 4)}, _SET, _read),
    "definite_integral": Kind(_definite_integral, _is_equal, {"terms": (0, 1, 2, 3), "functions": (1, 2, 3, 4)}, _REAL, _read),
    "derivative": Kind(_derivative, _is_equal, {"form": (1, 2, 3, 4)}, _OF_X, _read),
    "eigenvalues": Kind(_eigenvalues, _is_equal, {"size": (2, 3), "surds": (0, 1)}, _SET, _read),
    "exact_trigonometry": Kind(_exact_trigonometry, _is_equal, {"parts": (6, 12), "terms": (1, 2, 3)}, _EXACT, _read),
    "inequality": Kind(
        _inequality,
        _is_equal,
        {"roots": (2, 3, 4), "poles": (0, 1, 2)},
        rf"(?:\\(?:cup|infty)(?![a-zA-Z])|[\[\],]|\\[{{}}]|{_NUMBER})+",
        _read,
    ),
    "limit": Kind(_limit, _is_equal, {"form": (1, 2, 3, 4)}, _REAL, _read),
    "linear_system": Kind(
        _linear_system,
        _is_equal,
        {"unknowns": (3, 4), "denominator": (1, 2, 4)},
        rf"\s*(?:\\left)?\((?:,|{_NUMBER})+",
        _read,
    ),
    "matrix_inverse": Kind(_matrix_inverse, _is_equal, {"size": (2, 3), "largest": (3, 6, 9)}, _MATRIX, _read),
    "polynomial_remainder": Kind(_remainder, _is_equal, {"degree": (1, 2, 3), "divisor": (1, 2, 3)}, _POLYNOMIAL, _read),
    "polynomial_roots": Kind(_roots, _is_equal, {"degree": (2, 3, 4), "surds": (0, 1)}, _SET, _read),
    "recurrence": Kind(_recurrence, _is_equal, {"order": (1, 2)}, _OF_N, _read),
    "series_sum": Kind(_series_sum, _is_equal, {"form": (1, 2, 3)}, _NUMBER, _read),
    "sum_of_powers": Kind(_sum_of_powers, _is_equal, {"degree": (1, 2, 3, 4)}, _OF_N, _read),
    "tangent_line": Kind(_tangent, _is_equal, {"degree": (2, 3, 4)}, _POLYNOMIAL, _read),
    "taylor_polynomial": Kind(_taylor, _is_equal, {"order": (2, 3, 4), "factor": (0, 1, 2)}, _POLYNOMIAL, _read),
    "urn_probability": Kind(_probability, _is_equal, {"draws": (2, 3, 4), "colours": (2, 3, 4)}, _NUMBER, _read),
    "work_together": Kind(_meeting_time, _is_equal, {"workers": (2, 3, 4, 5)}, _NUMBER, _read),
}
