"""The hyper-parameter law against the settings that the paper reports of its two models."""

import pytest

from athanor.recipe.law import advice


@pytest.mark.parametrize(
    ("parameters", "pretrained", "reward", "lr", "batch"),
    [(1.8e9, 2.5e12, 0.94e12, 1.4e-5, 1940), (7e9, 4.0e12, 3.6e12, 1.67e-5, 4343)],
)
def test_law_gives_the_settings_published_for_both_models(
    parameters: float, pretrained: float, reward: float, lr: float, batch: float
) -> None:
    found = advice(parameters, pretrained, reward)
    assert found.lr == pytest.approx(lr, rel=0.025)
    assert found.batch_pairs == pytest.approx(batch, rel=0.05)


def test_law_rises_with_reward_tokens_and_falls_with_pretraining() -> None:
    usual = advice(1e9, 1e12, 1e11)
    assert advice(1e9, 1e12, 1e12).batch_pairs > usual.batch_pairs and advice(1e9, 1e12, 1e12).lr > usual.lr
    assert advice(1e9, 2e12, 1e11).lr < usual.lr and advice(1e9, 2e12, 1e11).batch_pairs == usual.batch_pairs


def test_law_of_nothing_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="pretrained_tokens=0"):
        advice(1e9, 0, 1e9)
