"""Trajectories of a roster: each policy on its own prefixes with draws of its own, the same after a kill."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from athanor.artifacts.run import StageError
from athanor.rewards.polar.prefixes import Prefix, assign
from athanor.rewards.polar.roster import Policy
from athanor.rewards.polar.triples import Limits, make_triples
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Prompt, Sample, Sampling
from athanor.rl.trajectories import Speaker, Speech, read_texts, write_trajectories
from tests.rewards.polar.conftest import write_backbone

POLICIES = [Policy(model, model, temperature) for model in ("one", "two", "three") for temperature in (0.8, 1.0)]
SPEECH = Speech(24, seed=3)
CONTINUED = assign([Prefix(f"p{i}", (3 + i, 4 + i)) for i in range(12)], POLICIES, seed=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("weights"), experts=0)


def speakers(folder: Path) -> dict[str, Speaker]:
    """Three names for the same weights: what they say differs by their draws alone."""
    return {name: Speaker(f"{name}-weights", lambda: InProcessEngine(folder, [0])) for name in ("one", "two", "three")}


def test_policies_write_on_their_own_prefixes_and_draw_for_themselves(weights: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    shards = write_trajectories(CONTINUED, speakers(weights), SPEECH, tmp_path, lambda *at: told.append(at))
    assert told[-1] == (24, 24) and told == sorted(told)
    said = read_texts(shards)
    for item in CONTINUED:
        one, two = (said(policy, item.prefix) for policy in item.policies)
        assert len({text.tokens for text in (*one, *two)}) == 4, "equal weights, different draws"
        others = [policy for policy in POLICIES if policy not in item.policies]
        assert not any(said(policy, item.prefix) for policy in others)
    assert make_triples(CONTINUED, said, Limits(shortest=4)).triples


def test_policy_writes_behind_the_tokens_it_was_tuned_to_have_first(weights: Path, tmp_path: Path) -> None:
    asked: list[tuple[int, ...]] = []

    class Listening(InProcessEngine):
        def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Sample]:
            asked.extend(prompt.tokens for prompt in prompts)
            return super().generate(prompts, sampling)

    tuned = {"one": Speaker("tuned", lambda: Listening(weights, [0]), first=(38, 39))}
    write_trajectories(CONTINUED, tuned, SPEECH, tmp_path, lambda *_: None)
    mine = [item.prefix.tokens for item in CONTINUED for policy in item.policies if policy.model == "one"]
    assert sorted(asked) == sorted((38, 39, *tokens) for tokens in mine) and mine


class Dying:
    """An engine that is killed after some samples."""

    def __init__(self, engine: InProcessEngine, after: int) -> None:
        self._engine, self._after = engine, after

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Sample]:
        for number, sample in enumerate(self._engine.generate(prompts, sampling)):
            if number == self._after:
                raise KeyboardInterrupt
            yield sample

    def close(self) -> None:
        self._engine.close()


def test_killed_trajectories_go_on_and_end_in_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    whole = write_trajectories(CONTINUED, speakers(weights), SPEECH, tmp_path / "whole", lambda *_: None)
    dying = {**speakers(weights), "three": Speaker("three-weights", lambda: Dying(InProcessEngine(weights, [0]), 3))}
    with pytest.raises(KeyboardInterrupt):
        write_trajectories(CONTINUED, dying, SPEECH, tmp_path / "torn", lambda *_: None)
    again = write_trajectories(CONTINUED, speakers(weights), SPEECH, tmp_path / "torn", lambda *_: None)
    for name, paths in whole.items():
        assert [path.read_bytes() for path in again[name]] == [path.read_bytes() for path in paths]


def test_trajectories_of_other_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    write_trajectories(CONTINUED, speakers(weights), SPEECH, tmp_path, lambda *_: None)
    other = {name: Speaker("others", speaker.engine) for name, speaker in speakers(weights).items()}
    with pytest.raises(StageError, match=r'"model": "one-weights".*wanted is.*"model": "others"'):
        write_trajectories(CONTINUED, other, SPEECH, tmp_path, lambda *_: None)
