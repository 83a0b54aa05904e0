"""TRL's example: the same verdicts as our trainer's, prompts by their weights, and checkpoints that a kill left half written."""

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from athanor.artifacts.run import StageRun
from athanor.data.chat import ChatEncoder
from athanor.external.contract import CONTRACT, Asked, Budget, Handover, Stop
from athanor.external.trainers import newest
from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.online import Online
from athanor.recipe.schema.recipe import Recipe
from athanor.rl.judging import Judges
from athanor.rl.online.prompts import Pooled
from athanor.rl.online.rounds import Answered
from athanor.rl.rollouts.sampling import Finish
from athanor.stages.rewarding import Rewarder
from tests.lifecycle.project import CHECKOUT

ASKED = Asked({"sums": 3.0, "names": 1.0}, prompts=4, samples=2, max_new_tokens=8, sequence_length=32)
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
SAID = [("12", True), ("12", False), ("13", True), (" 12 ", True), ("", True), ("twelve", True)]  # and whether it ended by itself


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trl_online", CHECKOUT / "examples" / "trl" / "online.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one that knows bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["5 + 7 ="], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token=SPECIAL[3], pad_token=SPECIAL[1]).save_pretrained(folder)
    return folder


def pooled(name: str, task: str = "sums") -> Pooled:
    return Pooled(name, task, task, Route.VERIFIER, [{"role": "user", "content": "5 + 7 ="}], [], "12")


def handover(folder: Path, **changes: Any) -> Handover:
    told: dict[str, Any] = {
        "contract": CONTRACT,
        "stage": "online/model",
        "fingerprint": "f" * 16,
        "attempt": 1,
        "inputs": {},
        "seed": 1,
        "budget": Budget(tokens=8 * 8 * 32, answers=64),
        "asked": ASKED,
        "settings": {},
        "checkpoints": str(folder),
        "roll_back": False,
        "output": "",
        "metrics": "",
        "stop": Stop("SIGTERM", 60.0, 75),
    }
    return Handover(**{**told, **changes})


def test_answers_earn_what_our_trainer_gives_for_them(example: ModuleType, tokenizer: Path) -> None:
    encoder, prompt = ChatEncoder(tokenizer), pooled("a")
    coded = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    ids = [[*coded(text)["input_ids"], *([encoder.ends[0]] if ended else [])] for text, ended in SAID]
    with Judges() as judges:
        theirs = example.reward_by({"a": prompt}, encoder, judges)(completion_ids=ids, id=["a"] * len(SAID), prompts=[])
    answers = [
        Answered(
            0,
            at,
            "a",
            "sums",
            "sums",
            Route.VERIFIER,
            tuple(ids[at]),
            (),
            Finish.STOP if ended else Finish.LENGTH,
            text,
            0.0,
            None,
        )
        for at, (text, ended) in enumerate(SAID)
    ]
    rewarder = Rewarder(StageRun(Recipe(), "online", "model", "", Path(), {}), Online())
    ours = [answer.reward for answer in rewarder.reward(answers, {0: prompt})]
    rewarder.close()
    assert theirs == ours and set(ours) == {0.0, 1.0}


def test_prompt_is_read_again_as_the_tokens_that_training_saw(example: ModuleType, tokenizer: Path) -> None:
    encoder, coded = ChatEncoder(tokenizer), PreTrainedTokenizerFast.from_pretrained(tokenizer)
    row = example.row(pooled("a"), encoder, coded)
    assert tuple(coded(row["prompt"])["input_ids"]) == encoder.prompt(pooled("a").messages, [])


def test_tasks_come_by_their_weights_and_every_prompt_before_any_again(example: ModuleType, tmp_path: Path) -> None:
    prompts = [pooled(f"sums/{n}") for n in range(6)] + [pooled(f"names/{n}", "names") for n in range(6)]
    asked = example.in_their_order(prompts, handover(tmp_path), ASKED)
    assert len(asked) == 32 and Counter(prompt.task for prompt in asked) == {"sums": 24, "names": 8}
    counted = Counter(prompt.id for prompt in asked if prompt.task == "sums")
    assert set(counted.values()) == {4}
    assert (
        asked
        == example.in_their_order(prompts, handover(tmp_path), ASKED)
        != example.in_their_order(prompts, handover(tmp_path, seed=2), ASKED)
    )


def test_half_written_checkpoint_and_one_to_go_back_behind_are_not_gone_on_from(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        (folder := tmp_path / f"checkpoint-{step}").mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}) if step < 10 else '{"glob')
    assert newest(handover(tmp_path)) == str(tmp_path / "checkpoint-4") and not (tmp_path / "checkpoint-10").exists()
    assert newest(handover(tmp_path, roll_back=True)) == str(tmp_path / "checkpoint-2")
    assert newest(handover(tmp_path, roll_back=True)) is None and not list(tmp_path.glob("checkpoint-*"))


def test_setting_that_follows_from_the_recipe_is_refused(example: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"online\.external\.settings\.max_steps follows from the recipe; leave it out"):
        example.configured(handover(tmp_path, settings={"max_steps": 3}), ASKED)
    with pytest.raises(SystemExit, match="steps_a_round=3: a round of 8 answers does not cut into so many steps of 1 ranks"):
        example.configured(handover(tmp_path, settings={"steps_a_round": 3}), ASKED)
