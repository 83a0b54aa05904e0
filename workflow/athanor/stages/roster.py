"""Who continues which prefixes: the plan that stages `trajectories` and `triples` make alike from recipe and documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from athanor.artifacts.run import StageError, StageRun
from athanor.data.documents import HELD_OUT_FILE, Document, read_documents, training_file
from athanor.recipe.finetuning import TURN_ENDS
from athanor.recipe.reward import roster
from athanor.rewards.polar.prefixes import Continued, assign, prefixes
from athanor.rewards.polar.roster import Policy, divide
from athanor.rewards.polar.triples import Limits
from athanor.rl.trajectories import Speech

BYTES_A_TOKEN = 16  # of text read for a prefix: more than tokens of prose have


@dataclass(frozen=True)
class Plan:
    """Prefixes with their two policies: training documents for training's policies, held-out ones for the test's."""

    train: tuple[Continued, ...]
    test: tuple[Continued, ...]

    @property
    def all(self) -> tuple[Continued, ...]:
        """Both."""
        return (*self.train, *self.test)


def plan(stage: StageRun, tokenizer: PreTrainedTokenizerFast) -> Plan:
    """By (recipe, documents) alone, so that every model's stage knows its share. Raises StageError where there are too few."""
    settings, seed = stage.recipe.reward, stage.recipe.seed
    everyone = [Policy(label, label, temperature) for label in roster(stage.recipe) for temperature in settings.temperatures]
    divided = divide(everyone, settings.test_models, seed)
    sides = []
    for held_out, most, policies in ((False, settings.prefixes, divided.train), (True, settings.test_prefixes, divided.test)):
        coded = _coded(stage, tokenizer, most, held_out=held_out)
        found = list(islice(prefixes(coded, settings.shortest_prefix, settings.longest_prefix, seed), most))
        if not found:
            kind = "held-out" if held_out else "training"
            longest = settings.longest_prefix
            raise StageError(f"no {kind} document goes on behind its prefix; lower reward.longest_prefix={longest}")
        sides.append(tuple(assign(found, policies, seed)))
    return Plan(*sides)


def speech(stage: StageRun) -> Speech:
    """How the policies write."""
    settings = stage.recipe.reward
    return Speech(settings.max_new_tokens, stage.recipe.seed, settings.top_p, settings.top_k)


def limits(stage: StageRun) -> Limits:
    """Which texts make triples."""
    return Limits(stage.recipe.reward.shortest_text, stage.recipe.reward.shared)


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of an exported model."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def ends_of(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that end a text: the document's end, and a turn's where conversations were learnt."""
    known = tokenizer.get_vocab()
    return sorted({int(tokenizer.eos_token_id), *([known[TURN_ENDS]] if TURN_ENDS in known else [])})


def _coded(stage: StageRun, tokenizer: PreTrainedTokenizerFast, most: int, *, held_out: bool) -> Iterator[tuple[str, list[int]]]:
    """Documents `SOURCE/ID` with their first tokens, source by source in turns by the weights of pretraining's mixture."""
    longest = stage.recipe.reward.longest_prefix
    mixture = stage.recipe.pretrain.mixture
    total = sum(mixture.values())
    for source, weight in mixture.items():
        share = round(most * weight / total) or 1
        for document in islice(_documents(stage, source, held_out=held_out), share):
            text = document.text[: BYTES_A_TOKEN * (longest + 1)]
            yield f"{source}/{document.id}", tokenizer.encode(text, add_special_tokens=False)[: longest + 1]


def _documents(stage: StageRun, source: str, *, held_out: bool) -> Iterator[Document]:
    folder, shards = stage.input_named(source).folder, stage.recipe.data.sources[source].shards
    names = [HELD_OUT_FILE] if held_out else [training_file(shard, shards) for shard in range(shards)]
    for name in names:
        yield from read_documents(folder / name)
