"""The rounds of online RL: prompts out to the rollout engine, answers back, rewards, advantages, and what of them is learnt.

All ranks ask, judge and reward a part of a round each and know all of it afterwards. What a round is follows from the weights,
the pool and the recipe, so a round that was cut off is finished, and one that is on the disk is not made again.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from athanor.artifacts.files import write_json
from athanor.artifacts.run import StageError, StageRun
from athanor.data.chat import ChatEncoder
from athanor.data.permutation import permute, stream_key
from athanor.recipe.schedules import BatchSizes
from athanor.recipe.schema.online import Online
from athanor.rl.online.lessons import Lessons
from athanor.rl.online.prompts import Curriculum, Pooled
from athanor.rl.online.rounds import LEDGER, ROUNDS, Answered, Ledger, Made, arrange, read_ledger, read_round, write_round
from athanor.rl.rollouts.handover import checksum
from athanor.rl.rollouts.sampling import Prompt, Sampling
from athanor.stages.handover import Ahead, Answerer, Weights
from athanor.stages.rewarding import Rewarder
from athanor.training import policy
from athanor.training.deepspeed.online import Drawn, Learnable, PolicyLoss, answer_log_probs, chosen_by_covariance, reference_of

LOOKED_AT = "log_probs.json"  # at the last saves; no part of the result
LOOKS = 16  # answers


@dataclass(frozen=True)
class Asked:
    """Who is asked what: the folder that training starts from, its tokenizer, and the prompts."""

    start: Path
    encoder: ChatEncoder
    pool: Mapping[str, Pooled]  # by id
    watched: Sequence[Pooled]
    write: Callable[[Weights, Path], None]  # a folder of other weights, which a server can serve


class OnlineRounds:
    """Of one rank, as the loop calls them; it is also the reader of their answers."""

    def __init__(self, stage: StageRun, settings: Online, asked: Asked, loss: PolicyLoss) -> None:
        self._stage, self._settings, self._asked, self._loss = stage, settings, asked, loss
        self.samples = settings.prompts * settings.samples
        self._rounds = settings.token_budget // (self.samples * settings.sequence_length)
        seed = stage.recipe.seed

        def order(draw: int, size: int, family: str) -> int:
            epoch, index = divmod(draw, size)
            return permute(index, size, stream_key(seed, "online", family, epoch))

        slots = self._rounds * settings.prompts
        self._curriculum = Curriculum(list(asked.pool.values()), settings.mixture, settings.curriculum, slots, order)
        self._lessons = Lessons(settings, stage.instance, seed)
        self._answerer = Answerer(stage, asked.start, asked.encoder.ends, asked.write)
        self._rewarder = Rewarder(stage, settings)
        self._ledger = Ledger(stage.folder / LEDGER)
        self._reference = reference_of(asked.start)
        self._ahead: Ahead | None = None
        self._read: tuple[int, list[list[Answered | None]]] | None = None  # the round that is learnt from, step by step
        self._told: dict[str, float] = {}
        self._ids: dict[str, tuple[int, ...]] = {}

    # What the trainer reads.

    def answer(self, sample: int) -> Learnable | None:
        """As `AnswerReader`."""
        found = self._at(sample)
        if found is None or found.advantage is None:
            return None
        return Learnable(self._drawn(found), found.old, found.advantage, found.advantage > 0, found.chosen, found.reference)

    def learnt(self, samples: range) -> int:
        """As `Rounds`."""
        return sum(self._at(sample) is not None for sample in samples)

    def _at(self, sample: int) -> Answered | None:
        number, place = divmod(sample, self.samples)
        steps = self._arranged(number)
        step, at = divmod(place, self.samples // len(steps))
        return steps[step][at]

    def _arranged(self, number: int) -> list[list[Answered | None]]:
        if self._read is None or self._read[0] != number:
            made = read_round(self._stage.folder, number)
            if made is None:
                raise StageError(
                    f"round {number} is not in {self._stage.folder / ROUNDS}, and the weights that answered it are behind; bring "
                    f"it back, or delete {self._stage.folder} and train anew"
                )
            tokens = self.samples * self._settings.sequence_length
            steps = tokens // BatchSizes.of(self._settings).at(number * tokens)
            self._read = number, arrange(made.answers, self._stage.recipe.seed, number, steps)
        return self._read[1]

    def _drawn(self, answer: Answered) -> Drawn:
        return Drawn(self._prompt(self._asked.pool[answer.prompt]), answer.tokens, answer.log_probs)

    def _prompt(self, prompt: Pooled) -> tuple[int, ...]:
        """Its ids, which are looked up for every answer of every step."""
        if prompt.id not in self._ids:
            self._ids[prompt.id] = self._asked.encoder.prompt(prompt.messages, prompt.tools)
        return self._ids[prompt.id]

    # What the loop calls.

    def begin(self, number: int, weights: Callable[[], Weights], module: torch.nn.Module) -> None:
        """As `Rounds`."""
        weights = cache(weights)  # ranks gather them together, so all of them ask as often
        made = self._agree(read_round(self._stage.folder, number))
        now = ""
        if made is None or self._settings.staleness:
            now = checksum(weights())
        if made is None:
            made = self._make(number, weights, now, module)
            if dist.get_rank() == 0:
                write_round(self._stage.folder, made)
                self._clean(number)
            dist.barrier()
        if made.ahead and number + 1 < self._rounds:
            self._ahead = Ahead(lambda: self._answers(number + 1, weights, made.ahead))  # of a copy: training goes on
        self._told = {**made.metrics, **self._told}

    def step_done(self, step: int, samples: range, *, left_out: bool) -> None:
        """As `Rounds`."""
        if dist.get_rank() == 0:
            learnt = [found for sample in samples if (found := self._at(sample)) is not None]
            self._ledger.add(step, samples.start // self.samples, learnt, left_out=left_out)

    def settle(self, step: int, module: torch.nn.Module) -> None:
        """As `Rounds`. What these weights say of some answers is kept beside the save."""
        self._wait()
        dist.barrier()
        if dist.get_rank() == 0:
            self._ledger.secure()
            looks = {**self._looks(), str(step): self._look(step, module)}
            kept = sorted(looks, key=int)[-self._settings.checkpoint.keep - 1 :]  # this save may not be finished
            write_json(self._stage.folder / LOOKED_AT, {name: looks[name] for name in kept})

    def resume(self, step: int, module: torch.nn.Module) -> None:
        """As `Rounds`. What the weights say of the same answers now is told beside what they said when they were saved."""
        if dist.get_rank():
            return
        self._ledger.resume(step)
        saved = self._looks().get(str(step))
        if saved is None:
            return
        now = self._look(step, module)
        jump = max((abs(a - b) for a, b in zip(saved, now, strict=True)), default=0.0)
        print(f"log-probabilities are at most {jump:.1e} nats from those at the save, over {len(now)} tokens", flush=True)
        self._stage.spool.metrics(step, {"resume_log_prob_jump": jump})

    def _looks(self) -> dict[str, list[float]]:
        """What was kept beside the last saves, by step."""
        path = self._stage.folder / LOOKED_AT
        found: dict[str, list[float]] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def _look(self, step: int, module: torch.nn.Module) -> list[float]:
        """The log-probabilities of some answers that were learnt from last."""
        rows = read_ledger(self._stage.folder / LEDGER)
        learnt = next((row for row in reversed(rows) if row["step"] <= step and row["answers"]), None)
        made = read_round(self._stage.folder, learnt["round"]) if learnt else None
        if made is None or learnt is None:
            return []
        wanted = set(learnt["answers"][:LOOKS])
        some = [self._drawn(answer) for answer in made.answers if answer.id in wanted]
        found = answer_log_probs(module, some, self._asked.encoder.padding, self._settings.parallel.micro_batch_size)
        return [said for row in found for said in row]

    def metrics(self) -> dict[str, float]:
        """As `Rounds`."""
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, self._loss.taken())
        told, self._told = self._told, {}
        return {**told, **sum(everyone, policy.Watched()).metrics()}

    def close(self) -> None:
        """End engines and workers."""
        self._wait()
        self._answerer.close()
        self._rewarder.close()

    def _wait(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.wait()

    # A round.

    def _make(self, number: int, weights: Callable[[], Weights], now: str, module: torch.nn.Module) -> Made:
        self._wait()
        began, settings = time.perf_counter(), self._settings
        before = read_round(self._stage.folder, number - 1) if number else None
        stale = before is not None and bool(before.ahead)
        has = before.ahead if before is not None and stale else now
        known = weights if has == now else self._gone(number, has)
        own, watched = self._answers(number, known, has, lambda: self._beat(number))
        answered = time.perf_counter()
        prompts = dict(enumerate(self._curriculum.round(number, settings.prompts)))
        rewarded = self._everyones(self._rewarder.reward(own, prompts))
        judged = time.perf_counter()
        lessons = self._lessons.of(number, rewarded, before.moments if before else {})
        answers = self._measured(lessons.answers, module)
        tokens = sum(len(answer.tokens) for answer in answers)
        self._told = {
            "rollout_tokens_per_second": tokens / max(1e-9, answered - began),
            "rewards_per_second": len(answers) / max(1e-9, judged - answered),
            "round_seconds": time.perf_counter() - began,
        }
        ahead = now if settings.staleness else ""
        metrics = {**lessons.metrics, "staleness": float(stale)}
        return Made(number, has, int(stale), ahead, tuple(answers), tuple(watched), metrics, lessons.moments)

    def _answers(
        self, number: int, weights: Callable[[], Weights], has: str, on_shard: Callable[[], None] = lambda: None
    ) -> tuple[list[Answered], list[dict[str, Any]]]:
        """This rank's part of a round's answers, by the weights of the checksum `has`, and what it was to watch."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        if not self._answerer.is_shared:
            rank, ranks = (0, 1) if rank == 0 else (0, 0)
        settings, folder = self._settings, self._folder(number, has)
        asked = self._curriculum.round(number, settings.prompts)
        slots = range(rank, settings.prompts, ranks) if ranks else range(0)
        prompts = [Prompt(f"{number}:{slot}:{asked[slot].id}", self._prompt(asked[slot])) for slot in slots]
        sampling = Sampling(settings.samples, max_new_tokens=settings.max_new_tokens, seed=self._stage.recipe.seed)
        shards = folder / f"{rank}-of-{ranks}"
        samples = self._answerer.answer(prompts, sampling, shards, weights, has, on_shard) if prompts else []
        found = []
        for sample in samples:
            slot = int(sample.prompt.split(":")[1])
            prompt, text = asked[slot], self._asked.encoder.decode(sample.tokens)
            who = (prompt.id, prompt.task, prompt.family, prompt.route.value)
            found.append(
                Answered(slot, sample.number, *who, sample.tokens, sample.log_probs, sample.finish.value, text, 0.0, None)
            )
        watched: list[dict[str, Any]] = []
        if rank == 0 and ranks and number % settings.watch_every_rounds == 0 and self._asked.watched:
            watched = self._watch(folder, weights, has)
        return found, watched

    def _watch(self, folder: Path, weights: Callable[[], Weights], has: str) -> list[dict[str, Any]]:
        """The likeliest answers to the held-out prompts that are looked at through training."""
        known = {prompt.id: prompt for prompt in self._asked.watched}
        prompts = [Prompt(prompt.id, self._prompt(prompt)) for prompt in known.values()]
        sampling = Sampling(1, 0.0, max_new_tokens=self._settings.max_new_tokens)
        samples = self._answerer.answer(prompts, sampling, folder / "watched", weights, has)
        return [{"prompt": s.prompt, "text": self._asked.encoder.decode(s.tokens), "finish": s.finish.value} for s in samples]

    def _measured(self, answers: Sequence[Answered], module: torch.nn.Module) -> list[Answered]:
        """With the log-probabilities of what is learnt from, each measured by one rank, and what KL-Cov holds back."""
        objective, size = self._settings.objective, self._settings.parallel.micro_batch_size
        learnt = sorted((a for a in answers if a.advantage is not None), key=lambda a: (len(a.tokens), a.id))
        own = learnt[dist.get_rank() :: dist.get_world_size()]
        rows = [self._drawn(answer) for answer in own]
        padding = self._asked.encoder.padding
        old = answer_log_probs(module, rows, padding, size)
        reference = (
            answer_log_probs(self._reference(), rows, padding, size) if objective.reference_kl and rows else [()] * len(own)
        )
        measured = self._everyones([replace(a, old=o, reference=r) for a, o, r in zip(own, old, reference, strict=True)])
        found = {answer.id: answer for answer in measured}
        if objective.kl_cov:
            chosen = chosen_by_covariance([(a.old, a.advantage or 0.0) for a in measured], objective.kl_cov_share)
            found = {answer.id: replace(answer, chosen=some) for answer, some in zip(measured, chosen, strict=True)}
        return [found.get(answer.id, answer) for answer in answers]

    def _everyones(self, own: Sequence[Answered]) -> list[Answered]:
        """All ranks' answers, in the order of their slots."""
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, own)
        return sorted((answer for some in everyone for answer in some), key=lambda answer: (answer.slot, answer.number))

    def _agree(self, made: Made | None) -> Made | None:
        """Only what every rank sees is there: on a shared file system one may see a file later."""
        seen: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(seen, made is not None)
        return made if all(seen) else None

    def _gone(self, number: int, has: str) -> Callable[[], Weights]:
        def weights() -> Weights:
            raise StageError(
                f"answers of round {number} are missing below {self._folder(number, has)}, and the weights {has} that gave them "
                f"are behind; bring them back, or delete {self._stage.folder} and train anew"
            )

        return weights

    def _beat(self, number: int) -> None:
        """No token is learnt while a round is answered, and yet it goes on."""
        tokens = self.samples * self._settings.sequence_length
        self._stage.progress(number * tokens, self._settings.token_budget, "tokens")

    def _folder(self, number: int, has: str) -> Path:
        return self._stage.folder / ROUNDS / f"{number:05d}-{has}"

    def _clean(self, number: int) -> None:
        """The shards of a round that is on the disk have had their day."""
        for folder in (self._stage.folder / ROUNDS).glob(f"{number:05d}-*"):
            shutil.rmtree(folder, ignore_errors=True)
