"""Which generators of reasoning-gym 0.1.25 a recipe may take problems from, and why not from the others.

Every verifier was tried with the answer on record, another problem's, none, and the right one with "or banana" behind it, each
problem written as JSON and read back; and every generator in two processes. tests/rewards/test_verifiers.py does it again.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path

from athanor.recipe.environments import environments, pins
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import DocumentFormat, SourceKind
from athanor.recipe.schema.recipe import Recipe, Source

PACKAGE = "reasoning-gym"

_SOUND = """
ab acre advanced_geometry aiw arc_1d base_conversion basic_arithmetic bf binary_alternation bitwise_arithmetic caesar_cipher
calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation complex_arithmetic count_bits count_primes
course_schedule cryptarithm decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font futoshiki
game_of_life gcd group_anagrams jugs largest_island lcm leg_counting letter_counting list_functions mahjong_puzzle
manipulate_matrix maze mini_sudoku modulo_grid needle_haystack number_filtering number_format number_sequence number_sorting
palindrome_generation palindrome_partitioning path_star polynomial_equations pool_matrix power_function prime_factorization
products quantum_lock rectangle_count rotate_matrix rotten_oranges self_reference sentence_reordering shortest_path
simple_equations simple_geometry string_manipulation string_splitting string_synthesis sudoku syllogism
tower_of_hanoi tsumego word_sequence_reversal word_sorting zebra_puzzles
"""
SOUND = frozenset(_SOUND.split())

_REASONS = {
    "its verifier runs what a model wrote as a program": "binary_matrix countdown intermediate_integration n_queens "
    "polynomial_multiplication puzzle24 simple_integration spiral_matrix string_insertion",
    "its verifier takes a hedged answer for right": "fraction_simplification gsm_symbolic kakurasu knights_knaves letter_jumble "
    "sokoban spell_backward survo time_intervals",
    "its verifier takes any answer for right": "game_of_life_halting",
    "its problems come without an answer": "boxnet graph_color propositional_logic rubiks_cube rush_hour",
    "it gives other problems in another process": "codeio isomorphic_strings knight_swap ransom_note word_ladder",
    "its problems are not what they were once they are written down": "arc_agi rearc",
    "it mixes other generators, which the mixture of the recipe does": "composite",
}
UNSOUND = {name: reason for reason, names in _REASONS.items() for name in names.split()}


def illegal_problems(where: str, source: Source) -> Iterator[Problem]:
    """What is wrong with a source that generates problems, or with another one that is told how to."""
    if source.kind is not SourceKind.REASONING_GYM:
        for key, value in (("items", source.items), ("seed", source.seed), ("options", source.options)):
            if value:
                yield Problem(f"{where}.{key}", value, f"only {where}.kind=reasoning_gym generates problems; leave it out")
        return
    if source.package in UNSOUND:
        yield Problem(f"{where}.package", source.package, f"cannot be learnt from: {UNSOUND[source.package]}")
    elif source.package and source.package not in SOUND:
        near = difflib.get_close_matches(source.package, SOUND, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {len(SOUND)}, see docs/post-training.md"
        yield Problem(f"{where}.package", source.package, f"no such generator{hint}")
    if not source.items:
        yield Problem(f"{where}.items", source.items, "say how many problems are to be generated, held-out ones among them")
    if source.format is not DocumentFormat.ROWS:
        yield Problem(f"{where}.format", source.format.value, "a generator gives rows; use rows")


def other_versions(r: Recipe, project: Path) -> Iterator[Problem]:
    """Sources of another version of the package than the one that the environment has."""
    pinned = pins(project, r.environment, (PACKAGE,)).get(PACKAGE, "") if r.environment in environments(project) else ""
    for name, source in r.data.sources.items():
        if source.kind is SourceKind.REASONING_GYM and source.version and pinned and source.version != pinned:
            where, advice = f"data.sources.{name}.version", f"environment={r.environment} has {PACKAGE} {pinned}; use that"
            yield Problem(where, source.version, advice)
