"""The loop over a torch module: the steps, curve, saves, resumes and measurements of `training/loop.py`, through DeepSpeed.

Everything a step needs follows from the position and the recipe, so a run that was killed at any instant and started again on
as many ranks goes on as if nothing had happened: on a CPU to the last bit. Every rank reads samples of its own.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.artifacts.strict_json import number
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.schedules import BatchSizes
from athanor.training import checkpoints
from athanor.training.checkpoints import FINAL, Position, State, read_state
from athanor.training.curve import CURVE, Curve, Point, compare_with_before, crossed, read_curve, refuse_to_lose
from athanor.training.deepspeed.curvature import Curvature, refuse_without_labels
from athanor.training.deepspeed.engine import Engine
from athanor.training.deepspeed.fused import FusedEngine
from athanor.training.deepspeed.measuring import measure
from athanor.training.deepspeed.proving import Prover
from athanor.training.deepspeed.ranks import Ranks, connected
from athanor.training.deepspeed.resuming import layout_of, load_earlier, load_newest
from athanor.training.deepspeed.task import Batch, BatchReader, Measured, ModuleTask
from athanor.training.errors import NonFiniteError
from athanor.training.failures import agreed_node_hours
from athanor.training.held_out import START_VALIDATION, VALIDATION, write_validation
from athanor.training.intervals import Interval
from athanor.training.monitor import Monitor
from athanor.training.norms import Norms
from athanor.training.profiling import Profiler
from athanor.training.proof import to_record
from athanor.training.rounds import LogProbs
from athanor.training.samples import micro_batches_of
from athanor.training.schedule import LearningRate
from athanor.training.spikes import SpikeDetector
from athanor.training.stopwatch import Part, Stopwatch
from athanor.training.world import PATIENCE


@dataclass
class Learner:
    """What learns, where, and where its time goes."""

    engine: Engine | FusedEngine
    layout: Ranks
    clock: Stopwatch


def train(stage: StageRun, task: ModuleTask) -> Outcome:
    """Train to `task.end_tokens`, or as far as the stage is let.

    Leaves `checkpoint/`, `curve.jsonl`, `validation_start.json`, `validation.json` and `model/`. Raises Stopped when asked to
    stop (after saving), NonFiniteError when the loss or the gradient is no number, and StageError where nothing can be trained.
    """
    refuse_without_labels(task, f"{stage.stage}/{stage.instance}")
    patience = PATIENCE if task.rounds is not None else None
    with connected(task.settings.parallel.ranks, stage.recipe.seed, patience) as ranks:
        return ModuleRun(stage, task, Learner(fresh_engine(task, ranks), ranks, Stopwatch(ranks.device))).to_the_end()


def fresh_engine(task: ModuleTask, ranks: Ranks) -> Engine | FusedEngine:
    """The task's module as training begins with it."""
    settings = task.settings
    if settings.optimizer.name.is_fused:
        return FusedEngine(task.module(), settings.optimizer, ranks.device)
    size = settings.parallel.micro_batch_size
    return Engine(task.module(), settings.optimizer, task.zero, settings.precision, size)


