"""Write a task's conversations in the chat template, as windows of token ids: instance TASK, or TASK-RESPONSES."""

from collections.abc import Iterator
from pathlib import Path

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.data.bpe import load, token_bytes
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import (
    HELD_OUT_FILE,
    SELECTED,
    Conversation,
    exchange_responses,
    read_conversations,
    training_file,
)
from athanor.data.packing import PACK_FILES, Encoded, pack, write_windows
from athanor.data.token_store import BYTES_FILE, write_token_bytes
from athanor.recipe.graph import HELD_OUT
from athanor.recipe.schema.choices import Responses
from athanor.recipe.schema.training import Training

TRAIN = "train"
REPORT_EVERY = 256


def run(stage: StageRun) -> Outcome:
    """`train/` and, with a task's own responses, `held_out/`; targets are the responses."""
    kind = Responses(stage.instance.partition("-")[2] or Responses.OWN)
    made = stage.input_named("conversations")
    tokenizer = stage.input_named("tokenizer").folder
    selected = kind in SELECTED
    settings: Training = stage.recipe.offline if selected else stage.recipe.sft
    encoder, length = ChatEncoder(tokenizer), settings.sequence_length
    total = sum(int(made.counters.get(name, 0)) for name in ("conversations", "held_out_conversations", "kept"))
    counters = dict.fromkeys(("windows", "held_out_windows", "conversations", "too_long", "tokens", "response_tokens"), 0)
    done = 0

    def fitting(conversations: Iterator[Conversation]) -> Iterator[Encoded]:
        nonlocal done
        for encoded in encoder.encode(conversations):
            done += 1
            if done % REPORT_EVERY == 0:
                stage.progress(done, total, "conversations")
                if stage.stop_requested:
                    raise Stopped(f"pack of {stage.instance} after {done} of {total} conversations")
            if len(encoded.ids) > length + 1:
                counters["too_long"] += 1
                continue
            counters["conversations"] += 1
            counters["tokens"] += len(encoded.ids)
            counters["response_tokens"] += sum(encoded.counts)
            yield encoded

    parts = {TRAIN: _training_conversations(made.folder, kind, stage.recipe.seed)}
    if kind is Responses.OWN:
        parts[HELD_OUT] = read_conversations(made.folder / HELD_OUT_FILE)
    files = [BYTES_FILE]
    for part, conversations in parts.items():
        packed = pack(fitting(iter(conversations)), length + 1)
        windows = write_windows(packed, length, encoder.padding, stage.folder / part)
        if not windows:
            section = "offline" if selected else "sft"
            raise StageError(
                f"{stage.instance}: none of the {part} conversations fits {section}.sequence_length={length} tokens "
                f"({counters['too_long']} are longer); raise it, or shorten the task's templates"
            )
        counters["windows" if part == TRAIN else "held_out_windows"] = windows
        files += [f"{part}/{name}" for name in PACK_FILES]
    write_token_bytes(stage.folder, token_bytes(load(tokenizer)))
    return Outcome(files=tuple(files), counters=counters)


def _training_conversations(folder: Path, kind: Responses, seed: int) -> Iterator[Conversation]:
    train = read_conversations(folder / training_file(kind))
    return exchange_responses(list(train), seed) if kind is Responses.SHUFFLED else train
