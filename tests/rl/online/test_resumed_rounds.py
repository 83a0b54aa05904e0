"""A run that goes on with other weights than it had, as steps that are done again may end in on a GPU."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from athanor.artifacts.run import StageRun
from athanor.data.chat import ChatEncoder
from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.online import Objective, Online
from athanor.recipe.schema.recipe import Recipe
from athanor.rl.online.prompts import Pooled
from athanor.rl.online.rounds import ROUNDS, Made, read_round
from athanor.rl.rollouts.handover import checksum
from athanor.stages.round_answers import Asked
from athanor.stages.rounds import OnlineRounds
from athanor.training.deepspeed.answer_log_probs import shared_log_probs
from athanor.training.deepspeed.model_folder import write_model
from athanor.training.deepspeed.online import PolicyLoss
from athanor.training.rounds import Weights
from tests.external.test_trl import tokenizer

__all__ = ["tokenizer"]  # a fixture
SETTINGS = Online(
    mixture={"words": 1.0},
    prompts=2,
    samples=2,
    max_new_tokens=4,
    staleness=1,
    sequence_length=64,
    batch_tokens=256,
    token_budget=3 * 256,
    watched=0,
)


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model(tokenizer: Path, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    config = Qwen3Config(vocab_size=400, max_position_embeddings=128, num_key_value_heads=1, **shape)
    return Qwen3ForCausalLM(config).eval()


def begin(tokenizer: Path, folder: Path, trained: PreTrainedModel, *numbers: int) -> dict[str, float]:
    """A process of its own: rounds are there, made or found, and what is answered ahead of them is waited for.

    What is told of the last.
    """
    prompts = [
        Pooled(f"words/{n}", "words", "words", Route.RULES, [{"role": "user", "content": f"{n}?"}], [], "one") for n in range(4)
    ]

    def write(weights: Weights, path: Path) -> None:
        write_model(tokenizer, weights, path)

    asked = Asked(tokenizer, ChatEncoder(tokenizer), {prompt.id: prompt for prompt in prompts}, [], write)
    stage = StageRun(Recipe(online=SETTINGS), "online", "model", "0" * 16, folder, {})
    rounds = OnlineRounds(stage, SETTINGS, asked, PolicyLoss(Objective()).taken, None)
    for number in numbers:
        rounds.begin(number, lambda: dict(trained.named_parameters()), shared_log_probs(trained, 0, 4, once=True))
    told = rounds.metrics()
    rounds.close()
    return told


def test_seconds_of_a_round_are_told_by_what_they_went_to(tokenizer: Path, tmp_path: Path) -> None:
    (trained := model(tokenizer, 1)).save_pretrained(tokenizer)
    told = begin(tokenizer, tmp_path, trained, 0)
    parts = {name: told[f"round_seconds/{name}"] for name in ("weights", "waiting", "rollouts", "rewards", "log_probs")}
    assert min(parts.values()) >= 0 and sum(parts.values()) == pytest.approx(told["round_seconds"])
    assert "round_seconds" not in begin(tokenizer, tmp_path, trained, 0), "a round that is there took no time"


@pytest.mark.parametrize("answered", [True, False])
def test_next_round_is_the_old_weights_where_they_have_answered_it_else_the_new_ones(
    tokenizer: Path, tmp_path: Path, answered: bool
) -> None:
    first, other = model(tokenizer, 1), model(tokenizer, 2)
    first.save_pretrained(tokenizer)
    begin(tokenizer, tmp_path, first, 0)
    old, new = (checksum(dict(one.named_parameters())) for one in (first, other))
    assert made(tmp_path, 0).ahead == old
    if not answered:
        shutil.rmtree(tmp_path / ROUNDS / f"00001-{old}")
    begin(tokenizer, tmp_path, other, 0, 1)
    assert made(tmp_path, 1).weights == made(tmp_path, 0).ahead == (old if answered else new)
    assert made(tmp_path, 1).ahead == new
    assert made(tmp_path, 0).weights == old, "a round that is made stays"


def made(folder: Path, number: int) -> Made:
    found = read_round(folder, number)
    assert found is not None
    return found
