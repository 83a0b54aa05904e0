"""Steps are left out by a quantile of the run's own norms, the same in a run that goes on from a checkpoint."""

import math

from athanor.training.norms import LEAST, Norms


def test_nothing_is_left_out_before_there_is_a_usual_norm() -> None:
    norms = Norms(0.1)
    for norm in range(1, LEAST):
        norms.learn(float(norm))
        assert norms.most() == math.inf
    norms.learn(float(LEAST))
    assert norms.most() < LEAST


def test_the_largest_are_left_out_as_often_as_is_said() -> None:
    norms, out = Norms(0.1), 0
    for step in range(2000):
        norm = 1.0 + (step * 7919 % 1000) / 1000
        out += norm > norms.most()
        norms.learn(norm)
    assert 150 < out < 250


def test_a_resumed_run_leaves_the_same_out() -> None:
    told = [1.0 + (step * 31 % 97) / 97 for step in range(100)]
    whole = Norms(0.05)
    for norm in told:
        whole.learn(norm)
    assert Norms(0.05, told).most() == whole.most()


def test_steps_in_which_nothing_was_learnt_do_not_count() -> None:
    norms = Norms(0.5, [0.0] * 100 + [math.nan] * 100)
    assert norms.most() == math.inf


def test_without_a_share_nothing_is_ever_left_out() -> None:
    assert Norms(0.0, [1.0] * 100).most() == math.inf
