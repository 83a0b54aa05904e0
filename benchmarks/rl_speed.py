"""Samples a second of online RL beside TRL's GRPO trainer: same model, prompts, answers a prompt, steps and processor.

A Qwen3-MoE of recipe tiny's size (4 layers, hidden 128, 8 experts, but 400 words) that was taught to guess one of four answers,
five digits each, answers questions that each have one of them on record, 8 answers of at most 24 tokens: one in four is right,
and nearly every group is learnt from. A round of 32 prompts is learnt from in four steps. Ours is the stage as a campaign runs
it, with one rank: rollouts, verifier, the trainer's own log-probabilities, rounds and ledger on the disk, a save at the end.
TRL's is GRPOTrainer with the same reward as a function, four updates for each generation. Both start from the folder; imports
are not counted. Counted is the processor's time, since these machines are shared. Turns of both alternate.
Aim: 1.5 times TRL's samples a second.

    python benchmarks/rl_speed.py [--quick] [--json FILE] [--seed N]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from athanor.artifacts.manifest import Manifest, Provenance, Result
from athanor.artifacts.run import Input, StageRun
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import Conversation
from athanor.data.documents import JsonlWriter
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.online import Online
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Checkpoint, Model, Parallel, Zero
from athanor.rl.online.prompts import POOL_FILE, WATCHED_FILE, Pooled
from athanor.stages import online as stage_online

AIM = 1.5
SPECIAL = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
ANSWERS = ("12345", "67890", "24680", "13579")
TAUGHT, ROWS, RATE = 60, 64, 3e-3  # steps, riddles a step, learning rate
PROMPTS, SAMPLES, NEW_TOKENS, STEPS, LENGTH = 32, 8, 24, 4, 64
SHAPE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "intermediate_size": 256, "head_dim": 32}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "hidden_size": 128}


def main() -> int:
    """Measure, print the table and the aim; exit 1 where it is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn of four rounds instead of five of eight")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", choices=("athanor", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    turns, rounds = (1, 4) if arguments.quick else (5, 8)
    torch.set_num_threads(1)
    if arguments.one:
        print((ours if arguments.one == "athanor" else peers)(arguments.folder, rounds, arguments.seed))
        return 0
    speeds: dict[str, list[float]] = {"athanor": [], "trl": []}
    for turn in range(turns):
        for name, some in speeds.items():
            some.append(turn_of(name, arguments.quick, arguments.seed + turn))
    print(
        f"| {rounds} rounds of {PROMPTS} x {SAMPLES} answers | samples/core-s, median of {turns} | lowest to highest |"
        "\n|---|---:|---|"
    )
    for name, some in speeds.items():
        print(f"| {name} | {statistics.median(some):.1f} | {min(some):.1f} to {max(some):.1f} |")
    ratio = statistics.median(speeds["athanor"]) / statistics.median(speeds["trl"])
    print(f"{ratio:.2f} times TRL's (aim {AIM}: {'met' if ratio >= AIM else 'MISSED'})")
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        arguments.json.write_text(json.dumps({"machine": machine, "samples_per_core_second": speeds}, indent=1))
    return int(ratio < AIM)


def turn_of(name: str, quick: bool, seed: int) -> float:
    """One turn, in a process of its own: each trainer leaves variables that the other would go by."""
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch) / "start", seed)
        words = ["--one", name, "--folder", scratch, "--seed", str(seed), *(["--quick"] if quick else [])]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
    print(*(line for line in done.stderr.splitlines() if "learnt from" in line), file=sys.stderr)
    return float(done.stdout.split()[-1])


def riddles() -> list[tuple[str, str]]:
    """Questions with their answers, each one of four."""
    return [(f"{a} + {b} =", ANSWERS[(7 * a + b) % len(ANSWERS)]) for a in range(10, 74) for b in range(8)]


def write_model(folder: Path, seed: int) -> None:
    """A model that guesses, and a tokenizer of the bytes of questions."""
    inside = folder / MODEL_FOLDER
    inside.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([question for question, _ in riddles()], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[3], pad_token=SPECIAL[1]).save_pretrained(inside)
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=400, max_position_embeddings=512, **SHAPE))
    model.generation_config = GenerationConfig(pad_token_id=1, eos_token_id=3)
    teach(model, ChatEncoder(inside), seed)
    model.save_pretrained(inside)


