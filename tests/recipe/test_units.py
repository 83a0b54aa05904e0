"""Quantities: what is written is read back, and what cannot be read says what could be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.recipe.units import LARGEST, Unit, UnitError, format_quantity, parse_quantity

AMOUNTS = st.one_of(
    st.integers(0, LARGEST),
    st.builds(lambda digits, scale: digits * 10**scale, st.integers(0, 10_000), st.integers(0, 14)),
)


@given(amount=AMOUNTS, unit=st.sampled_from(Unit))
@settings(deadline=None)
def test_what_format_writes_parse_reads_back(amount: int, unit: Unit) -> None:
    assert parse_quantity(format_quantity(amount, unit), unit) == amount


@given(amount=AMOUNTS, unit=st.sampled_from(Unit))
@settings(deadline=None)
def test_plain_number_counts_the_unit_itself(amount: int, unit: Unit) -> None:
    assert parse_quantity(amount, unit) == parse_quantity(str(amount), unit) == amount


@given(st.lists(AMOUNTS, unique=True, max_size=20))
@settings(deadline=None)
def test_labels_of_different_milestones_differ(amounts: list[int]) -> None:
    assert len({format_quantity(amount, Unit.TOKENS) for amount in amounts}) == len(amounts)


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("5T", Unit.TOKENS, 5 * 10**12),
        ("66m", Unit.TOKENS, 66 * 10**6),
        ("800_000", Unit.TOKENS, 800_000),
        ("4.35K", Unit.TOKENS, 4350),  # as a float, 4349.999…
        (" 1.2 B ", Unit.TOKENS, 1_200_000_000),
        (1e6, Unit.TOKENS, 1_000_000),
        ("1.5e3", Unit.TOKENS, 1500),
        ("20MB", Unit.BYTES, 20_000_000),
        ("512KiB", Unit.BYTES, 524_288),
        ("7B", Unit.BYTES, 7),
        ("24h", Unit.MINUTES, 1440),
        ("90min", Unit.MINUTES, 90),
        ("2d", Unit.SECONDS, 172_800),
        ("0.5min", Unit.SECONDS, 30),
    ],
)
def test_quantity_reads_as(text: object, unit: Unit, amount: int) -> None:
    assert parse_quantity(text, unit) == amount


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (400_000, Unit.TOKENS, "400K"),
        (1_230_000, Unit.TOKENS, "1.23M"),
        (1_000_001, Unit.TOKENS, "1000001"),
        (5_000_000_000_000, Unit.TOKENS, "5T"),
        (0, Unit.BYTES, "0B"),
        (1_500_000_000, Unit.BYTES, "1.5GB"),
        (90, Unit.MINUTES, "90min"),
    ],
)
def test_quantity_is_written_as(amount: int, unit: Unit, text: str) -> None:
    assert format_quantity(amount, unit) == text


@pytest.mark.parametrize("value", [True, None, [], {}, "", "K", "-1", "1,000", "0x10", float("nan"), float("inf")])
@pytest.mark.parametrize("unit", Unit)
def test_what_is_no_quantity_shows_examples(value: object, unit: Unit) -> None:
    with pytest.raises(UnitError, match=f"expected {unit.value}, such as "):
        parse_quantity(value, unit)


@pytest.mark.parametrize(("text", "unit"), [("1.5", Unit.TOKENS), ("90s", Unit.MINUTES), ("0.0001KB", Unit.BYTES)])
def test_part_of_a_unit_is_refused(text: str, unit: Unit) -> None:
    with pytest.raises(UnitError, match=f"a whole number of {unit.value}"):
        parse_quantity(text, unit)


def test_more_than_64_bits_is_refused() -> None:
    with pytest.raises(UnitError, match="64 bits"):
        parse_quantity(LARGEST + 1, Unit.TOKENS)
