"""The training loop: from a start checkpoint (or the newest of its own) step by step to a number of tokens.

Everything a step needs follows from the position (step, tokens, samples) and the recipe, so a run that was killed at any
instant and started again goes on as if nothing had happened: on a CPU to the last bit.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.artifacts.strict_json import number
from athanor.models.folder_files import MODEL_FOLDER
from athanor.models.freezing import FreezeError, freeze
from athanor.models.language_model import build_language_model
from athanor.models.precision import Bf16Layers, PrecisionError, declaration
from athanor.recipe.schedules import BatchSizes
from athanor.recipe.schema.choices import SpikeAction
from athanor.recipe.schema.training import Model
from athanor.training import checkpoints, proof
from athanor.training.answers import Drawn
from athanor.training.batches import MicroBatch, micro_batch
from athanor.training.checkpoints import FINAL, Position, State
from athanor.training.curve import CURVE, Curve, Point, compare_with_before, crossed, read_curve, refuse_to_lose
from athanor.training.diagnosis import FAULTS, Diagnosis, Origin
from athanor.training.failures import agreed_node_hours
from athanor.training.held_out import START_VALIDATION, VALIDATION, HeldOut, write_validation
from athanor.training.intervals import Costs
from athanor.training.layout import Layout, process_groups
from athanor.training.monitor import Monitor
from athanor.training.noise_scale import NoiseScale
from athanor.training.norms import Norms
from athanor.training.optimizer import Learner, build_learner
from athanor.training.profiling import Profiler
from athanor.training.proving import measure as measure_proof
from athanor.training.resuming import load_newest
from athanor.training.routing import RoutingWatch
from athanor.training.samples import SampleReader, micro_batches_of
from athanor.training.saving import Saver
from athanor.training.schedule import LearningRate
from athanor.training.spikes import SKIPS, Skip, Skips, SpikeDetector, skips
from athanor.training.step import StepResult, Told, idle_step, train_step
from athanor.training.stopwatch import Part
from athanor.training.task import Task
from athanor.training.validation import validate
from athanor.training.world import PATIENCE


def train(stage: StageRun, task: Task) -> Outcome:
    """Train to `task.end_tokens`, or as far as the stage is let.

    Leaves `checkpoint/`, `curve.jsonl` and `validation.json`, and `model/` where it learnt from rounds. Raises Stopped when asked
    to stop (after saving), and StageError when the loss is not finite or nothing whole is left to start from.
    """
    settings = task.settings
    patience = PATIENCE if task.rounds is not None else None
    with process_groups(settings.parallel, stage.recipe.seed, patience) as layout:
        precision, kept = settings.precision, Bf16Layers.of(settings)
        try:
            chunks = build_language_model(stage.recipe.model, settings.parallel, precision, kept)
            freeze(chunks, settings.freeze)
        except (PrecisionError, FreezeError) as error:
            raise StageError(str(error)) from error
        if stage.rank == 0:
            print(declaration(stage.recipe.model, precision, kept), flush=True)
        learner = build_learner(chunks, settings.optimizer, layout)
        return MilestoneRun(stage, task, layout, learner).to_the_end()


class MilestoneRun:
    """One attempt at one milestone."""

    def __init__(self, stage: StageRun, task: Task, layout: Layout, learner: Learner) -> None:
        self.stage, self.settings, self.task = stage, task.settings, task
        self.layout, self.learner = layout, learner
        self.rate, self.batch_sizes = LearningRate.of(task.settings), BatchSizes.of(task.settings)
        self.first = Position() if task.afresh else checkpoints.read_state(task.start).position
        model: Model = stage.recipe.model
        shape, span = (model.num_layers, model.num_experts), (self.first.tokens, task.end_tokens)
        self.routing = RoutingWatch(learner.chunks, shape, model.experts_per_token, span, layout.device)
        self.noise = NoiseScale(learner)
        peak = stage.site.peak_tflops if stage.site else 0.0
        self.monitor = Monitor(stage.folder, learner, model, task.settings, peak, task.domains)
        if stage.rank == 0 and self.monitor.peak is not None:
            print(f"MFU against {self.monitor.peak.name}", flush=True)
        self.profiler = Profiler(stage.folder, stage.rank)
        self.on_rounds = task.on_rounds(learner) if task.on_rounds is not None else None
        self.diagnosis = Diagnosis(learner, task.objective, stage.folder / FAULTS)
        saves = self.settings.checkpoint
        self.saver = Saver(stage.folder, learner, saves, agreed_node_hours(saves, task.failures))
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
        if task.rounds is not None:
            task.rounds.resume(self.position.step, self._says)
        before = read_curve(stage.folder / CURVE) if task.drop_norms else []
        spiked = {skip.step for skip in self.skips.all}
        known = [p.grad_norm for p in before if p.step <= self.position.step and p.step not in spiked]
        self.norms = Norms(task.drop_norms, known)
        self.curve: Curve | None = None
        if stage.rank == 0:
            interval = self.save_interval or saves.every_tokens
            if saves.every_tokens or task.rounds is None:  # else steps come in bursts, and no speed says how many are lost
                refuse_to_lose(stage.folder, self.position, interval, self.batch_sizes.largest)
            self.curve = Curve(stage.folder / CURVE, self.first.step, self.position.step)
        self.seconds_trained, self.tokens_before = 0.0, self.position.tokens

    def to_the_end(self) -> Outcome:
        """All steps that are left, the last validation, and the result."""
        if self.position.tokens < self.task.end_tokens:
            held_out = self.task.held_out()
            if self.task.afresh and self.position == self.first and not (self.stage.folder / START_VALIDATION).is_file():
                self._validate(held_out, START_VALIDATION)
            while self.position.tokens < self.task.end_tokens:
                self.one_step(held_out)
        if self.saved is None:
            self.save()
        self._published(self.saver.finish())
        if not (self.stage.folder / VALIDATION).is_file() or self.seconds_trained:
            self._validate(self.task.held_out(), VALIDATION)
        if self.curve is not None:
            self.curve.close()
        if self.on_rounds is not None:
            self.on_rounds.weights.finish(self.position.step, self.stage.folder / MODEL_FOLDER)
        if self.saved is not None:
            checkpoints.finalize(self.stage.folder, self.saved)
        return self._outcome()

    def _resume(self) -> Position:
        """Load the newest checkpoint of this milestone that is whole and proves itself, or else the start. Returns where
        training continues."""
        newest, state = load_newest(
            self.stage.folder, self.task.start, self.learner, self._contradiction, afresh=self.task.afresh
        )
        self.saved, self.save_interval = newest, state.next_save_tokens
        self.routing.resume(newest)
        self.spikes.resume(state.usual)
        self.skips.resume(state.position.step, write=self.stage.rank == 0)
        if self.stage.rank == 0:
            print(f"continuing from {newest or self.task.start} at {state.position.tokens} tokens", flush=True)
        return replace(state.position, samples=self.skips.first_sample(state.position.step, state.position.samples))

    @cached_property
    def samples(self) -> SampleReader:
        """The corpus, opened when something is computed."""
        return self.task.samples()

    def _contradiction(self, state: State) -> str:
        """What the state just loaded measures otherwise than it did when it was saved; nothing where nothing is to train."""
        if state.proof is None or state.position.tokens >= self.task.end_tokens:
            return ""
        saved = proof.from_record(state.proof)
        samples = range(saved.first_sample, saved.end_sample)
        self.last = self._read(samples), samples
        return proof.contradiction(saved, self._proof(*self.last))

    def _proof(self, batches: list[MicroBatch], samples: range) -> proof.Proof:
        return measure_proof(self.learner, self.task.objective, batches, samples, self.settings.precision)

    def one_step(self, held_out: Mapping[str, HeldOut]) -> None:
        began, before = time.perf_counter(), self.position
        with self.learner.clock.part(Part.CHECKPOINT):
            self._published(self.saver.poll())
        count = self.batch_sizes.at(before.tokens) // self.settings.sequence_length
        after = Position(before.step + 1, before.tokens + count * self.settings.sequence_length, before.samples + count)
        samples = range(before.samples, after.samples)
        self._begin_round(before)
        with self.learner.clock.part(Part.DATA):
            batches = self._read(samples)
        if batches:
            self.last = batches, samples
        lr = self.rate(after.tokens)
        if (every := self.settings.noise_scale_every_steps) and after.step % every == 0:
            with self.routing.paused():
                self.noise.measure_small(batches, self.task.objective)
        most = self.norms.most()
        result = self._explained(self._step(batches, lr, after), batches, lr, after)
        self.profiler.step_done(after.step)
        if result.profiled:
            self.profiler.begin(after.step, result.profiled)
        action = self.settings.spikes.action
        if result.unexpected and action is SpikeAction.ROLL_BACK:
            self._roll_back(result, after)
            return
        self.position, self.saved = after, None
        if result.unexpected:
            skip = Skip(after.step, action.value, result.unexpected, result.loss, result.grad_norm, before.samples, after.samples)
            self.skips.add(skip, write=self.stage.rank == 0)
        elif batches:  # a step that had nothing to learn says nothing of what is usual
            self.spikes.learn(result.loss, result.grad_norm)
            self.norms.learn(result.grad_norm)
        if self.task.rounds is not None:
            self.task.rounds.step_done(after.step, samples, left_out=bool(result.unexpected) or result.grad_norm > most)
        self.routing.fold(result.counts, after.tokens)
        self.seconds_trained += time.perf_counter() - began
        self.monitor.step_done(after.tokens - before.tokens, self._domains(samples), result.rows)
        self._record(result, lr)
        if crossed(before.tokens, after.tokens, self.settings.validate_every_tokens) and not self._at_end():
            self._validate(held_out)
        if result.stop and not self._at_end():
            self.save()
            self._published(self.saver.finish())
            raise Stopped(f"{self.stage.stage}/{self.stage.instance} saved at {after.tokens} tokens, step {after.step}")
        every = self.settings.checkpoint.every_tokens
        due = crossed(before.tokens, after.tokens, every) if every else result.save
        if due and not self._at_end():
            with self.learner.clock.part(Part.CHECKPOINT):
                self.save()

    def _step(self, batches: list[MicroBatch], lr: float, after: Position, *, spikes: bool = True) -> StepResult:
        """Compute the step that leads to `after`, and update; not what is unexpected, spikes among it where they count."""

        def judge(loss: float, norm: float) -> str:
            if (scale := self.noise.measure_big(after.tokens - self.position.tokens)) is not None:
                self.stage.spool.metrics(after.step, {"noise_scale_tokens": scale})
            return self.spikes.judge(loss, norm) if spikes else ""

        self.routing.forget_step()
        told = Told(self.stage.stop_requested, self.stage.rank == 0 and self.saver.is_due(), self.profiler.asked())
        if not batches:
            return idle_step(told, self.routing.counts)
        return train_step(self.learner, batches, self.task.objective, lr, told, judge, self.routing.counts, self.norms.most())

    def _begin_round(self, position: Position) -> None:
        """Have the samples made that come next, where the weights make them."""
        rounds, own = self.task.rounds, self.on_rounds
        if rounds is None or own is None or position.samples % rounds.samples:
            return
        self._published(self.saver.finish())
        with self.learner.clock.part(Part.DATA):
            rounds.begin(position.samples // rounds.samples, lambda: own.weights.take(position.step), self._says)

    def _says(self, rows: Sequence[Drawn]) -> list[tuple[float, ...]]:
        """As `LogProbs`."""
        assert self.on_rounds is not None
        with self.routing.paused():
            return self.on_rounds.says(rows)

    def _explained(self, first: StepResult, batches: list[MicroBatch], lr: float, after: Position) -> StepResult:
        """The step's result, or another one where the first was a fault of arithmetic (`diagnosis.py`)."""
        if not first.unexpected:
            return first
        again = self._step(batches, lr, after)
        if not again.unexpected:
            self._tell(str(self.diagnosis.transient(after.step, first, again)), after.step, "transient_fault")
            return again
        samples = range(self.position.samples, after.samples)
        with self.routing.paused():
            fault = self.diagnosis.locate(after.step, again, batches, lambda shift: self._read(samples, shift))
        action, finite = self.settings.spikes.action, math.isfinite(again.loss) and math.isfinite(again.grad_norm)
        if not finite and not (fault.origin is Origin.DATA and skips(action)):
            self.diagnosis.refuse(fault, samples)
        self._tell(f"spike at step {after.step}: {again.unexpected} ({action.value})", after.step, "spike")
        return again if skips(action) else self._step(batches, lr, after, spikes=False)

    def _roll_back(self, result: StepResult, spiked: Position) -> None:
        """Go back to the newest whole checkpoint, and on with the samples behind those of the spiked step."""
        self._published(self.saver.finish())
        back = self._resume()
        if self.curve is not None:
            self.curve.close()
            self.curve = Curve(self.stage.folder / CURVE, self.first.step, back.step)
            self.curve.replayed.clear()  # those steps had other samples
        action, samples = SpikeAction.ROLL_BACK.value, (back.samples, spiked.samples)
        skip = Skip(spiked.step, action, result.unexpected, result.loss, result.grad_norm, *samples, back_to=back.step)
        self.skips.add(skip, write=self.stage.rank == 0)
        self.position = replace(back, samples=spiked.samples)

    def _tell(self, text: str, step: int, point: str) -> None:
        if self.stage.rank == 0:
            print(text, flush=True)
            self.stage.spool.metrics(step, {point: 1.0})

    def _at_end(self) -> bool:
        return self.position.tokens >= self.task.end_tokens

    def _domains(self, samples: range) -> list[str]:
        """Of this rank's, in the order of its micro-batches; none where nobody knows."""
        domain, size = self.task.domain, self.settings.parallel.micro_batch_size
        if domain is None:
            return []
        mine = micro_batches_of(samples, size, self.layout.data_rank, self.layout.data_ranks)
        return [domain(self.samples, index) for batch in mine for index in batch]

    def _read(self, samples: range, shift: int = 0) -> list[MicroBatch]:
        """This rank's micro-batches of `samples`, or those of the data rank `shift` places on."""
        size, ranks = self.settings.parallel.micro_batch_size, self.layout.data_ranks
        rank = (self.layout.data_rank + shift) % ranks
        if self.on_rounds is not None:
            return self.on_rounds.batches.batches(samples, rank)
        mine = micro_batches_of(samples, size, rank, ranks)
        return [micro_batch([self.samples.sample(i) for i in batch], size, self.layout) for batch in mine]

    def _record(self, result: StepResult, lr: float) -> None:
        step, tokens = self.position.step, self.position.tokens
        self.stage.progress(tokens, self.task.end_tokens, "tokens")
        if self.curve is not None:
            compare_with_before(self.curve, step, result.loss, self.stage.spool)
            self.curve.add(Point(step, tokens, lr, result.loss, result.grad_norm, result.aux_loss))
        if step % self.settings.log_every_steps == 0 or self._at_end():
            values = {"loss": result.loss, "lr": lr, "grad_norm": result.grad_norm, "aux_loss": result.aux_loss}
            told = self.task.rounds.metrics() if self.task.rounds is not None else {}
            watched = {**self.routing.take(), **self.monitor.take(step), **told}
            self.stage.spool.metrics(step, {"tokens": tokens, **values, **watched})

    def save(self) -> None:
        """Begin a save of the position; it gets its name at a later step, or at `finish`."""
        if self.task.rounds is not None:
            self.task.rounds.settle(self.position.step, self._says)
        began = time.monotonic()
        if self.curve is not None:
            self.curve.secure()
        self.learner.settle()
        proven = proof.to_record(self._proof(*self.last)) if self.last is not None else None
        state = State(
            self.position,
            self.layout.recorded(),
            optimizer=True,
            usual=self.spikes.state(),
            proof=proven,
            next_save_tokens=self._tokens_to_the_next_save(),
        )
        more = self.routing.save if self.stage.rank == 0 else None
        self._published(self.saver.start(state, more, began))
        self.saved = checkpoints.save_folder(self.stage.folder, self.position.step)

    def _tokens_to_the_next_save(self) -> int:
        """At most; 0 where the recipe says it, and at the end, since a result must not know how fast it was made."""
        if self.settings.checkpoint.every_tokens or self._at_end() or not self.seconds_trained:
            return 0
        speed = (self.position.tokens - self.tokens_before) / self.seconds_trained
        return math.ceil(2 * speed * self.saver.interval_seconds)

    def _published(self, costs: Costs | None) -> None:
        if costs is not None:
            metrics = {"checkpoint_stall_seconds": costs.stall, "checkpoint_seconds": costs.total}
            if not self.settings.checkpoint.every_tokens:
                metrics["checkpoint_interval_seconds"] = self.saver.interval_seconds
            self.stage.spool.metrics(self.position.step, metrics)

    def _validate(self, held_out: Mapping[str, HeldOut], kept_as: str = "") -> None:
        losses = validate(self.learner, held_out)
        values = {f"validation/{domain}/nats_per_token": loss.nats_per_token for domain, loss in losses.items()}
        values |= {f"validation/{domain}/bits_per_byte": loss.bits_per_byte for domain, loss in losses.items()}
        self.stage.spool.metrics(self.position.step, values)
        if kept_as and self.stage.rank == 0:
            write_validation(self.stage.folder / kept_as, losses)

    def _outcome(self) -> Outcome:
        at = self.position
        counters: dict[str, int | str] = {"step": at.step, "tokens": at.tokens, "samples": at.samples}
        metrics: dict[str, float] = {}
        if self.curve is not None and self.curve.last is not None:
            metrics["loss"] = self.curve.last.loss
            for domain, loss in json.loads((self.stage.folder / VALIDATION).read_text()).items():
                metrics[f"{domain}/bits_per_byte"] = number(loss["bits_per_byte"])
                metrics[f"{domain}/nats_per_token"] = number(loss["nats_per_token"])
        if self.seconds_trained:
            metrics["tokens_per_second"] = (at.tokens - self.tokens_before) / self.seconds_trained
        files: tuple[str, ...] = (FINAL, CURVE, VALIDATION, *([START_VALIDATION] if self.task.afresh else []))
        if self.on_rounds is not None:
            files = (*files, MODEL_FOLDER)
        if self.skips.all:
            files = (*files, SKIPS)
            counters["samples_skipped"] = sum(skip.end_sample - skip.first_sample for skip in self.skips.all)
        return Outcome(files=files, counters=counters, metrics=metrics)
