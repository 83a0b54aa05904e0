"""What an answer looks like, for verifiers that take more for right than is, or that run what they are given.

An answer of another shape is wrong, and the verifier never sees it. The shapes are of reasoning-gym 0.1.25; `athanor task audit`
tries every verifier with and without them.
"""

import re

LONGEST = 20_000  # characters: what is longer is not judged
_NUMBER, _ROWS = r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", r"[-\d\s]+"
_FORMULA = r"(?:(?:asin|acos|atan|sinh|cosh|tanh|sin|cos|tan|exp|log|sqrt|pi|[xXCE])(?![a-zA-Z])|[\d+\-*/^(). ])+"
_ROLES = r"[A-Z]\w+ is an? \w+"

SHAPES: dict[str, re.Pattern[str]] = {
    name: re.compile(shape)
    for name, shape in {
        "advanced_geometry": r"\(-?[\d.]+, ?-?[\d.]+\)|-?[\d.]+°?",
        "binary_matrix": _ROWS,
        "countdown": r"(?!.*(?:\*\*|//))[\d+\-*/() ]+",
        "fraction_simplification": r"\$?-?\d+/\d+\$?|\$?-?\\d?frac\{-?\d+\}\{-?\d+\}\$?",
        "gsm_symbolic": _NUMBER,
        "intermediate_integration": _FORMULA,
        "isomorphic_strings": "True|False",
        "kakurasu": _ROWS,
        "knight_swap": r"No|\[.*\]",
        "knights_knaves": rf"{_ROLES}(?:,? (?:and )?{_ROLES})*\.?",
        "n_queens": r"[_Q\s]+",
        "polynomial_multiplication": r"(?:[a-zA-Z](?![a-zA-Z])|[\d+\-*^(). ])+",
        "puzzle24": r"(?!.*(?:\*\*|//))[\d+\-*/() ]+",
        "ransom_note": "True|False",
        "simple_integration": _FORMULA,
        "sokoban": "[LRUDlrud]+",
        "spell_backward": r"\w+",
        "spiral_matrix": _ROWS,
        "string_insertion": "[A-Z]+",
        "survo": _ROWS,
        "time_intervals": r"\d+ days?(?:, [\d:.]+)?|[\d:.]+",
        "word_ladder": r"[A-Z]+(?:,[A-Z]+)*",
    }.items()
}


def fits(generator: str, answer: str) -> bool:
    """Whether the answer may be shown to the generator's verifier."""
    if len(answer) > LONGEST or not answer.strip():
        return False
    shape = SHAPES.get(generator)
    return shape is None or shape.fullmatch(answer.strip()) is not None
