"""The learning rate is a continuous, pure function of tokens: up, level, down."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.recipe.schema.choices import DecayShape, Schedule
from athanor.recipe.schema.training import Pretrain
from athanor.training.schedule import LearningRate

SHAPES = st.sampled_from(DecayShape)


@st.composite
def pretrains(draw: st.DrawFn) -> Pretrain:
    budget = draw(st.integers(1_000, 10**13))
    warmup = draw(st.integers(0, budget))
    decay = draw(st.integers(0, budget - warmup))
    peak = draw(st.floats(1e-6, 1.0))
    return Pretrain(
        token_budget=budget,
        warmup_tokens=warmup,
        decay_tokens=decay,
        lr=peak,
        min_lr=peak * draw(st.floats(0, 1)),
        decay_shape=draw(SHAPES),
        schedule=draw(st.sampled_from([Schedule.WSD, Schedule.CONSTANT])),
    )


@given(pretrains(), st.floats(0, 1))
def test_rate_anywhere_stays_between_zero_and_the_peak(settings: Pretrain, share: float) -> None:
    rate = LearningRate.of(settings)
    assert 0 <= rate(int(share * settings.token_budget)) <= settings.lr * (1 + 1e-12)


@given(pretrains())
def test_rate_between_warmup_and_decay_is_the_peak(settings: Pretrain) -> None:
    rate = LearningRate.of(settings)
    begin, end = settings.warmup_tokens, settings.token_budget - settings.decay_tokens
    assert all(rate(t) == settings.lr for t in (begin, (begin + end) // 2, end) if t >= begin)


@given(pretrains())
def test_rate_at_the_budget_is_the_minimum_where_it_decays(settings: Pretrain) -> None:
    rate = LearningRate.of(settings)
    decays = settings.schedule is Schedule.WSD and settings.decay_tokens > 0
    expected = settings.min_lr if decays else settings.lr
    assert math.isclose(rate(settings.token_budget), expected, rel_tol=1e-12, abs_tol=1e-18)
    assert rate(settings.token_budget * 2) == rate(settings.token_budget), "a last step may pass the budget"


@given(pretrains(), st.floats(0, 1), st.floats(0, 1))
def test_rate_rises_in_warmup_and_falls_in_decay(settings: Pretrain, a: float, b: float) -> None:
    rate = LearningRate.of(settings)
    low, high = sorted((a, b))
    assert rate(int(low * settings.warmup_tokens)) <= rate(int(high * settings.warmup_tokens))
    begin = settings.token_budget - settings.decay_tokens
    assert rate(begin + int(low * settings.decay_tokens)) >= rate(begin + int(high * settings.decay_tokens)) * (1 - 1e-12)


@given(pretrains(), st.integers(2, 10))
def test_rate_before_the_decay_ignores_the_budget(settings: Pretrain, factor: int) -> None:
    longer = LearningRate.of(Pretrain(**{**vars(settings), "token_budget": settings.token_budget * factor}))
    rate, end = LearningRate.of(settings), settings.token_budget - settings.decay_tokens
    assert all(rate(t) == longer(t) for t in (0, end // 3, end // 2, end))


@pytest.mark.parametrize(
    ("shape", "expected"), [(DecayShape.LINEAR, 0.75), (DecayShape.ONE_MINUS_SQRT, 0.5), (DecayShape.COSINE, 0.5 + 0.5**1.5)]
)
def test_rate_a_quarter_into_the_decay_has_the_published_shape(shape: DecayShape, expected: float) -> None:
    settings = Pretrain(token_budget=1000, warmup_tokens=0, decay_tokens=400, lr=1.0, min_lr=0.0, decay_shape=shape)
    assert math.isclose(LearningRate.of(settings)(700), expected)


def test_cosine_falls_from_the_warm_up_to_the_end_of_the_budget() -> None:
    rate = LearningRate.of(Pretrain(token_budget=1100, warmup_tokens=100, lr=1.0, min_lr=0.2, schedule=Schedule.COSINE))
    assert [round(rate(tokens), 12) for tokens in (50, 100, 600, 1100, 1200)] == [0.5, 1.0, 0.6, 0.2, 0.2]
