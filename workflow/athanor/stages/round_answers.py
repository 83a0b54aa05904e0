"""Whom a round asks, and what they are answered by the weights of the moment: this rank's part of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from athanor.artifacts.run import StageError, StageRun
from athanor.data.chat import ChatEncoder
from athanor.data.permutation import permute, stream_key
from athanor.recipe.schema.online import Online
from athanor.rl.online.carrying import Slot, gone_on, slots_of
from athanor.rl.online.prompts import Curriculum, Pooled
from athanor.rl.online.rounds import OPEN, ROUNDS, Answered, await_round
from athanor.rl.rollouts.sampling import Prompt, Sampling
from athanor.stages.handover import Answerer
from athanor.training.rounds import Weights


class GoneError(StageError):
    """Answers are missing, and the weights that would give them are behind."""


@dataclass(frozen=True)
class Asked:
    """Who is asked what: the folder that training starts from, its tokenizer, and the prompts."""

    start: Path
    encoder: ChatEncoder
    pool: Mapping[str, Pooled]  # by id
    watched: Sequence[Pooled]
    write: Callable[[Weights, Path], None]  # a folder of other weights, which a server can serve


class RoundAnswers:
    """Of one rank. What a round asks follows from the pool, the recipe and the round before."""

    def __init__(self, stage: StageRun, settings: Online, asked: Asked, rounds: int) -> None:
        """`rounds`: in all."""
        self._stage, self._settings, self._asked = stage, settings, asked
        seed = stage.recipe.seed

        def order(draw: int, size: int, family: str) -> int:
            epoch, index = divmod(draw, size)
            return permute(index, size, stream_key(seed, "online", family, epoch))

        slots = rounds * settings.prompts
        self._curriculum = Curriculum(list(asked.pool.values()), settings.mixture, settings.curriculum, slots, order)
        self._answerer = Answerer(stage, asked.start, asked.encoder.ends, asked.write)
        self._ids: dict[str, tuple[int, ...]] = {}

    def close(self) -> None:
        """End the engine."""
        self._answerer.close()

    def ids_of(self, prompt: Pooled) -> tuple[int, ...]:
        """Its ids, which are looked up for every answer of every step."""
        if prompt.id not in self._ids:
            self._ids[prompt.id] = self._asked.encoder.prompt(prompt.messages, prompt.tools)
        return self._ids[prompt.id]

    def slots(self, number: int) -> list[Slot]:
        """What a round asks: by the pool and the recipe, and by what the one before left open."""
        prompts = self._settings.prompts
        if not self._settings.tokens_a_round:
            return [Slot(prompt) for prompt in self._curriculum.take(number * prompts, prompts)]
        before = await_round(self._stage.folder, number - 1) if number else None
        return slots_of(before, prompts, self._asked.pool, self._curriculum.take)

    def of(
        self, number: int, weights: Callable[[], Weights], has: str, on_shard: Callable[[], None] = lambda: None
    ) -> tuple[list[Answered], list[dict[str, Any]]]:
        """This rank's part of a round's answers, by the weights of the checksum `has`, and what it was to watch."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        if not self._answerer.is_shared:
            rank, ranks = (0, 1) if rank == 0 else (0, 0)
        folder, slots = self._folder(number, has), self.slots(number)
        # Row by row one further, so that tasks that come in turn are every rank's.
        own = [slot for slot in range(len(slots)) if ranks and (slot + slot // ranks) % ranks == rank]
        shards = folder / f"{rank}-of-{ranks}"
        found = self._first(
            number, {slot: slots[slot].prompt for slot in own if not slots[slot].said}, shards, weights, has, on_shard
        )
        said = [answer for slot in own for answer in slots[slot].said]
        found += [answer for answer in said if answer.finish != OPEN]
        found += self._further(number, [answer for answer in said if answer.finish == OPEN], shards, weights, has, on_shard)
        watched: list[dict[str, Any]] = []
        if rank == 0 and ranks and number % self._settings.watch_every_rounds == 0 and self._asked.watched:
            watched = self._watch(folder, weights, has, on_shard)
        return found, watched

    def are_there(self, number: int, has: str) -> bool:
        """Whether this rank's part is on the disk, by the weights of that checksum."""
        try:
            self.of(number, self.weights_that_are_gone(number, has), has)
        except GoneError:
            return False
        return True

    def _first(
        self,
        number: int,
        asked: Mapping[int, Pooled],
        shards: Path,
        weights: Callable[[], Weights],
        has: str,
        on_shard: Callable[[], None],
    ) -> list[Answered]:
        """Answers to prompts, by slot, that nobody has answered yet."""
        settings = self._settings
        prompts = [Prompt(f"{number}:{slot}:{prompt.id}", self.ids_of(prompt)) for slot, prompt in asked.items()]
        most = settings.tokens_a_round or settings.max_new_tokens
        sampling = Sampling(settings.samples, max_new_tokens=most, seed=self._stage.recipe.seed)
        found = []
        for sample in self._answerer.answer(prompts, sampling, shards, weights, has, on_shard) if prompts else []:
            slot = int(sample.prompt.split(":")[1])
            prompt = asked[slot]
            who = (prompt.id, prompt.task, prompt.family, prompt.route.value)
            if settings.tokens_a_round:
                nothing = Answered(slot, sample.number, *who, (), (), OPEN, "", 0.0, None)
                found.append(gone_on(nothing, sample, has, self._asked.encoder.decode, settings.max_new_tokens))
            else:
                said = (sample.tokens, sample.log_probs, sample.finish.value, self._asked.encoder.decode(sample.tokens))
                found.append(Answered(slot, sample.number, *who, *said, 0.0, None))
        return found

    def _further(
        self,
        number: int,
        answers: Sequence[Answered],
        shards: Path,
        weights: Callable[[], Weights],
        has: str,
        on_shard: Callable[[], None],
    ) -> list[Answered]:
        """Answers of earlier rounds with as many tokens more as a round gives."""
        by_name = {f"{number}:{answer.id}:{answer.prompt}": answer for answer in answers}
        prompts = [Prompt(name, self.ids_of(self._asked.pool[a.prompt]) + a.tokens) for name, a in by_name.items()]
        sampling = Sampling(1, max_new_tokens=self._settings.tokens_a_round, seed=self._stage.recipe.seed)
        folder = shards.with_name(f"{shards.name}-further")
        samples = self._answerer.answer(prompts, sampling, folder, weights, has, on_shard) if prompts else []
        decode, most = self._asked.encoder.decode, self._settings.max_new_tokens
        return [gone_on(by_name[sample.prompt], sample, has, decode, most) for sample in samples]

    def _watch(
        self, folder: Path, weights: Callable[[], Weights], has: str, on_shard: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """The likeliest answers to the held-out prompts that are looked at through training."""
        known = {prompt.id: prompt for prompt in self._asked.watched}
        prompts = [Prompt(prompt.id, self.ids_of(prompt)) for prompt in known.values()]
        sampling = Sampling(1, 0.0, max_new_tokens=self._settings.max_new_tokens)
        samples = self._answerer.answer(prompts, sampling, folder / "watched", weights, has, on_shard)
        return [{"prompt": s.prompt, "text": self._asked.encoder.decode(s.tokens), "finish": s.finish.value} for s in samples]

    def weights_that_are_gone(self, number: int, has: str) -> Callable[[], Weights]:
        """What raises GoneError where answers by weights that are behind are still to be drawn."""

        def weights() -> Weights:
            raise GoneError(
                f"answers of round {number} are missing below {self._folder(number, has)}, and the weights {has} that gave them "
                f"are behind; bring them back, or delete {self._stage.folder} and train anew"
            )

        return weights

    def _folder(self, number: int, has: str) -> Path:
        return self._stage.folder / ROUNDS / f"{number:05d}-{has}"
