"""Bad recipes and sites made from the schema: for every field a misspelt name, a wrong type, unit and range."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import StrEnum
from typing import Any, get_origin

import pytest

from athanor.recipe.loading import load_site, read_recipe
from athanor.recipe.problems import Problem, RecipeError
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.site import Site
from athanor.recipe.units import EXAMPLES, Unit
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import Place, places, with_entries

RECIPE = list(places(Recipe))
SITE = list(places(Site))
FOREIGN_UNIT = {Unit.TOKENS: "20MB", Unit.BYTES: "5T", Unit.MINUTES: "5K", Unit.SECONDS: "3GB"}


def by_place(found: list[Place]) -> Any:
    return pytest.mark.parametrize("place", found, ids=[place.path for place in found])


def problems_of(project: Project, place: Place, path: str, value: Any) -> list[Problem]:
    """The problems of the small recipe (or site) with `value` at `path`."""
    if place in SITE:
        project.write("bad", put({"resources": {"default": {}}}, path, value), "sites")
        with pytest.raises(RecipeError) as caught:
            load_site("bad")
        return list(caught.value.problems)
    project.write("bad", put(with_entries(base()), path, value))
    return list(read_recipe("bad").problems)


def misspellings(name: str) -> Iterator[str]:
    yield name + name[-1]
    if len(name) > 4:
        middle = len(name) // 2
        yield name[:middle] + name[middle + 1 :]


MISSPELT = [(place, wrong) for place in RECIPE + SITE for wrong in misspellings(place.name)]


@pytest.mark.parametrize(("place", "wrong"), MISSPELT, ids=[f"{place.section}{wrong}" for place, wrong in MISSPELT])
def test_misspelt_key_names_the_nearest(project: Project, place: Place, wrong: str) -> None:
    path = place.path.removesuffix(place.name) + wrong
    found = problems_of(project, place, path, 1)
    advice = [problem.advice for problem in found if problem.key == place.section + wrong]
    assert advice == [f"no such key; did you mean {place.shown}?"]


def wrong_type(place: Place) -> tuple[Any, str]:
    """A value the field cannot take, and what the report says."""
    hint = place.hint
    if is_dataclass(hint):
        return 5, "expected a section with the keys "
    if get_origin(hint) is list:
        return 5, "expected a list, such as [a, b]"
    if get_origin(hint) is dict:
        return 5, "expected a section of names and values"
    if issubclass(hint, StrEnum):
        return "nonsense", f"expected {' | '.join(hint)}"
    if place.bound("unit"):
        return [1], f"expected {place.bound('unit')}, such as {EXAMPLES[place.bound('unit')]}"
    return {
        bool: ("perhaps", "expected true or false"),
        int: ("many", "expected a whole number"),
        float: ("much", "expected a number, such as 3e-4"),
        str: ([1], "expected text"),
    }[hint]


@by_place(RECIPE + SITE)
def test_wrong_type_is_the_only_problem_reported(project: Project, place: Place) -> None:
    value, advice = wrong_type(place)
    found = problems_of(project, place, place.path, value)
    assert [problem.key for problem in found] == [place.shown]
    assert found[0].advice.startswith(advice)


WITH_UNIT = [place for place in RECIPE + SITE if place.bound("unit")]


@pytest.mark.parametrize("text", ["5 parsecs", None], ids=["nonsense", "foreign"])
@by_place(WITH_UNIT)
def test_unreadable_quantity_shows_right_ones(project: Project, place: Place, text: str | None) -> None:
    value = FOREIGN_UNIT[place.bound("unit")] if text is None else text
    many = get_origin(place.hint) is list
    found = problems_of(project, place, place.path, [value] if many else value)
    unit = place.bound("unit")
    assert [(p.key, p.advice) for p in found] == [
        (f"{place.shown}[0]" if many else place.shown, f"expected {unit}, such as {EXAMPLES[unit]}")
    ]


def outside(place: Place) -> Iterator[tuple[Any, str]]:
    """Values just out of the field's bounds, and what the report says."""
    low, high, above = (place.bound(name) for name in ("low", "high", "above"))
    bounds = [f"at least {low:g}"] if low is not None else [f"above {above:g}"] if above is not None else []
    bounds += [f"at most {high:g}"] if high is not None else []
    advice = f"must be {' and '.join(bounds)}"
    if low is not None and not (low == 0 and place.bound("unit")):  # a quantity below zero is no quantity at all
        yield low - 1, advice
    if above is not None:
        yield above, advice
    if high is not None:
        yield high + 1, advice


OUTSIDE = [(place, value, advice) for place in RECIPE + SITE for value, advice in outside(place)]


@pytest.mark.parametrize(("place", "value", "advice"), OUTSIDE, ids=[f"{place.path}={value}" for place, value, _ in OUTSIDE])
def test_value_out_of_bounds_names_them(project: Project, place: Place, value: Any, advice: str) -> None:
    many = get_origin(place.hint) is list
    found = problems_of(project, place, place.path, [value] if many else value)
    assert [(p.key, p.advice) for p in found] == [(f"{place.shown}[0]" if many else place.shown, advice)]


@by_place([place for place in RECIPE + SITE if place.bound("required")])
def test_required_key_left_out_says_what_it_is_for(project: Project, place: Place) -> None:
    data = with_entries(base())
    *sections, last = place.path.split(".")
    entry: Any = data
    for section in sections:
        entry = entry[int(section)] if isinstance(entry, list) else entry[section]
    del entry[last]
    project.write("bad", data)
    advice = [problem.advice for problem in read_recipe("bad").problems if problem.key == place.shown]
    assert advice == [f"is missing: {place.field.metadata['doc']}"]


def test_every_field_says_what_it_means_and_its_default_is_legal() -> None:
    for place in RECIPE + SITE:
        assert place.field.metadata["doc"], place.path
        low, above = place.bound("low"), place.bound("above")
        default = place.field.default
        if isinstance(default, int | float) and not place.bound("required"):
            assert low is None or default >= low, place.path
            assert above is None or default > above, place.path
