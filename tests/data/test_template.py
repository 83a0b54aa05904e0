"""Texts made from records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.data.template import Template


def test_fill_all_fields_there_formats_them() -> None:
    record = {"name": "water", "mass": 18.015, "atoms": 3, "names": ["aqua", "oxidane"], "id": {"smiles": "O"}}
    text = Template("{name} {{{id.smiles}}}\n{mass} {atoms} {names}").fill(record)
    assert text == "water {O}\n18.015 3 aqua; oxidane"


@pytest.mark.parametrize("record", [{}, {"a": None}, {"a": ""}, {"a": " \n"}, {"a": []}, {"b": "x"}])
def test_fill_field_missing_or_blank_gives_none(record: dict[str, object]) -> None:
    assert Template("a: {a}").fill(record) is None


def test_fill_empty_template_is_empty_text() -> None:
    assert Template("").fill({"a": "b"}) == ""


@pytest.mark.parametrize("template", ["{}", "{a!r}", "{a:>3}", "{a", "a}"])
def test_template_that_is_not_plain_is_refused_with_the_way_out(template: str) -> None:
    with pytest.raises(StageError, match=r"field|brace"):
        Template(template)


@given(st.text(min_size=1).filter(lambda t: t.strip()))
def test_fill_never_interprets_the_value(value: str) -> None:
    assert Template("<{a}>").fill({"a": value}) == f"<{value}>"