def teach(model: Qwen3MoeForCausalLM, encoder: ChatEncoder, seed: int) -> None:
    """Some steps on any of the answers, whatever is asked."""
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, _ in riddles() for a in ANSWERS]
    coded = list(encoder.encode(Conversation(str(number), chat) for number, chat in enumerate(chats)))
    optimizer, random = torch.optim.AdamW(model.parameters(), RATE), torch.Generator().manual_seed(seed)
    for _ in range(TAUGHT):
        some = [coded[place] for place in torch.randint(len(coded), (ROWS,), generator=random)]
        longest = max(len(one.ids) for one in some)
        ids = torch.tensor([[*one.ids, *[1] * (longest - len(one.ids))] for one in some])
        counts = torch.tensor([[*one.counts, *[0] * (longest - len(one.ids))] for one in some])
        model(input_ids=ids, labels=ids.where(counts > 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def ours(folder: Path, rounds: int, seed: int) -> float:
    """Samples a core-second of stage `online`, one rank."""
    start = folder / "start"
    tokens = PROMPTS * SAMPLES * LENGTH
    settings = Online(
        mixture={"sums": 1.0},
        prompts=PROMPTS,
        samples=SAMPLES,
        max_new_tokens=NEW_TOKENS,
        token_budget=rounds * tokens,
        sequence_length=LENGTH,
        batch_tokens=tokens // STEPS,
        lr=1e-5,
        min_lr=1e-5,
        warmup_tokens=0,
        validate_every_tokens=rounds * tokens,
        parallel=Parallel(micro_batch_size=PROMPTS * SAMPLES // STEPS),
        zero=Zero(stage=0),
        checkpoint=Checkpoint(every_tokens=rounds * tokens),
    )
    recipe = Recipe(name="speed", seed=seed, model=Model(max_sequence_length=512), online=settings)
    (pool := folder / "pool").mkdir(parents=True)
    with JsonlWriter(pool / POOL_FILE) as writer:
        for number, (question, answer) in enumerate(riddles()):
            asked = [{"role": "user", "content": question}]
            writer.write(Pooled(f"sums/{number}", "sums", "sums", Route.VERIFIER, asked, [], answer).row())
    with JsonlWriter(pool / WATCHED_FILE):
        pass
    inputs = {"start": _input(start, "export"), "pool": _input(pool, "pool")}
    (made := folder / "online").mkdir()
    began = time.process_time()
    outcome = stage_online.run(StageRun(recipe, "online", "model", "0" * 16, made, inputs))
    print(f"{outcome.counters['learnt_from']} of {outcome.counters['answers']} answers learnt from", file=sys.stderr)
    return rounds * PROMPTS * SAMPLES / (time.process_time() - began)


def _input(folder: Path, stage: str) -> Input:
    result = Result(stage, "model", "0" * 16, {}, (), {})
    return Input(folder, Manifest(result, Provenance("", 1, 0.0, 0.0, "", "")))


def peers(folder: Path, rounds: int, seed: int) -> float:
    """Samples a core-second of GRPOTrainer."""
    start = folder / "start"
    encoder = ChatEncoder(start / MODEL_FOLDER)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(start / MODEL_FOLDER)
    texts = [tokenizer.decode(encoder.prompt([{"role": "user", "content": q}], [])) for q, _ in riddles()]

    def right(completion_ids: Sequence[Sequence[int]], answer: Sequence[str], **_: Any) -> list[float]:
        return [float(encoder.decode(ids).strip() == known) for ids, known in zip(completion_ids, answer, strict=True)]

    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        seed=seed,
        learning_rate=1e-5,
        per_device_train_batch_size=PROMPTS * SAMPLES // STEPS,
        gradient_accumulation_steps=1,
        steps_per_generation=STEPS,
        num_generations=SAMPLES,
        max_completion_length=NEW_TOKENS,
        max_steps=rounds * STEPS,
        beta=0.0,
        temperature=1.0,
        gradient_checkpointing=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    began = time.process_time()
    model = Qwen3MoeForCausalLM.from_pretrained(start / MODEL_FOLDER)
    prompts = Dataset.from_list([{"prompt": text, "answer": answer} for text, (_, answer) in zip(texts, riddles(), strict=True)])
    trainer = GRPOTrainer(model, right, config, train_dataset=prompts, processing_class=tokenizer)
    trainer.train()
    return rounds * PROMPTS * SAMPLES / (time.process_time() - began)


if __name__ == "__main__":
    sys.exit(main())
