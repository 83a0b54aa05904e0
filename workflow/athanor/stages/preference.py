"""Preference learning: from pairs of the fine-tuned model's answers, right before wrong; the control in half of them wrong before
right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import Conversation
from athanor.data.documents import read_rows
from athanor.data.permutation import permute, stream_key
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.graph import EXCHANGED
from athanor.rl.preferences import PAIRS_FILE, Pair, is_exchanged, measured_of
from athanor.stages.pretrain import failures_so_far
from athanor.stages.selection import message_of
from athanor.training.deepspeed.loop import train
from athanor.training.deepspeed.preference import TokenPair, preference_learning


def run(stage: StageRun) -> Outcome:
    """Train from the exported weights of the artifact `start`, which are the reference, too; instance `model` or `exchanged`."""
    settings, seed = stage.recipe.preference, stage.recipe.seed
    start = stage.input_named("start").folder / MODEL_FOLDER
    encoder = ChatEncoder(start)
    pairs = _pairs(stage, encoder)

    def order(sample: int, size: int) -> int:
        epoch, index = divmod(sample, size)
        return permute(index, size, stream_key(seed, "preference", epoch))

    task = preference_learning(settings, start, encoder.padding, lambda: pairs.learnt, order, lambda: pairs.measured)
    outcome = train(stage, replace(task, failures=lambda: failures_so_far(stage)))
    counters = {**outcome.counters, "pairs": len(pairs.learnt), "too_long": pairs.too_long}
    described = {"tokens": outcome.counters["tokens"], "kind": settings.kind.value, "pairs": len(pairs.learnt)}
    stage.spool.model(
        f"{stage.stage}-{stage.instance}", int(outcome.counters["step"]), MODEL_FOLDER, described, source="huggingface"
    )
    return replace(outcome, counters=counters)


@dataclass(frozen=True)
class _Pairs:
    """`measured` by task, in their true order; `learnt` as the instance wants it."""

    learnt: Sequence[TokenPair]
    measured: dict[str, Sequence[TokenPair]]
    too_long: int


def _pairs(stage: StageRun, encoder: ChatEncoder) -> _Pairs:
    settings, seed = stage.recipe.preference, stage.recipe.seed
    learnt: list[TokenPair] = []
    measured: dict[str, Sequence[TokenPair]] = {}
    too_long = 0
    for task in stage.recipe.offline.mixture:
        rows = [Pair(**row) for row in read_rows(stage.input_named(f"pairs-{task}").folder / PAIRS_FILE)]
        coded = {pair.id: _coded(pair, encoder) for pair in rows}
        fitting = {name: pair for name, pair in coded.items() if pair.length <= settings.sequence_length}
        too_long += len(coded) - len(fitting)
        if not fitting:
            continue
        kept = measured_of(fitting, settings.measured, seed)
        measured[task] = [pair for name, pair in fitting.items() if name in kept]
        for name, pair in fitting.items():
            if name not in kept:
                exchanged = stage.instance == EXCHANGED and is_exchanged(name, seed)
                learnt.append(replace(pair, chosen=pair.rejected, rejected=pair.chosen) if exchanged else pair)
    if not learnt:
        raise StageError(
            f"no pairs to learn from: {sum(map(len, measured.values()))} to measure, {too_long} longer than "
            f"preference.sequence_length={settings.sequence_length}; raise it or offline.prompts, or set preference.kind: none"
        )
    return _Pairs(learnt, measured, too_long)


def _coded(pair: Pair, encoder: ChatEncoder) -> TokenPair:
    """As the chat template writes them."""
    prompt = encoder.prompt(pair.messages, pair.tools)
    both = encoder.encode(Conversation(pair.id, [*pair.messages, message_of(text)], pair.tools) for text in _texts(pair))
    chosen, rejected = (tuple(coded.ids[len(prompt) :]) for coded in both)
    return TokenPair(prompt, chosen, rejected)


def _texts(pair: Pair) -> Iterator[str]:
    yield pair.chosen
    yield pair.rejected
