"""The numbers of a whole campaign in one place: what its stages measured, joined by domain and by task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from athanor.artifacts.files import write_json
from athanor.artifacts.strict_json import number, read_lines
from athanor.evaluation.difficulty import NodeDifficulty
from athanor.evaluation.rankings import Chosen, PairLoss, Ranking
from athanor.evaluation.rounds import HandedOver, OnlineRounds
from athanor.evaluation.scores import ScoreRow

RESULTS_FILE = "results.json"
SCHEMA_VERSION = 1


class ResultsError(Exception):
    """Inputs of a report that do not fit together."""


@dataclass(frozen=True)
class CurvePoint:
    """One logged training step."""

    tokens: int  # trained so far
    loss: float  # nats a token; nan where the step was left out because it gave no number
    lr: float


@dataclass(frozen=True)
class Training:
    """One training artifact: a milestone, or the shuffled control."""

    label: str
    tokens: int  # trained when it ended
    curve: Sequence[CurvePoint]
    validation: Mapping[str, float]  # domain → nats a token
    bits_per_byte: Mapping[str, float]
    expert_load: NDArray[np.int64] | None = None
    """Assignments [parts of the milestone, layers, experts]; None in artifacts of before they were counted."""


@dataclass(frozen=True)
class DomainLoss:
    """Validation loss of a domain beside what it must beat, in nats a token. Margins are positive where the model is better."""

    domain: str
    model: float
    bits_per_byte: float
    unigram: float
    bigram: float
    shuffled: float | None

    @property
    def margins(self) -> dict[str, float]:
        """How much lower the model's loss is than each baseline's."""
        others = {"unigram": self.unigram, "bigram": self.bigram, "shuffled": self.shuffled}
        return {name: loss - self.model for name, loss in others.items() if loss is not None}


@dataclass(frozen=True)
class TaskLoss:
    """Loss of a fine-tuning task's held-out responses, in nats a token of them: the model beside what it must beat."""

    task: str
    tokens: int  # of the responses
    model: float
    base: float  # before fine-tuning
    shuffled: float | None  # fine-tuned on other prompts' responses

    @property
    def margins(self) -> dict[str, float]:
        """How much lower the model's loss is than each other's."""
        return {name: loss - self.model for name, loss in (("base", self.base), ("shuffled", self.shuffled)) if loss is not None}


@dataclass(frozen=True)
class PassRates:
    """How often one model answers a task's held-out questions right: its likeliest answers, and those drawn at temperature 1."""

    model: str  # base, sft, …
    task: str
    questions: int
    samples: int  # a question, of those drawn
    greedy: float
    greedy_stderr: float
    sampled: float
    sampled_stderr: float
    cut: float  # share of the drawn that were cut off, or ran in a loop
    constant: float  # the rate of always giving the commonest answer of the training conversations


@dataclass(frozen=True)
class Tried:
    """A mixture of a search: how much a short training on it lowers each task's loss of held-out responses, in nats a token."""

    name: str
    mixture: Mapping[str, float]  # shares
    gains: Mapping[str, float]  # by task

    @property
    def mean(self) -> float:
        """Over the tasks, each counting the same."""
        return sum(self.gains.values()) / len(self.gains)


@dataclass(frozen=True)
class Selected:
    """The training questions of one task of offline RL, and those whose best answers were learnt from."""

    task: str
    questions: int
    kept: int
    unanswered: int  # no right answer among the model's
    easy: int
    hard: int
    kept_by_floor: int  # hard ones among the kept
    pass_rate: float  # mean over the questions


@dataclass(frozen=True)
class CampaignResults:
    """Everything a report shows. Milestones are in order of tokens; the last one is the campaign's model."""

    name: str
    milestones: Sequence[Training]
    shuffled: Training | None
    domains: Sequence[DomainLoss]
    scores: Sequence[ScoreRow]
    tasks: Sequence[TaskLoss] = ()  # of fine-tuning
    answers: Sequence[PassRates] = ()
    selected: Sequence[Selected] = ()
    tried: Sequence[Tried] = ()  # the best mixture first
    rankings: Sequence[Ranking] = ()
    chosen: Sequence[Chosen] = ()
    pair_losses: Sequence[PairLoss] = ()
    difficulty: Sequence[NodeDifficulty] = ()  # of training questions, each node of the taxonomy before what is below it
    online: Sequence[OnlineRounds] = ()
    handed_over: Sequence[HandedOver] = ()

    @property
    def final(self) -> Training:
        """The last milestone."""
        return self.milestones[-1]


def read_training(folder: Path, label: str, tokens: int) -> Training:
    """`curve.jsonl`, `validation.json` and the expert load of a training artifact."""
    validation = json.loads((folder / "validation.json").read_text())
    return Training(
        label=label,
        tokens=tokens,
        curve=read_lines(folder / "curve.jsonl", CurvePoint),
        validation={domain: number(row["nats_per_token"]) for domain, row in validation.items()},
        bits_per_byte={domain: number(row["bits_per_byte"]) for domain, row in validation.items()},
        expert_load=np.load(load) if (load := folder / "checkpoint" / "expert_load.npy").is_file() else None,
    )


