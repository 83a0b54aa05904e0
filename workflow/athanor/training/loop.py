"""The training loop: from a start checkpoint (or the newest of its own) step by step to a number of tokens.

Everything a step needs follows from the position (step, tokens, samples) and the recipe, so a run that was killed at any
instant and started again goes on as if nothing had happened: on a CPU to the last bit.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.models.freezing import FreezeError, freeze
from athanor.models.language_model import PrecisionError, build_language_model
from athanor.recipe.schedules import BatchSizes
from athanor.recipe.schema import Recipe, SpikeAction
from athanor.training import checkpoints, proof
from athanor.training.batches import MicroBatch, SampleReader, micro_batches_of, next_token_batch
from athanor.training.checkpoints import FINAL, Position
from athanor.training.curve import CURVE, Curve, Point, read_curve
from athanor.training.layout import Layout, process_groups
from athanor.training.noise_scale import NoiseScale
from athanor.training.objective import NextToken, Objective
from athanor.training.optimizer import Learner, build_learner
from athanor.training.profiling import Profiler
from athanor.training.routing import RoutingWatch
from athanor.training.schedule import LearningRate
from athanor.training.sharded_state import load_learner, load_weights, save_learner
from athanor.training.spikes import SKIPS, Skip, Skips, SpikeDetector, skips
from athanor.training.step import StepResult, train_step
from athanor.training.validation import VALIDATION, HeldOut, validate, write_validation

REPLAY_TOLERANCE = 0.01  # nats: other layouts round differently; a wrong state is off by far more


@dataclass(frozen=True)
class Task:
    """What is trained, on what, and how far. `samples` and `held_out` are called only where something is computed."""

    start: Path  # a checkpoint folder; one without optimizer state starts a fresh one
    end_tokens: int  # training ends with the step that reaches them
    samples: Callable[[], SampleReader]
    held_out: Callable[[], Mapping[str, HeldOut]]
    objective: Objective = field(default_factory=NextToken)


def train(stage: StageRun, recipe: Recipe, task: Task) -> Outcome:
    """Train to `task.end_tokens`, or as far as the stage is let.

    Leaves `checkpoint/`, `curve.jsonl` and `validation.json`. Raises Stopped when asked to stop (after saving), and
    StageError when the loss is not finite or nothing whole is left to start from.
    """
    with process_groups(recipe.pretrain.parallel, recipe.seed) as layout:
        try:
            chunks = build_language_model(recipe.model, recipe.pretrain.parallel, recipe.pretrain.precision)
            freeze(chunks, recipe.pretrain.freeze)
        except (PrecisionError, FreezeError) as error:
            raise StageError(str(error)) from error
        learner = build_learner(chunks, recipe.pretrain.optimizer, layout)
        return _Run(stage, recipe, task, layout, learner).to_the_end()


class _Run:
    """One attempt at one milestone."""

    def __init__(self, stage: StageRun, recipe: Recipe, task: Task, layout: Layout, learner: Learner) -> None:
        self.stage, self.settings, self.task = stage, recipe.pretrain, task
        self.layout, self.learner = layout, learner
        self.rate, self.batch_sizes = LearningRate.of(recipe.pretrain), BatchSizes.of(recipe.pretrain)
        self.first = checkpoints.read_state(task.start).position
        shape, span = (recipe.model.num_layers, recipe.model.num_experts), (self.first.tokens, task.end_tokens)
        self.routing = RoutingWatch(learner.chunks, shape, recipe.model.experts_per_token, span, layout.device)
        self.noise = NoiseScale(learner)
        self.profiler = Profiler(stage.folder, stage.rank)
        self.spikes = SpikeDetector(self.settings.spikes)
        self.skips = Skips(stage.folder / SKIPS, self.settings.spikes)
        self.last: tuple[list[MicroBatch], range] | None = None  # what the last step read
        self.saved: Path | None = None  # the checkpoint of the current position
        if self.first.tokens >= task.end_tokens:
            raise StageError(
                f"{task.start} has {self.first.tokens} tokens already, and this milestone ends at {task.end_tokens}: nothing "
                "would be trained"
            )
        if stage.roll_back:
            checkpoints.set_newest_aside(stage.folder)
        self.position = self._resume()
        self.curve: Curve | None = None
        if stage.rank == 0:
            self._refuse_to_lose(stage.folder / CURVE)
            self.curve = Curve(stage.folder / CURVE, self.first.step, self.position.step)
        self.seconds_trained, self.tokens_before = 0.0, self.position.tokens

    def to_the_end(self) -> Outcome:
        """All steps that are left, the last validation, and the result."""
        if self.position.tokens < self.task.end_tokens:
            held_out = self.task.held_out()
            while self.position.tokens < self.task.end_tokens:
                self._one_step(held_out)
        if self.saved is None:
            self._save()
        if not (self.stage.folder / VALIDATION).is_file() or self.seconds_trained:
            self._validate(self.task.held_out(), final=True)
        if self.curve is not None:
            self.curve.close()
        if self.saved is not None:
            checkpoints.finalize(self.stage.folder, self.saved)
        return self._outcome()

    def _resume(self) -> Position:
        """Load the newest checkpoint of this milestone that is whole and proves itself, or else the start. Returns where
        training continues."""
        while True:
            newest = checkpoints.newest_whole(self.stage.folder)
            source = newest or self.task.start
            if newest is None and (damaged := checkpoints.damage(source)):
                raise StageError(f"{source} is damaged ({damaged[0]}); delete its manifest and make it again")
            state = checkpoints.read_state(source)
            if state.optimizer:
                load_learner(self.learner, source, same_layout=state.layout == self.layout.recorded())
            else:
                load_weights(self.learner, source)
            wrong = self._contradiction(state)
            if not wrong:
                break
            if newest is None:
                raise StageError(f"{source} is not what was saved: {wrong}; delete its manifest and make it again")
            checkpoints.set_aside(self.stage.folder, newest, f"is not what was saved: {wrong}")
        self.saved = newest
        self.routing.resume(newest)
        self.spikes.resume(state.usual)
        self.skips.resume(state.position.step, write=self.stage.rank == 0)
        if self.stage.rank == 0:
            print(f"continuing from {source} at {state.position.tokens} tokens", flush=True)
        return replace(state.position, samples=self.skips.first_sample(state.position.step, state.position.samples))

    def _refuse_to_lose(self, curve: Path) -> None:
        """Steps on record that no checkpoint holds were trained since the last save, or checkpoints are gone: say so before
        training overwrites what is known of them. Those set aside by name are no surprise."""
        interval, step = self.settings.checkpoint.every_tokens, self.position.step
        behind = [point for point in read_curve(curve) if point.step > step]
        recorded = behind[-1].tokens if behind else 0
        two_steps = 2 * self.batch_sizes.at(recorded)  # a save comes with the step that crosses the interval
        lost = recorded - self.position.tokens
        if lost > interval + two_steps and not checkpoints.set_aside_behind(self.stage.folder, step):
            raise StageError(
                f"{curve} has {len(behind)} steps behind the newest whole checkpoint (step {step}): {lost} tokens "
                f"would be trained again, and pretrain.checkpoint.every_tokens={interval} allows for no such loss. Bring the "
                f"missing checkpoints back to {self.stage.folder / checkpoints.SAVES}; or, if they are gone, move the curve away"
            )

    @cached_property
    def samples(self) -> SampleReader:
        """The corpus, opened when something is computed."""
        return self.task.samples()

    def _contradiction(self, state: checkpoints.State) -> str:
        """What the state just loaded measures otherwise than it did when it was saved; nothing where nothing is to train."""
        if state.proof is None or state.position.tokens >= self.task.end_tokens:
            return ""
        saved = proof.from_record(state.proof)
        samples = range(saved.first_sample, saved.end_sample)
        found = proof.measure(self.learner, self.task.objective, self._read(samples), samples)
        return proof.contradiction(saved, found, self.settings.precision)

    def _one_step(self, held_out: Mapping[str, HeldOut]) -> None:
        began, before = time.perf_counter(), self.position
        count = self.batch_sizes.at(before.tokens) // self.settings.sequence_length
        after = Position(before.step + 1, before.tokens + count * self.settings.sequence_length, before.samples + count)
        samples = range(before.samples, after.samples)
        batches = self._read(samples)
        self.last = batches, samples
        lr = self.rate(after.tokens)
        if (every := self.settings.noise_scale_every_steps) and after.step % every == 0:
            with self.routing.paused():
                self.noise.measure_small(batches, self.task.objective)
        action, spike = self.settings.spikes.action, ""

        def accept(loss: float, norm: float) -> bool:
            nonlocal spike
            if (scale := self.noise.measure_big(after.tokens - before.tokens)) is not None:
                self.stage.spool.metrics(after.step, {"noise_scale_tokens": scale})
            spike = self.spikes.judge(loss, norm)
            return not (spike and skips(action))

        stop, asked = self.stage.stop_requested, self.profiler.asked()
        result = train_step(self.learner, batches, self.task.objective, lr, after.step, stop, asked, accept)
        self.profiler.step_done(after.step)
        if result.profiled:
            self.profiler.begin(after.step, result.profiled)
        if spike:
            self._tell(f"spike at step {after.step}: {spike} ({action.value})", after.step)
        if spike and action is SpikeAction.ROLL_BACK:
            self._roll_back(spike, result, after)
            return
        self.position, self.saved = after, None
        if result.updated:
            self.spikes.learn(result.loss, result.grad_norm)
        else:
            skip = Skip(after.step, action.value, spike, result.loss, result.grad_norm, before.samples, after.samples)
            self.skips.add(skip, write=self.stage.rank == 0)
        self.routing.fold(after.tokens)
        seconds = time.perf_counter() - began
        self.seconds_trained += seconds
        self._record(result, lr, seconds, (after.tokens - before.tokens) / seconds)
        if _crossed(before.tokens, after.tokens, self.settings.validate_every_tokens) and not self._at_end():
            self._validate(held_out, final=False)
        if result.stop and not self._at_end():
            self._save()
            raise Stopped(f"{self.stage.stage}/{self.stage.instance} saved at {after.tokens} tokens, step {after.step}")
        if _crossed(before.tokens, after.tokens, self.settings.checkpoint.every_tokens) and not self._at_end():
            self._save()

    def _roll_back(self, spike: str, result: StepResult, spiked: Position) -> None:
        """Go back to the newest whole checkpoint, and on with the samples behind those of the spiked step."""
        back = self._resume()
        if self.curve is not None:
            self.curve.close()
            self.curve = Curve(self.stage.folder / CURVE, self.first.step, back.step)
            self.curve.replayed.clear()  # those steps had other samples
        action, samples = SpikeAction.ROLL_BACK.value, (back.samples, spiked.samples)
        skip = Skip(spiked.step, action, spike, result.loss, result.grad_norm, *samples, back_to=back.step)
        self.skips.add(skip, write=self.stage.rank == 0)
        self.position = replace(back, samples=spiked.samples)

    def _tell(self, text: str, step: int) -> None:
        if self.stage.rank == 0:
            print(text, flush=True)
            self.stage.spool.metrics(step, {"spike": 1.0})

    def _at_end(self) -> bool:
        return self.position.tokens >= self.task.end_tokens

    def _read(self, samples: range) -> list[MicroBatch]:
        size = self.settings.parallel.micro_batch_size
        mine = micro_batches_of(samples, size, self.layout.data_rank, self.layout.data_ranks)
        return [next_token_batch([self.samples.sample(i) for i in batch], size, self.layout) for batch in mine]

    def _record(self, result: StepResult, lr: float, seconds: float, speed: float) -> None:
        step, tokens = self.position.step, self.position.tokens
        self.stage.progress(tokens, self.task.end_tokens, "tokens")
        if self.curve is None:
            return
        self._compare_with_before(step, result.loss)
        self.curve.add(Point(step, tokens, lr, result.loss, result.grad_norm, result.aux_loss))
        if step % self.settings.log_every_steps == 0 or self._at_end():
            values = {"loss": result.loss, "lr": lr, "grad_norm": result.grad_norm, "aux_loss": result.aux_loss}
            speeds = {"tokens": tokens, "tokens_per_second": speed, "step_seconds": seconds}
            experts = self.routing.take().logged() if self.routing.routers else {}
            self.stage.spool.metrics(step, {**values, **speeds, **experts})

    def _compare_with_before(self, step: int, loss: float) -> None:
        """A resume is checked: steps the killed attempt had recorded behind the checkpoint must come out the same."""
        assert self.curve is not None
        before = self.curve.replayed.pop(step, None)
        if before is not None and abs(before.loss - loss) > REPLAY_TOLERANCE:
            print(
                f"warning: step {step} gave loss {before.loss:.6f} before the restart and {loss:.6f} now: the checkpoint, "
                "the data or a machine is not what it was; compare with `athanor verify --deep`",
                file=sys.stderr,
                flush=True,
            )
            self.stage.spool.metrics(step, {"replay_loss_difference": loss - before.loss})

    def _save(self) -> None:
        began = time.perf_counter()
        if self.curve is not None:
            self.curve.secure()
        folder = checkpoints.save_folder(self.stage.folder, self.position.step)
        self.learner.settle()
        assert self.last is not None
        checkpoints.save(
            folder,
            self._write,
            self.position,
            self.layout.recorded(),
            optimizer=True,
            usual=self.spikes.state(),
            proof=asdict(proof.measure(self.learner, self.task.objective, *self.last)),
        )
        checkpoints.prune(self.stage.folder, self.settings.checkpoint.keep)
        self.saved = folder
        self.stage.spool.metrics(self.position.step, {"checkpoint_seconds": time.perf_counter() - began})

    def _write(self, folder: Path) -> None:
        save_learner(self.learner, folder)
        if self.stage.rank == 0:
            self.routing.save(folder)

    def _validate(self, held_out: Mapping[str, HeldOut], *, final: bool) -> None:
        losses = validate(self.learner, held_out)
        values = {f"validation/{domain}/nats_per_token": loss.nats_per_token for domain, loss in losses.items()}
        values |= {f"validation/{domain}/bits_per_byte": loss.bits_per_byte for domain, loss in losses.items()}
        self.stage.spool.metrics(self.position.step, values)
        if final and self.stage.rank == 0:
            write_validation(self.stage.folder / VALIDATION, losses)

    def _outcome(self) -> Outcome:
        at = self.position
        counters: dict[str, int | str] = {"step": at.step, "tokens": at.tokens, "samples": at.samples}
        metrics: dict[str, float] = {}
        if self.curve is not None and self.curve.last is not None:
            metrics["loss"] = self.curve.last.loss
            for domain, loss in json.loads((self.stage.folder / VALIDATION).read_text()).items():
                metrics[f"{domain}/bits_per_byte"] = loss["bits_per_byte"]
                metrics[f"{domain}/nats_per_token"] = loss["nats_per_token"]
        if self.seconds_trained:
            metrics["tokens_per_second"] = (at.tokens - self.tokens_before) / self.seconds_trained
        files: tuple[str, ...] = (FINAL, CURVE, VALIDATION)
        if self.skips.all:
            files = (*files, SKIPS)
            counters["samples_skipped"] = sum(skip.end_sample - skip.first_sample for skip in self.skips.all)
        return Outcome(files=files, counters=counters, metrics=metrics)


def _crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return before // every != after // every
