"""Mathematics: what counts as equal, what no answer gets by, and every generator at its first and last levels."""

import math
import re
import time
from collections.abc import Iterator

import pytest

from athanor.recipe.schema.choices import MathematicsTask
from athanor.rewards.sandbox.box import Sandbox
from athanor.rl.tasks.audit import audit_by_name
from athanor.rl.tasks.generator import MATHEMATICS, find_generator, sandbox_of
from athanor.rl.tasks.mathematics import KINDS, attributes, generate
from athanor.rl.tasks.verifying import Verifier
from tests.rewards.sandbox.walls import needs_walls

HALF, ROOTS = r"$\frac{1}{2}$", r"$\left\{1 - \sqrt{2}, 1 + \sqrt{2}\right\}$"
LINE, UNION = r"$12 x + 6$", r"$\left(-\infty, 2\right) \cup \left[3, \infty\right)$"
SLOPE, SURD = r"$2 x \cos{\left(x^{2} \right)}$", r"$\frac{\sqrt{6} - \sqrt{2}}{4}$"
INVERSE, SUM = r"$\left[\begin{matrix}1 & 0\\0 & \frac{1}{2}\end{matrix}\right]$", r"$\frac{n \left(n + 1\right)}{2}$"
TRIPLE, VALUE = r"$\left( 1, \  2, \  \frac{1}{2}\right)$", r"$\ln{\left(2 \right)} + e^{2}$"

