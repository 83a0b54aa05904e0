"""Online RL by TRL's GRPOTrainer, as another trainer than Athanor's own (docs/handing-over.md).

    online:
      external:
        command: python examples/trl/online.py {handover}
        files: [examples/trl/online.py]
        version: python -c "import trl; print('trl', trl.__version__)"
        settings: {learning_rate: 1.0e-6, beta: 0.0, steps_a_round: 4}

Settings are fields of GRPOConfig, and `steps_a_round`: into how many steps the answers of a round are cut. Prompts come by the
weights of the mixture, and Athanor's verifiers judge the answers: 1 for what ended by itself and is right, else 0.
"""

import os
import random
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from athanor.data.chat import ChatEncoder
from athanor.data.documents import read_rows
from athanor.external.contract import Asked, Handover
from athanor.external.trainers import Watch, resumed
from athanor.rl.judging import Judges, Said
from athanor.rl.online.prompts import Curriculum, Pooled

STEPS_A_ROUND = 4


def main(path: Path) -> int:
    """Train as the handover says; the exit code says whether that is done."""
    handover = Handover.read(path)
    asked = handover.asked
    if asked is None:
        sys.exit(f"{path} asks for {handover.stage}, and this program learns online")
    start = Path(handover.inputs["start"].path)
    prompts = [Pooled.of(row) for row in read_rows(Path(handover.inputs["pool"].path))]
    encoder, tokenizer = ChatEncoder(start), PreTrainedTokenizerFast.from_pretrained(start)
    config = configured(handover, asked)
    a_step = config.per_device_train_batch_size * config.world_size
    watch = Watch(handover, a_step * asked.sequence_length)
    watch.listen()
    rows = Dataset.from_list([row(prompt, encoder, tokenizer) for prompt in in_their_order(prompts, handover, asked)])
    model, checkpoint = resumed(handover)
    with Judges() as judges:
        reward = reward_by({prompt.id: prompt for prompt in prompts}, encoder, judges)
        trainer = GRPOTrainer(model, reward, config, train_dataset=rows, processing_class=tokenizer, callbacks=[watch])
        trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step < config.max_steps:
        return handover.stop.exit_code
    if PartialState().is_main_process:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(handover.output)
    return 0


def configured(handover: Handover, asked: Asked) -> GRPOConfig:
    """The settings, and what follows from the handover. Exits where they contradict it."""
    settings = dict(handover.settings)
    steps, ranks = int(settings.pop("steps_a_round", STEPS_A_ROUND)), int(os.environ.get("WORLD_SIZE", "1"))
    a_round = asked.prompts * asked.samples
    if a_round % (steps * ranks):
        sys.exit(f"steps_a_round={steps}: a round of {a_round} answers does not cut into so many steps of {ranks} ranks")
    decided: dict[str, Any] = {
        "output_dir": handover.checkpoints,
        "seed": handover.seed,
        "num_generations": asked.samples,
        "max_completion_length": asked.max_new_tokens,
        "per_device_train_batch_size": a_round // steps // ranks,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": steps,
        "max_steps": handover.budget.answers // (a_round // steps),
        "shuffle_dataset": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if both := sorted(decided.keys() & settings.keys()):
        sys.exit(f"online.external.settings.{both[0]} follows from the recipe; leave it out")
    usual = {
        "temperature": 1.0,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "save_strategy": "steps",
        "save_steps": steps,
        "save_total_limit": 2,
    }
    config = GRPOConfig(**{**usual, **settings, **decided})
    if config.world_size != ranks:
        sys.exit(f"{ranks} ranks were started, and {config.world_size} found each other: is accelerate configured otherwise?")
    return config


def in_their_order(prompts: Sequence[Pooled], handover: Handover, asked: Asked) -> list[Pooled]:
    """The prompts of all rounds, tasks by their weights, and of each every prompt before any again."""

    @cache
    def shuffled(size: int, family: str, epoch: int) -> list[int]:
        return random.Random(f"{handover.seed} {family} {epoch}").sample(range(size), size)

    def order(draw: int, size: int, family: str) -> int:
        epoch, index = divmod(draw, size)
        return shuffled(size, family, epoch)[index]

    slots = handover.budget.answers // asked.samples
    curriculum = Curriculum(prompts, asked.mixture, 0.0, slots, order)
    return curriculum.take(0, slots)


def row(prompt: Pooled, encoder: ChatEncoder, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """A prompt as text, which the trainer turns into the ids again that it is made of. Exits where it would not."""
    ids = list(encoder.prompt(prompt.messages, prompt.tools))
    text = str(tokenizer.decode(ids))
    if tokenizer(text)["input_ids"] != ids:
        sys.exit(f"prompt {prompt.id} is of other tokens when its text is read again: {text!r}")
    return {"prompt": text, "id": prompt.id}


def reward_by(prompts: Mapping[str, Pooled], encoder: ChatEncoder, judges: Judges) -> Any:
    """As the trainer calls it, with the column `id` of the rows."""

    def right(completion_ids: Sequence[Sequence[int]], id: Sequence[str], **_: Any) -> list[float]:
        ended = [bool(ids) and ids[-1] in encoder.ends for ids in completion_ids]
        asked = [prompts[name] for name in id]
        said = [
            Said(encoder.decode(ids), prompt.expected, prompt.entry)
            for ids, prompt, whole in zip(completion_ids, asked, ended, strict=True)
            if whole
        ]
        verdicts = iter(judges.judge(said))
        return [float(whole and next(verdicts).right) for whole in ended]

    return right


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
