"""What a round's rewarded answers teach: their advantages, which groups are dropped, and what is to be watched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from athanor.recipe.schema.choices import Comparison, OnlineControl, PolicyLoss, Route
from athanor.recipe.schema.online import Online
from athanor.rl.online import controls
from athanor.rl.online.advantages import Advantages, Group, Moments, compare, dropped, oreal, reweigh, shares_of
from athanor.rl.online.rounds import Answered
from athanor.rl.online.watching import Seen, watch

WORDS_ALIKE = 4  # in a row, said a second time, are a repetition


@dataclass(frozen=True)
class Taught:
    """A round: its answers with their advantages, what to tell of it, and the moments that the next one goes on from."""

    answers: tuple[Answered, ...]
    metrics: dict[str, float]
    moments: dict[str, list[float]]


class Lessons:
    """By the recipe's comparison, or the control that is trained; the same in every attempt."""

    def __init__(self, settings: Online, label: str, seed: int) -> None:
        """`label`: `model`, or the control's name."""
        self._settings, self._seed = settings, seed
        self._control = OnlineControl(label) if label in set(OnlineControl) else None

    def of(self, number: int, answers: Sequence[Answered], moments: Mapping[str, Sequence[float]]) -> Taught:
        """Of round `number`; `answers` in the order of slots and numbers, `moments` as the round before left them.

        Of no answers at all there is nothing to tell, and the moments stay.
        """
        if not answers:
            return Taught((), {}, {task: list(some) for task, some in moments.items()})
        slots: dict[int, list[Answered]] = {}
        for answer in answers:
            slots.setdefault(answer.slot, []).append(answer)
        true = [_group(some) for some in slots.values()]
        groups = self._rewarded(true, number)
        known = Moments.of(moments)
        if self._settings.comparison is Comparison.EMA:
            known = known.after(groups, self._settings.ema)
        found = self._compared(groups, known)
        taught = [
            replace(answer, advantage=None if one is None else float(one[place]), reward=group.rewards[place])
            for some, group, one in zip(slots.values(), groups, found, strict=True)
            for place, answer in enumerate(some)
        ]
        return Taught(tuple(taught), _metrics(true, groups, found, list(slots.values())), known.row())

    def _rewarded(self, groups: list[Group], number: int) -> list[Group]:
        if self._control is OnlineControl.RANDOM:
            return controls.random(groups, self._seed, number)
        if self._control is OnlineControl.SHUFFLED:
            return controls.shuffled(groups, self._seed, number)
        return groups

    def _compared(self, groups: list[Group], moments: Moments) -> list[Advantages]:
        settings = self._settings
        kind = settings.objective.kind
        found = oreal(groups) if kind is PolicyLoss.OREAL else compare(groups, settings.comparison, moments)
        return reweigh(groups, found, settings.shares) if settings.shares else found


def _group(answers: Sequence[Answered]) -> Group:
    first = answers[0]
    return Group(first.prompt, first.task, Route(first.route), tuple(answer.reward for answer in answers))


def _metrics(
    true: Sequence[Group], groups: Sequence[Group], found: Sequence[Advantages], asked: Sequence[Sequence[Answered]]
) -> dict[str, float]:
    answers = [answer for some in asked for answer in some]
    tokens = sum(len(answer.tokens) for answer in answers)
    rewards: dict[str, list[float]] = {}
    for group in true:
        rewards.setdefault(group.task, []).extend(group.rewards)
    told = {f"reward/{task}": sum(some) / len(some) for task, some in rewards.items()}
    judged: dict[str, list[bool]] = {}
    for answer in answers:
        if answer.right is not None:
            judged.setdefault(answer.family, []).append(answer.right)
    told |= {f"pass_rate/{family}": sum(some) / len(some) for family, some in judged.items()}
    everything = [right for some in judged.values() for right in some]
    if everything:
        told["pass_rate"] = sum(everything) / len(everything)
    # Answers are drawn from the policy itself, so the mean of -log p over their tokens is an unbiased estimate.
    told["entropy"] = -sum(sum(answer.log_probs) for answer in answers) / tokens
    told["cut"] = sum(answer.finish != "stop" for answer in answers) / len(answers)
    for task, some in dropped(groups).items():
        told |= {f"groups/{name}/{task}": float(count) for name, count in some.counters().items()}
    told["groups/learnt_share"] = sum(one is not None for one in found) / len(found)
    told |= {f"advantages/{route}": share.total for route, share in shares_of(groups, found).routes.items()}
    seen = [[Seen(len(answer.tokens), _repeated(answer.text), bool(answer.trouble)) for answer in some] for some in asked]
    return told | watch(groups, seen)


def _repeated(text: str) -> float:
    """The share of its runs of words that it said before."""
    words = text.split()
    runs = [tuple(words[at : at + WORDS_ALIKE]) for at in range(len(words) - WORDS_ALIKE + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0
