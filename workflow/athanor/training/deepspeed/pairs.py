"""Training of a reward model as a task of the loop: from a folder to a folder, on pairs of which the first is to win."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from athanor.recipe.schema.post_training import RewardTraining
from athanor.rewards.polar.model import Marked, marked_tokenizer, reward_model, write_reward_model
from athanor.rewards.polar.pairs import TripleReader, pair_loss
from athanor.rewards.polar.triples import Triple
from athanor.training.deepspeed.task import Batch, Measured, ModuleTask
from athanor.training.rounds import Weights

Triples = Callable[[Marked], Sequence[Triple]]  # as token ids of the tokenizer that is given


@dataclass(frozen=True)
class Start:
    """The folder that training goes on from: a decoder's, which gets a head drawn from `seed`, or a reward model's."""

    folder: Path
    longest: int  # tokens of a sequence
    fine_tuned: bool  # asks with a line break between prompt and answer
    seed: int

    def marked(self) -> Marked:
        """Its tokenizer with the two marks, and the template."""
        return marked_tokenizer(self.folder, self.longest, fine_tuned=self.fine_tuned)


class PairBatches:
    """Pairs by the numbers of their samples."""

    def __init__(self, reader: TripleReader) -> None:
        self._reader = reader

    def batch(self, samples: Sequence[int]) -> Batch:
        """`input_ids` and `attention_mask` [2 n, seq]: winners, then losers; each pair weighs 1."""
        made = self._reader.batch(samples)
        return Batch(made.tensors, made.weights)


def reward_training(settings: RewardTraining, start: Start, learnt: Triples, held_out: Mapping[str, Triples]) -> ModuleTask:
    """The task of training on `learnt`, in an order that the start's seed decides, to the end of the budget.

    Measured is the loss of `held_out`, of each as many pairs as `validation_tokens` allow but at least one.
    """

    def reader(triples: Triples, seed: int | None) -> TripleReader:
        marked = start.marked()
        return TripleReader(triples(marked), marked.template, marked.padding, seed)

    def measured(triples: Triples) -> Measured:
        found = reader(triples, None)
        most = max(1, settings.validation_tokens // settings.sequence_length)
        return Measured(PairBatches(found), min(len(found.triples), most))

    def write(weights: Weights, folder: Path) -> None:
        marked = start.marked()
        write_reward_model(reward_model(start.folder, marked, start.seed), weights, folder, marked)

    return ModuleTask(
        settings=settings,
        zero=settings.zero,
        end_tokens=settings.token_budget,
        module=lambda: reward_model(start.folder, start.marked(), start.seed),
        batches=lambda: PairBatches(reader(learnt, start.seed)),
        loss=pair_loss,
        held_out=lambda: {name: measured(triples) for name, triples in held_out.items()},
        write=write,
        loss_of="sample",
    )
