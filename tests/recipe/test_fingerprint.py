"""The hash itself: one value, one spelling, in every process."""

import os
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.recipe.fingerprint import IdentityError, canonical_json, fingerprint, flatten
from tests.recipe.projects import Project

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Colour(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: int
    colours: list[Colour]


@given(st.dictionaries(st.text(), JSON, max_size=6), st.randoms())
@settings(max_examples=50, deadline=None)
def test_order_of_keys_does_not_matter(identity: dict[str, Any], random: Any) -> None:
    items = list(identity.items())
    random.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(identity)


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=6), st.data())
@settings(max_examples=50, deadline=None)
def test_another_value_is_another_identity(identity: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(identity)))
    value = data.draw(JSON)
    changed = {**identity, key: value}
    assert (fingerprint(changed) == fingerprint(identity)) == (canonical_json(changed) == canonical_json(identity))


def test_dataclass_enum_and_tuple_hash_as_what_they_mean() -> None:
    assert canonical_json({"p": Point(1, [Colour.RED])}) == canonical_json({"p": {"x": 1, "colours": ("red",)}})


def test_whole_number_and_fraction_are_told_apart_and_text_from_both() -> None:
    assert len({fingerprint({"x": value}) for value in (1, 1.5, "1", True, None, [1])}) == 6


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({1, 2}, "identity.a.b is a set"),
        (object(), "identity.a.b is a object"),
        (b"bytes", "identity.a.b is a bytes"),
        (Path("x"), "identity.a.b is a PosixPath"),
        (float("nan"), "identity.a.b=nan"),
        (float("inf"), "identity.a.b=inf"),
        ({1: 2}, "identity.a.b has keys that are not text"),
        ([1, {2}], r"identity.a.b\[1\] is a set"),
        (Point, "identity.a.b is a type"),
        (lambda: 1, "identity.a.b is a function"),
    ],
)
def test_value_of_no_single_spelling_is_an_error_that_names_it(value: object, where: str) -> None:
    with pytest.raises(IdentityError, match=where):
        fingerprint({"a": {"b": value}})


def test_flatten_names_leaves_by_dotted_path() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}}, "top") == {"top.a.b": 1, "top.a.c": [1, 2]}


PRINT = """
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import load_recipe, project_folder
print(*(a.path for a in Lifecycle(load_recipe("base"), project_folder())), sep="\\n")
"""


def test_fingerprints_are_the_same_in_every_process(project: Project) -> None:
    seen = []
    for seed in ("0", "1", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        answer = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True)
        seen.append(answer.stdout.split())
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 18
