"""The rounds of online RL: prompts out to the rollout engine, answers back, rewards, advantages, and what of them is learnt.

All ranks ask, judge and reward a part of a round each and know all of it afterwards. What a round is follows from the weights,
the pool and the recipe, so a round that was cut off is finished, and one that is on the disk is not made again.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch.distributed as dist

from athanor.artifacts.files import secure_tree, write_json
from athanor.artifacts.run import StageRun
from athanor.models.folder_files import MODEL_FOLDER, POINTS_FOLDER
from athanor.recipe.schedules import BatchSizes
from athanor.recipe.schema.online import Online
from athanor.rl.online.lessons import Lessons
from athanor.rl.online.rounds import (
    LEDGER,
    ROUNDS,
    Answered,
    Ledger,
    Made,
    arrange,
    await_round,
    open_slots,
    read_ledger,
    read_round,
    write_round,
)
from athanor.rl.rollouts.handover import combined, digests
from athanor.stages.handover import Ahead
from athanor.stages.rewarding import Rewarder
from athanor.stages.round_answers import Asked, RoundAnswers
from athanor.training import policy
from athanor.training.answers import Drawn, Learnable, chosen_by_covariance, most_apart
from athanor.training.rounds import LogProbs, Weights

LOOKED_AT = "log_probs.json"  # at the last saves; no part of the result
LOOKS = 16  # answers
COMPARED = 32  # answers of a round, at least, between engine and trainer
SAME_NATS = 1e-4  # engine and trainer are one model in one precision where they differ by no more


class OnlineRounds:
    """Of one rank, as the loop calls them; it is also the reader of their answers."""

    def __init__(
        self, stage: StageRun, settings: Online, asked: Asked, watched: Callable[[], policy.Watched], reference: LogProbs | None
    ) -> None:
        """`watched` gives what was watched of the loss since it was asked last, `reference` what the start says of answers,
        where the policy is held to it."""
        self._stage, self._settings, self._asked, self._watched, self._reference = stage, settings, asked, watched, reference
        self.samples = settings.prompts * settings.samples
        self._rounds = settings.token_budget // (self.samples * settings.sequence_length)
        self._lessons = Lessons(settings, stage.instance, stage.recipe.seed)
        self._answers = RoundAnswers(stage, settings, asked, self._rounds)
        self._rewarder = Rewarder(stage, settings)
        self._ledger = Ledger(stage.folder / LEDGER)
        self._ahead: Ahead | None = None
        self._read: tuple[int, list[list[Answered | None]]] | None = None  # the round that is learnt from, step by step
        self._told: dict[str, float] = {}
        self._reached = 0  # tokens behind which it goes on

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
            made = await_round(self._stage.folder, number)
            tokens = self.samples * self._settings.sequence_length
            steps = tokens // BatchSizes.of(self._settings).at(number * tokens)
            self._read = number, arrange(made.answers, self._stage.recipe.seed, number, steps)
        return self._read[1]

    def _drawn(self, answer: Answered) -> Drawn:
        return Drawn(self._answers.ids_of(self._asked.pool[answer.prompt]), answer.tokens, answer.log_probs)

    # What the loop calls.

    def begin(self, number: int, weights: Callable[[], Weights], says: LogProbs) -> None:
        """As `Rounds`."""
        weights = cache(weights)  # ranks gather them together, so all of them ask as often
        self._told = {}
        if self._stage.instance == "model" and number > self._rounds - self._settings.average:
            self._keep_point(number, weights())
        made = self._agree(read_round(self._stage.folder, number))
        now, began = "", time.perf_counter()
        if made is None or self._settings.staleness:
            self._beat(number)
            now = self._checksum(weights())
        if made is None:
            made = self._make(number, weights, now, says, time.perf_counter() - began)
            if dist.get_rank() == 0:
                write_round(self._stage.folder, made)
                self._clean(number)
            dist.barrier()
        if made.ahead and number + 1 < self._rounds and self._agree(read_round(self._stage.folder, number + 1)) is None:
            has, known = self._next_weights(made, now, weights)
            self._ahead = Ahead(lambda mark: self._answers.of(number + 1, known, has, mark))  # of a copy: training goes on
        self._told |= made.metrics

    def _next_weights(self, made: Made, now: str, weights: Callable[[], Weights]) -> tuple[str, Callable[[], Weights]]:
        """The sum of the weights that answer the round after `made`, and how they are had.

        Those that it says; where a resume has others and not all of these have answered, as steps that are done again may come
        out on a GPU, the ones that there are, and the round says so from then on.
        """
        if made.ahead == now:
            return now, weights
        if all(self._everyone(self._answers.are_there(made.number + 1, made.ahead))):
            return made.ahead, self._answers.weights_that_are_gone(made.number + 1, made.ahead)
        if dist.get_rank() == 0:
            write_round(self._stage.folder, replace(made, ahead=now))
        dist.barrier()
        return now, weights

    def _checksum(self, weights: Weights) -> str:
        """Of all weights, each rank reading a part of them."""
        own = sorted(weights)[dist.get_rank() :: dist.get_world_size()]
        return combined({name: some for part in self._everyone(digests(weights, own)) for name, some in part.items()})

    def _keep_point(self, number: int, weights: Weights) -> None:
        """The weights that a round begins with, for the mean of the last. A run that goes on within the round has them."""
        folder = self._stage.folder / POINTS_FOLDER / f"{number:05d}"
        if dist.get_rank() or folder.exists():
            return
        draft = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)
        (draft / MODEL_FOLDER).mkdir(parents=True)
        self._asked.write(weights, draft / MODEL_FOLDER)
        secure_tree(draft)
        draft.rename(folder)

    def step_done(self, step: int, samples: range, *, left_out: bool) -> None:
        """As `Rounds`."""
        self._reached = samples.stop * self._settings.sequence_length
        if dist.get_rank() == 0:
            learnt = [found for sample in samples if (found := self._at(sample)) is not None]
            self._ledger.add(step, samples.start // self.samples, learnt, left_out=left_out)

    def settle(self, step: int, says: LogProbs) -> None:
        """As `Rounds`. What these weights say of some answers is kept beside the save."""
        self._wait()
        look = self._look(step, says)
        if dist.get_rank() == 0:
            self._ledger.secure()
            looks = {**self._looks(), str(step): look}
            kept = sorted(looks, key=int)[-self._settings.checkpoint.keep - 1 :]  # this save may not be finished
            write_json(self._stage.folder / LOOKED_AT, {name: looks[name] for name in kept})

    def resume(self, step: int, says: LogProbs) -> None:
        """As `Rounds`. What the weights say of the same answers now is told beside what they said when they were saved."""
        if dist.get_rank() == 0:
            self._ledger.resume(step)
        [saved, *_] = self._everyone(self._looks().get(str(step)) if dist.get_rank() == 0 else None)
        if not saved:
            return
        now = self._look(step, says)
        if dist.get_rank():
            return
        jump = max((abs(a - b) for a, b in zip(saved, now, strict=True)), default=0.0)
        print(f"log-probabilities are at most {jump:.1e} nats from those at the save, over {len(now)} tokens", flush=True)
        self._stage.spool.metrics(step, {"resume_log_prob_jump": jump})

    def _looks(self) -> dict[str, list[float]]:
        """What was kept beside the last saves, by step."""
        path = self._stage.folder / LOOKED_AT
        found: dict[str, list[float]] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def _look(self, step: int, says: LogProbs) -> list[float]:
        """The log-probabilities of some answers that were learnt from last."""
        [some, *_] = self._everyone(self._learnt_last(step) if dist.get_rank() == 0 else [])
        return [said for row in says(some) for said in row]

    def _learnt_last(self, step: int) -> list[Drawn]:
        rows = read_ledger(self._stage.folder / LEDGER)
        learnt = next((row for row in reversed(rows) if row["step"] <= step and row["answers"]), None)
        made = read_round(self._stage.folder, learnt["round"]) if learnt else None
        if made is None or learnt is None:
            return []
        wanted = set(learnt["answers"][:LOOKS])
        return [self._drawn(answer) for answer in made.answers if answer.id in wanted]

    def metrics(self) -> dict[str, float]:
        """As `Rounds`."""
        everyone = self._everyone(self._watched())
        told, self._told = self._told, {}
        return {**told, **sum(everyone, policy.Watched()).metrics()}

    def close(self) -> None:
        """End engines and workers, whatever went wrong."""
        with contextlib.ExitStack() as all_of_them:
            all_of_them.callback(self._rewarder.close)
            all_of_them.callback(self._answers.close)
            if self._ahead is not None:
                self._ahead.join()

    def _wait(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.wait(self._beat_again)

    # A round.

    def _make(self, number: int, weights: Callable[[], Weights], now: str, says: LogProbs, summing: float) -> Made:
        entered, settings = time.perf_counter(), self._settings
        self._wait()
        began = time.perf_counter()
        before = await_round(self._stage.folder, number - 1) if number else None
        stale = before is not None and bool(before.ahead)
        has = before.ahead if before is not None and stale else now
        known = weights if has == now else self._answers.weights_that_are_gone(number, has)
        own, watched = self._answers.of(number, known, has, lambda: self._beat(number))
        answered = time.perf_counter()
        slots = self._answers.slots(number)
        prompts = {place: slot.prompt for place, slot in enumerate(slots)}
        goes_on = open_slots(own)  # a group is one rank's
        whole = [answer for answer in own if answer.slot not in goes_on]
        rewarded = self._everyones(self._rewarder.reward(whole, prompts, lambda: self._beat(number)))
        left = self._everyones([answer for answer in own if answer.slot in goes_on])
        judged = time.perf_counter()
        self._beat(number)
        lessons = self._lessons.of(number, rewarded, before.moments if before else {})
        answers = sorted([*self._measured(lessons.answers, says, now=not (stale or settings.tokens_a_round)), *left], key=_place)
        tokens = sum(len(answer.tokens) for answer in answers) - sum(len(a.tokens) for slot in slots for a in slot.said)
        measured = time.perf_counter()
        self._told |= {
            "rollout_tokens_per_second": tokens / max(1e-9, answered - began),
            "rewards_per_second": len(answers) / max(1e-9, judged - answered),
            "round_seconds": measured - entered + summing,
            "round_seconds/weights": summing,
            "round_seconds/waiting": began - entered,
            "round_seconds/rollouts": answered - began,
            "round_seconds/rewards": judged - answered,
            "round_seconds/log_probs": measured - judged,
        }
        ahead = now if settings.staleness else ""
        metrics = {**lessons.metrics, "staleness": float(stale)}
        asked = 0
        if settings.tokens_a_round:
            asked = (before.asked if before else 0) + sum(not slot.said for slot in slots)
            metrics |= _spread(answers, settings.prompts)
        return Made(number, has, int(stale), ahead, tuple(answers), tuple(watched), metrics, lessons.moments, asked)

    def _measured(self, answers: Sequence[Answered], says: LogProbs, *, now: bool) -> list[Answered]:
        """With the log-probabilities of what is learnt from, and what KL-Cov holds back.

        `now`: the round's first weights have drawn them, every token.
        """
        objective = self._settings.objective
        learnt = sorted((a for a in answers if a.advantage is not None), key=lambda a: (len(a.tokens), a.id))
        rows = [self._drawn(answer) for answer in learnt]
        old = (self._as_drawn(rows, says) if now and len(rows) > COMPARED else None) or says(rows)
        reference = self._reference(rows) if self._reference is not None else [()] * len(rows)
        measured = sorted((replace(a, old=o, reference=r) for a, o, r in zip(learnt, old, reference, strict=True)), key=_place)
        found = {answer.id: answer for answer in measured}
        if objective.kl_cov:
            chosen = chosen_by_covariance([(a.old, a.advantage or 0.0) for a in measured], objective.kl_cov_share)
            found = {answer.id: replace(answer, chosen=some) for answer, some in zip(measured, chosen, strict=True)}
        return [found.get(answer.id, answer) for answer in answers]

    @staticmethod
    def _as_drawn(rows: Sequence[Drawn], says: LogProbs) -> list[tuple[float, ...]] | None:
        """What the engine drew by, where the trainer says the same of some answers: it need not say it of all."""
        some = rows[:: len(rows) // COMPARED]
        return [row.log_probs for row in rows] if most_apart(some, says(some)) <= SAME_NATS else None

    def _everyones(self, own: Sequence[Answered]) -> list[Answered]:
        """All ranks' answers, in the order of their slots."""
        return sorted((answer for some in self._everyone(own) for answer in some), key=_place)

    @staticmethod
    def _everyone(own: Any) -> list[Any]:
        """What every rank has to say, by rank."""
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, own)
        return everyone

    def _agree(self, made: Made | None) -> Made | None:
        """Only what every rank sees is there: on a shared file system one may see a file later."""
        return made if all(self._everyone(made is not None)) else None

    def _beat(self, number: int) -> None:
        """No token is learnt while a round is answered, and yet it goes on."""
        self._reached = number * self.samples * self._settings.sequence_length
        self._beat_again()

    def _beat_again(self) -> None:
        self._stage.progress(self._reached, self._settings.token_budget, "tokens")

    def _clean(self, number: int) -> None:
        """The shards of a round that is on the disk have had their day."""
        for folder in (self._stage.folder / ROUNDS).glob(f"{number:05d}-*"):
            shutil.rmtree(folder, ignore_errors=True)


def _place(answer: Answered) -> tuple[int, int]:
    return answer.slot, answer.number


def _spread(answers: Sequence[Answered], prompts: int) -> dict[str, float]:
    """Over how many rounds answers go, and the share of groups that are not learnt from yet."""
    goes_on = open_slots(answers)
    ended = [answer for answer in answers if answer.slot not in goes_on]
    told = {"groups/open_share": len(goes_on) / prompts}
    return told | ({"rounds_an_answer": sum(len(answer.spans) for answer in ended) / len(ended)} if ended else {})
