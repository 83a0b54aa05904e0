"""The reward model behind a server of the node: offline's scores, also when it was killed; and an end to one that only dies."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from athanor.artifacts.run import StageError, StageRun
from athanor.recipe.schema.recipe import Recipe
from athanor.rewards.polar.model import marked_tokenizer, reward_model, write_reward_model
from athanor.rewards.polar.scoring import Scorer
from athanor.rl.rollouts import server as rollout_server
from athanor.stages import reward_server
from athanor.stages.reward_server import RewardServer
from tests.rewards.polar.conftest import write_backbone
from tests.rewards.polar.test_scoring import items


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dense = write_backbone(tmp_path_factory.mktemp("dense"), experts=0)
    marked, path = marked_tokenizer(dense, 128, fine_tuned=True), tmp_path_factory.mktemp("reward")
    model: Any = reward_model(dense, marked, seed=1)
    write_reward_model(model, model.state_dict(), path, marked)
    return path


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def stage(folder: Path) -> StageRun:
    return StageRun(Recipe(), "online", "model", "0" * 16, folder, {})


def server_of(server: RewardServer) -> int:
    keeper = server._keeper
    assert keeper is not None and keeper._server._child is not None
    return keeper._server._child.pid


def test_scores_are_the_models_own_and_a_killed_server_is_started_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_server, "SICK_LOOKS", 1)
    monkeypatch.setattr(rollout_server, "END_SECONDS", 1.0)
    asked = items(300)  # more than go into one request
    expected = Scorer(folder).score_items(asked)
    server = RewardServer(stage(tmp_path), folder, "abc")
    try:
        assert server.score_items(asked) == pytest.approx(expected, abs=1e-5)
        first = server_of(server)
        for number in (signal.SIGKILL, signal.SIGSTOP):  # it is gone, or hangs
            os.kill(server_of(server), number)
            assert server.score_items(asked[:10]) == pytest.approx(expected[:10], abs=1e-5)
        last = server_of(server)
    finally:
        server.close()
    assert last != first
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_server_that_cannot_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the reward model's server: .* ended with 1 before it was healthy"):
        RewardServer(stage(tmp_path), tmp_path / "no-model", "abc")


def test_server_that_only_dies_is_given_up(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_server, "DEATHS", 1)
    server = RewardServer(stage(tmp_path), folder, "abc")
    try:
        keeper = server._keeper
        assert keeper is not None
        while keeper._thread.is_alive():
            if keeper._server.is_running():
                keeper._server.stop()
            keeper._thread.join(0.2)
        with pytest.raises(StageError, match="died 2 times without an answer between"):
            server.score_items(items(1))
    finally:
        server.close()
