"""For programs that train by a Trainer of transformers, as TRL's are: lines and stops as its callback, and where it goes on."""

import contextlib
import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from athanor.external.contract import Handover, Told, tell

STATE = "trainer_state.json"  # what transformers writes last into a checkpoint


class Watch(TrainerCallback):
    """Tells how far training is, and ends it with a save where a stop was asked for."""

    def __init__(self, handover: Handover, tokens_a_step: int) -> None:
        self._handover, self._tokens_a_step = handover, tokens_a_step
        before = handover.corpus
        self._step, self._tokens = (before.step, before.tokens) if before else (0, 0)
        self._asked = False

    def listen(self) -> None:
        """Take note of the signal that announces a stop."""

        def note(*_: object) -> None:
            self._asked = True

        signal.signal(signal.Signals[self._handover.stop.signal], note)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Ranks hear of a stop at different times, and must end behind the same step."""
        asked = torch.tensor([float(self._asked)], device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked)
        if asked.item() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """What a step measured; the last of all, of the whole run, is another attempt's in part."""
        if logs and "train_runtime" not in logs:
            self._tell(state, {name: float(value) for name, value in logs.items() if isinstance(value, int | float)})

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Also where there was nothing left to train."""
        self._tell(state, {})

    def _tell(self, state: TrainerState, values: Mapping[str, float]) -> None:
        if state.is_world_process_zero:
            done = state.global_step
            told = Told(self._step + done, self._tokens + done * self._tokens_a_step, values)
            tell(Path(self._handover.metrics), told)


def resumed(handover: Handover) -> tuple[Any, str | None]:
    """The model to train, in float32, and the checkpoint that its Trainer is to go on from, if there is any.

    Its weights are read here already: experts, which a checkpoint holds one by one, a Trainer (transformers 5.23) leaves the
    start's, and warns.
    """
    checkpoint = newest(handover)
    model = AutoModelForCausalLM.from_pretrained(checkpoint or handover.inputs["start"].path, dtype=torch.float32)
    return model, checkpoint


def newest(handover: Handover) -> str | None:
    """The checkpoint to go on from, without those that a kill left half written and one that is not to be gone on from."""
    folder, state = Path(handover.checkpoints), PartialState()
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if is_whole(path)]
    kept = whole[:-1] if handover.roll_back else whole
    state.wait_for_everyone()
    if state.is_main_process:
        for path in found:
            if path not in kept:
                shutil.rmtree(path)
    state.wait_for_everyone()
    return str(kept[-1]) if kept else None


def is_whole(checkpoint: Path) -> bool:
    """Whether the file is there that comes last."""
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads((checkpoint / STATE).read_text()))
    return False