# Of each generator an answer on record, answers that are right, and answers that are not.
VERDICTS: dict[MathematicsTask, tuple[str, list[str], list[str]]] = {
    MathematicsTask.URN_PROBABILITY: (
        HALF,
        [
            "1/2",
            "0.5",
            r"\frac{1}{2}",
            r"\dfrac12",
            "$$2/4$$",
            r"\boxed{.5}",
            r"\(\tfrac{1}{2}\)",
            r"P = \frac{5}{10}",
            " 1 / 2 ",
            r"2 \cdot 0.25",
        ],
        [
            "1/3",
            "0.49",
            "0.5001",
            r"\frac{2}{1}",
            "-1/2",
            "1/2 or 1/3",
            "1/2, 1/3",
            "1/2 = 1/3",
            "1/0",
            r"\infty",
            "$1/2$ or banana",
            "50%",
            "half",
        ],
    ),
    MathematicsTask.POLYNOMIAL_ROOTS: (
        ROOTS,
        [
            r"\{1+\sqrt2, 1-\sqrt2\}",
            r"1 \pm \sqrt{2}",
            r"$x \in \{1+\sqrt{2}, \frac{2-\sqrt{8}}{2}\}$",
        ],
        [
            r"\{1+\sqrt2\}",
            r"1 \pm \sqrt{3}",
            r"\{1+\sqrt2, 1-\sqrt2, 0\}",
            r"\{\}",
            "1",
        ],
    ),
    MathematicsTask.TANGENT_LINE: (
        LINE,
        [
            "6(2x+1)",
            "12*x+6",
            "y = 6 + 12x",
            r"f(x) = 12(x+\frac{1}{2})",
            "12X+6",
        ],
        [
            "12x-6",
            "6",
            "12y+6",
            "x",
            "12x+6+x-1",
        ],
    ),
    MathematicsTask.INEQUALITY: (
        UNION,
        [
            r"(-\infty,2)\cup[3,\infty)",
            r"$[3, \infty) \cup (-\infty, 2)$",
            r"x \in (-\infty, 2) \cup [3, 4] \cup [4, \infty)",
        ],
        [
            r"(-\infty,2]\cup[3,\infty)",
            r"(-\infty,2)\cup(3,\infty)",
            r"(-\infty,\infty)",
            "(2,3)",
            "2",
        ],
    ),
    MathematicsTask.DERIVATIVE: (
        SLOPE,
        [
            r"2x\cos(x^2)",
            "2*x*cos(x**2)",
            r"f'(x) = x \left(\cos(x^2) + \cos(x^2)\right)",
        ],
        [
            r"2x\sin(x^2)",
            r"\frac{d}{dx} \sin(x^2)",
            r"\frac{d \sin(x^2)}{dx}",
            "2x",
        ],
    ),
    MathematicsTask.EXACT_TRIGONOMETRY: (
        SURD,
        [
            r"\frac{\sqrt{2-\sqrt{3}}}{2}",
            r"\frac{\sqrt{3}-1}{2\sqrt{2}}",
        ],
        [
            r"\sin(\frac{\pi}{12})",
            "0.258819",
            r"\frac{\sqrt{2-\sqrt{2}}}{2}",
        ],
    ),
    MathematicsTask.MATRIX_INVERSE: (
        INVERSE,
        [
            r"\begin{pmatrix}1&0\\0&0.5\end{pmatrix}",
            r"\frac{1}{2}\begin{bmatrix}2&0\\0&1\end{bmatrix}",
        ],
        [
            r"\begin{pmatrix}1&0\\0&2\end{pmatrix}",
            r"\begin{pmatrix}1&0\\0&2\end{pmatrix}^{-1}",
            "1",
        ],
    ),
    MathematicsTask.LINEAR_SYSTEM: (
        TRIPLE,
        [
            "(1, 2, 0.5)",
            r"(x, y, z) = (1, 2, \frac12)",
        ],
        [
            "(2, 1, 0.5)",
            "(1, 2)",
            r"\{1, 2, 0.5\}",
            "1, 2, 0.5",
        ],
    ),
    MathematicsTask.DEFINITE_INTEGRAL: (
        VALUE,
        [
            r"e^2 + \ln 2",
            r"\exp(2) + \log(2)",
            r"e^{2} + \frac{\ln 4}{2}",
        ],
        [
            r"\int_1^2 x dx",
            "8.0822",
            "e^2",
            r"e^2 + \ln 3",
        ],
    ),
    MathematicsTask.SUM_OF_POWERS: (
        SUM,
        [
            "n(n+1)/2",
            r"\frac{n^2+n}{2}",
            r"\frac12 n^2 + \frac n2",
        ],
        [
            r"\sum_{k=1}^n k",
            "n(n-1)/2",
            "n",
        ],
    ),
}
HOSTILE = {
    "powers of powers": "9**9**9**9",
    "the same in LaTeX": "9^{9^{9^{9}}}",
    "powers of sums": "(9+9)^{(9+9)^{(9+9)}}",
    "a power of a power": "((99^{999})^{999})^{999}",
    "a million digits": "9" * 10**6,
    "brackets": "(" * 10**5,
    "few brackets": "(" * 900,
    "fractions in fractions": r"\frac{" * 180,
    "a million letters": "x" * 10**6,
    "digits of another alphabet": "\u202e" + "𝟙" * 1000,
    "half of a surrogate pair": "\ud835",
    "nothing": "",
    "blanks": " \n\t ",
    "a program": "__import__('os')._exit(77)",
    "a macro": r"\def\a{\a\a}\a",
    "a nul": "1\x00/2",
    "undefined": r"\frac{0}{0}",
    "delimiters alone": "$$$$",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with sandbox_of([find_generator(MathematicsTask.LIMIT)]) as box:
        yield box


def test_every_generator_that_recipes_may_name_is_there() -> None:
    assert set(KINDS) == set(MathematicsTask)
    assert {find_generator(name).module for name in MathematicsTask} == {MATHEMATICS}
    assert not any(find_generator(name).needs_walls for name in MathematicsTask)


@pytest.mark.parametrize("generator", sorted(VERDICTS))
def test_what_is_equal_is_right_and_nothing_else_is(sandbox: Sandbox, generator: MathematicsTask) -> None:
    gold, right, wrong = VERDICTS[generator]
    answers = [*right, *wrong]
    verdicts = Verifier(sandbox).judge(MATHEMATICS, generator, answers, [{"answer": gold}] * len(answers))
    assert [answer for answer, verdict in zip(answers, verdicts, strict=True) if verdict.right] == right


@pytest.mark.parametrize(
    "generator", [MathematicsTask.URN_PROBABILITY, MathematicsTask.DERIVATIVE, MathematicsTask.POLYNOMIAL_ROOTS]
)
def test_hostile_answers_are_wrong_and_the_one_beside_them_is_judged(sandbox: Sandbox, generator: MathematicsTask) -> None:
    answers = [*HOSTILE.values(), r"\frac{3}{6}"]
    verdicts = Verifier(sandbox).judge(MATHEMATICS, generator, answers, [{"answer": HALF}] * len(answers))
    assert [verdict.right for verdict in verdicts] == [False] * len(HOSTILE) + [True]


@pytest.mark.parametrize("generator", sorted(MathematicsTask))
def test_problems_follow_from_their_number_alone(generator: str) -> None:
    last = {name: count - 1 for name, count in attributes(generator).items()}
    for levels in ({}, last):
        assert generate(generator, levels, 1, 2) == generate(generator, levels, 1, 6)[:2]
        assert len({entry["question"] for entry in generate(generator, levels, 1, 6)}) > 3
    assert generate(generator, {}, 1, 6)[1:] != generate(generator, {}, 2, 5)


@pytest.mark.parametrize("generator", sorted(MathematicsTask))
def test_text_that_is_no_answer_is_told_from_one_at_once(generator: str) -> None:
    shape = re.compile(KINDS[generator].shape)
    for text in ("1" * 40 + " is", r"(\frac{1}{4}, -\frac{3}{4}, 5) = (x, y, z)", "{1, " * 200 + "=", "(" * 900 + "!"):
        began = time.process_time()
        assert shape.fullmatch(text) is None
        assert time.process_time() - began < 1  # where every cut was tried: years


@needs_walls
@pytest.mark.parametrize("generator", sorted(MathematicsTask))
def test_audit_finds_every_level_sound(generator: str) -> None:
    found = audit_by_name(generator)
    assert not found.defects and not found.quarantine and not found.refused
    assert len(found.tasks) == math.prod(attributes(generator).values())