def read_fine_tuning(model: Path, shuffled: Path | None) -> list[TaskLoss]:
    """What the fine-tuned model, the weights it started from and its control make of the held-out responses."""
    after, before = (json.loads((model / name).read_text()) for name in ("validation.json", "validation_start.json"))
    control = json.loads((shuffled / "validation.json").read_text()) if shuffled else {}
    return [
        TaskLoss(
            task,
            int(row["tokens"]),
            float(row["nats_per_token"]),
            float(before[task]["nats_per_token"]),
            float(control[task]["nats_per_token"]) if control else None,
        )
        for task, row in sorted(after.items())
    ]


def read_pass_rates(model: str, path: Path) -> list[PassRates]:
    """What stage `answers` counted, a row a task."""
    ways = json.loads(path.read_text())
    return [
        PassRates(
            model,
            one["task"],
            one["prompts"],
            other["samples"],
            one["rate"],
            one["stderr"],
            other["rate"],
            other["stderr"],
            other["cut"],
            one["constant"],
        )
        for one, other in zip(ways["greedy"], ways["sampled"], strict=True)
    ]


def read_tried(name: str, mixture: Mapping[str, float], folder: Path) -> Tried:
    """What a short fine-tuning on a mixture made of the held-out responses."""
    after, before = (json.loads((folder / file).read_text()) for file in ("validation.json", "validation_start.json"))
    gains = {task: number(before[task]["nats_per_token"]) - number(row["nats_per_token"]) for task, row in sorted(after.items())}
    whole = sum(mixture.values())
    return Tried(name, {task: weight / whole for task, weight in mixture.items()}, gains)


def read_selected(task: str, path: Path) -> Selected:
    """What stage `selection` kept of a task's questions."""
    found = json.loads(path.read_text())
    rates = list(found.pop("pass_rates").values())
    return Selected(task, len(rates), **found, pass_rate=sum(rates) / len(rates))


def join(
    name: str,
    trainings: Sequence[Training],
    shuffled: Training | None,
    baselines: Mapping[str, Mapping[str, float]],
    scores: Sequence[ScoreRow],
    tasks: Sequence[TaskLoss] = (),
    answers: Sequence[PassRates] = (),
    selected: Sequence[Selected] = (),
    tried: Sequence[Tried] = (),
) -> CampaignResults:
    """Put a campaign's measurements together. Raises ResultsError when a domain of the model has no baseline."""
    if not trainings:
        raise ResultsError("the report was given no pretrain artifact; it needs at least one")
    milestones = sorted(trainings, key=lambda training: training.tokens)
    final = milestones[-1]
    if missing := sorted(final.validation.keys() - baselines.keys()):
        raise ResultsError(
            f"baselines lack the domains {', '.join(missing)} that {final.label} was validated on; run baselines again"
        )
    domains = [
        DomainLoss(
            domain=domain,
            model=loss,
            bits_per_byte=final.bits_per_byte[domain],
            unigram=float(baselines[domain]["unigram"]),
            bigram=float(baselines[domain]["bigram"]),
            shuffled=shuffled.validation.get(domain) if shuffled else None,
        )
        for domain, loss in sorted(final.validation.items())
    ]
    in_order = sorted(tried, key=lambda mixture: -mixture.mean)
    return CampaignResults(name, milestones, shuffled, domains, scores, tasks, answers, selected, in_order)


def write_results(path: Path, results: CampaignResults) -> None:
    """The machine-readable report."""
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "name": results.name,
            "tokens": results.final.tokens,
            "milestones": [
                {
                    "label": m.label,
                    "tokens": m.tokens,
                    "validation": dict(m.validation),
                    "bits_per_byte": dict(m.bits_per_byte),
                }
                for m in results.milestones
            ],
            "domains": [{**asdict(domain), "margins": domain.margins} for domain in results.domains],
            "scores": [asdict(row) for row in results.scores],
            "tasks": [{**asdict(task), "margins": task.margins} for task in results.tasks],
            "answers": [asdict(rates) for rates in results.answers],
            "selected": [asdict(selected) for selected in results.selected],
            "tried": [{**asdict(tried), "mean": tried.mean} for tried in results.tried],
            "rankings": [asdict(ranking) for ranking in results.rankings],
            "chosen": [asdict(chosen) for chosen in results.chosen],
            "pair_losses": [asdict(loss) for loss in results.pair_losses],
            **({"online": [asdict(rounds) for rounds in results.online]} if results.online else {}),
            **({"handed_over": [asdict(one) for one in results.handed_over]} if results.handed_over else {}),
            **({"difficulty": [asdict(node) for node in results.difficulty]} if results.difficulty else {}),
        },
    )