class ModuleRun:
    """One attempt."""

    def __init__(self, stage: StageRun, task: ModuleTask, learner: Learner) -> None:
        self.stage, self.settings, self.task, self.learner = stage, task.settings, task, learner
        self.engine, self.ranks = learner.engine, learner.layout
        self.rate, self.batch_sizes = LearningRate.of(task.settings), BatchSizes.of(task.settings)
        peak = stage.site.peak_tflops if stage.site else 0.0
        self.monitor = Monitor(stage.folder, learner, stage.recipe.model, task.settings, peak, task.domains)
        self.profiler = Profiler(stage.folder, stage.rank)
        self.spikes = SpikeDetector(self.settings.spikes)
        self.layout = layout_of(task, self.ranks)
        self.prover = Prover(task, self.ranks, self.layout)
        self.last = range(0)  # samples of the last step
        self.curvature = Curvature.of(task, stage.recipe.seed)
        saves = self.settings.checkpoint
        self.interval = Interval(saves, agreed_node_hours(saves, task.failures), len(set(self.ranks.nodes)))
        if stage.roll_back:
            checkpoints.set_newest_aside(stage.folder)
        self.first = read_state(task.earlier).position if task.earlier else Position()
        if self.first.tokens >= task.end_tokens:
            raise StageError(
                f"{task.earlier} has {self.first.tokens} tokens already, and this point ends at {task.end_tokens}: nothing would "
                "be trained"
            )
        self.position, self.saved = self._resume()
        if task.rounds is not None:
            with self._looking():
                task.rounds.resume(self.position.step, self._says)
        self.norms = Norms(
            task.drop_norms, [p.grad_norm for p in read_curve(stage.folder / CURVE) if p.step <= self.position.step]
        )
        self.curve: Curve | None = None
        if stage.rank == 0:
            if saves.every_tokens:  # else nobody knows what a killed attempt may have lost
                refuse_to_lose(stage.folder, self.position, saves.every_tokens, self.batch_sizes.largest)
            self.curve = Curve(stage.folder / CURVE, self.first.step, self.position.step)
        self.seconds_trained, self.tokens_before = 0.0, self.position.tokens

    def _resume(self) -> tuple[Position, bool]:
        """Load the newest checkpoint that can be gone on from, or else the earlier point's, where there is one. Where training
        goes on, and whether that is a save of this run."""
        tried: list[Path] = []

        def load(save: Path) -> None:
            tried.append(save)
            self.engine.load(save)

        def contradiction(state: State) -> str:
            return self.prover.contradiction(self.engine, self.batches, state)

        found = load_newest(self.stage.folder, self.layout, load, contradiction)
        if found is None and tried:  # what was loaded last is none to begin with
            del self.engine, self.learner.engine
            self.engine = self.learner.engine = fresh_engine(self.task, self.ranks)
        if found is not None:
            newest, state = found
        elif self.task.earlier is not None:
            newest = self.task.earlier
            state = load_earlier(newest, self.layout, load, contradiction)
        else:
            return Position(), False
        self.spikes.resume(state.usual)
        if self.stage.rank == 0:
            print(f"continuing from {newest} at {state.position.tokens} tokens", flush=True)
        return state.position, found is not None

    def to_the_end(self) -> Outcome:
        """All steps that are left, the last validation, the weights, and the result."""
        if not self._at_end():
            held_out = self.task.held_out()
            if not self.task.earlier and not self.position.step and not (self.stage.folder / START_VALIDATION).is_file():
                before = self.task.held_out_before
                self._validate(before() if before else held_out, START_VALIDATION)
            while not self._at_end():
                self.one_step(held_out)
        if not self.saved:
            self.save()
        if not (self.stage.folder / VALIDATION).is_file() or self.seconds_trained:
            self._validate(self.task.held_out(), VALIDATION)
        if self.curve is not None:
            self.curve.close()
        self._write_model()
        last = checkpoints.save_folder(self.stage.folder, self.position.step)
        checkpoints.finalize(self.stage.folder, last if last.is_dir() else self.stage.folder / FINAL)
        return self._outcome()

    @cached_property
    def batches(self) -> BatchReader:
        """The corpus, opened when something is computed."""
        return self.task.batches()

    def one_step(self, held_out: Mapping[str, Measured]) -> None:
        """From the position to the next, with whatever is due behind it."""
        began, before = time.perf_counter(), self.position
        count = self.batch_sizes.at(before.tokens) // self.settings.sequence_length
        after = Position(before.step + 1, before.tokens + count * self.settings.sequence_length, before.samples + count)
        samples = range(before.samples, after.samples)
        self._begin_round(before)
        size, layout = self.settings.parallel.micro_batch_size, self.ranks
        mine = micro_batches_of(samples, size, layout.data_rank, layout.data_ranks)
        if self.task.rounds is not None:
            mine = mine[: max(1, math.ceil(self.task.rounds.learnt(samples) / (size * layout.data_ranks)))]
        with self.learner.clock.part(Part.DATA):
            batches = [self.batches.batch(batch).to(layout.device) for batch in mine]
        with self.learner.clock.part(Part.COMPUTE):
            [weight] = self._sum([float(sum(batch.weights.sum() for batch in batches))])
            if self.curvature is not None and self.curvature.is_due(before.step) and isinstance(self.engine, Engine):
                self.curvature.estimate(self.engine, after.step, mine, batches, weight)
            rows = self._gradients(batches, weight) if weight else torch.zeros(0, 2, dtype=torch.float64, device=layout.device)
        told = [float(rows[:, 0].sum()), self.stage.stop_requested, self._save_is_due(), self.profiler.asked()]
        loss_sum, stops, saves, profiled = self._sum(told)
        loss, lr = loss_sum / weight if weight else 0.0, self.rate(after.tokens)
        if not math.isfinite(loss):
            raise NonFiniteError(f"loss {loss} at step {after.step}, samples {samples.start} to {samples.stop - 1}")
        with self.learner.clock.part(Part.OPTIMIZER):
            most = self.norms.most()
            norm = self.engine.step(lr, most) if weight else 0.0  # where nothing is to be learnt, nothing decays either
        if not math.isfinite(norm):  # these weights are never saved
            raise NonFiniteError(f"gradient norm {norm} at step {after.step}, samples {samples.start} to {samples.stop - 1}")
        if weight:  # a step that had nothing to learn says nothing of what is usual
            self._tell_spike(loss, norm, after.step)
            self.norms.learn(norm)
        if self.task.rounds is not None:
            self.task.rounds.step_done(after.step, samples, left_out=norm > most)
        self.profiler.step_done(after.step)
        if profiled:
            self.profiler.begin(after.step, int(profiled))
        self.position, self.saved, self.last = after, False, samples
        self.seconds_trained += time.perf_counter() - began
        domains = [self.task.domain(self.batches, i) for batch in mine for i in batch] if self.task.domain and weight else []
        self.monitor.step_done(after.tokens - before.tokens, domains, rows)
        self._record(Point(after.step, after.tokens, lr, loss, norm, 0.0))
        self._behind_step(held_out, before, stop=stops > 0, save=saves > 0)

    def _behind_step(self, held_out: Mapping[str, Measured], before: Position, *, stop: bool, save: bool) -> None:
        after, every = self.position, self.settings.checkpoint.every_tokens
        if self._at_end():
            return
        if crossed(before.tokens, after.tokens, self.settings.validate_every_tokens):
            self._validate(held_out)
        if stop:
            self.save()
            raise Stopped(f"{self.stage.stage}/{self.stage.instance} saved at {after.tokens} tokens, step {after.step}")
        if crossed(before.tokens, after.tokens, every) if every else save:
            with self.learner.clock.part(Part.CHECKPOINT):
                self.save()

    def _begin_round(self, position: Position) -> None:
        """Have the samples made that come next, where the weights make them."""
        rounds = self.task.rounds
        if rounds is None or position.samples % rounds.samples:
            return
        with self.learner.clock.part(Part.DATA), self._looking():
            rounds.begin(position.samples // rounds.samples, self.engine.weights, self._says)

    @property
    def _says(self) -> LogProbs:
        assert self.task.says is not None
        return self.task.says(self.engine.module)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Passes are not for training."""
        self.engine.evaluating(on=True)
        try:
            yield
        finally:
            self.engine.evaluating(on=False)

    def _gradients(self, batches: list[Batch], weight: float) -> torch.Tensor:
        """Of the mean loss of the whole step. Returns losses and weights of this rank's samples [samples, 2], float64.

        `weight` sums all ranks' samples', so that none counts more because its rank has fewer tokens.
        """
        rows = []
        for done, batch in enumerate(batches, start=1):
            self.engine.begin_pass(last=done == len(batches))
            losses = self.task.loss(self.engine.module, batch)
            self.engine.backward(losses.sum() / max(weight, 1.0))
            rows.append(torch.stack([losses.detach().double(), batch.weights.double()], dim=1))
        return torch.cat(rows)

    def _sum(self, values: list[float]) -> list[float]:
        vector = torch.tensor(values, dtype=torch.float64, device=self.ranks.device)
        dist.all_reduce(vector)
        total: list[float] = vector.tolist()
        return total

    def _save_is_due(self) -> bool:
        return self.stage.rank == 0 and self.interval.is_over()

    def _at_end(self) -> bool:
        return self.position.tokens >= self.task.end_tokens

    def _tell_spike(self, loss: float, norm: float, step: int) -> None:
        """Spikes are told alone: DeepSpeed has updated by the time that a norm is known."""
        if (what := self.spikes.judge(loss, norm)) and self.stage.rank == 0:
            print(f"spike at step {step}: {what} (log)", flush=True)
            self.stage.spool.metrics(step, {"spike": 1.0})
        self.spikes.learn(loss, norm)

    def _record(self, point: Point) -> None:
        self.stage.progress(point.tokens, self.task.end_tokens, "tokens")
        if self.curve is not None:
            compare_with_before(self.curve, point.step, point.loss, self.stage.spool)
            self.curve.add(point)
        if point.step % self.settings.log_every_steps == 0 or self._at_end():
            values = {"tokens": point.tokens, "loss": point.loss, "lr": point.lr, "grad_norm": point.grad_norm}
            told = self.task.rounds.metrics() if self.task.rounds is not None else {}
            self.stage.spool.metrics(point.step, {**values, **self.monitor.take(point.step), **told})

    def save(self) -> None:
        """A checkpoint of the position, written while training stands still."""
        if self.task.rounds is not None:
            with self._looking():
                self.task.rounds.settle(self.position.step, self._says)
        began = self.interval.begin()
        if self.curve is not None:
            self.curve.secure()
        proven = to_record(self.prover.proof(self.engine, self.batches, self.last))
        state = State(self.position, self.layout, optimizer=True, usual=self.spikes.state(), proof=proven)
        checkpoints.save(checkpoints.save_folder(self.stage.folder, self.position.step), self.engine.save, state)
        checkpoints.prune(self.stage.folder, self.settings.checkpoint.keep)
        stall = time.monotonic() - began
        self.interval.learn(stall)
        self.stage.spool.metrics(self.position.step, {"checkpoint_stall_seconds": stall, "checkpoint_seconds": stall})
        self.saved = True

    def _validate(self, held_out: Mapping[str, Measured], kept_as: str = "") -> None:
        losses = measure(self.engine, self.task.loss, held_out, self.ranks, self.settings.parallel.micro_batch_size)
        values = {f"validation/{domain}/{self._loss}": loss.nats_per_token for domain, loss in losses.items()}
        values |= {f"validation/{d}/bits_per_byte": loss.bits_per_byte for d, loss in losses.items() if held_out[d].bytes}
        self.stage.spool.metrics(self.position.step, values)
        if kept_as and self.stage.rank == 0:
            write_validation(self.stage.folder / kept_as, losses)

    @property
    def _loss(self) -> str:
        return f"nats_per_{self.task.loss_of}"

    def _write_model(self) -> None:
        """Fill `model/` beside and rename: it is whole where it has its name."""
        weights = self.engine.weights()
        folder = self.stage.folder / MODEL_FOLDER
        if self.stage.rank == 0:
            beside = folder.with_name(f".{MODEL_FOLDER}.writing")
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            beside.mkdir()
            self.task.write(weights, beside)
            os.replace(beside, folder)
        dist.barrier()

    def _outcome(self) -> Outcome:
        at, metrics = self.position, dict[str, float]()
        if self.curve is not None and self.curve.last is not None:
            metrics["loss"] = self.curve.last.loss
            for domain, loss in json.loads((self.stage.folder / VALIDATION).read_text()).items():
                metrics[f"{domain}/{self._loss}"] = number(loss["nats_per_token"])
                if math.isfinite(bits := number(loss["bits_per_byte"])):  # of text
                    metrics[f"{domain}/bits_per_byte"] = bits
        if self.seconds_trained:
            metrics["tokens_per_second"] = (at.tokens - self.tokens_before) / self.seconds_trained
        counters: dict[str, int | str] = {"step": at.step, "tokens": at.tokens, "samples": at.samples}
        start = () if self.task.earlier else (START_VALIDATION,)
        return Outcome((FINAL, CURVE, VALIDATION, *start, MODEL_FOLDER), counters, metrics)
