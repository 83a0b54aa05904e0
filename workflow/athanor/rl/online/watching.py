"""What is watched of a round's answers, to see rewards that are earned otherwise than meant: by length, repetition, trouble."""

from collections.abc import Sequence
from dataclasses import dataclass

from athanor.rl.online.advantages import Group


@dataclass(frozen=True)
class Seen:
    """One answer, beside its reward."""

    tokens: int
    repeated: float  # share of its runs of words that it said before, 0 to 1
    troubled: bool  # its verifier broke on it, or another one disagreed


def watch(groups: Sequence[Group], seen: Sequence[Sequence[Seen]]) -> dict[str, float]:
    """Metrics of a round: means over all answers, and over those rewarded above and below their group's mean.

    Beside the same prompt's others, since over prompts easy ones with short answers would look like a preference for the short.
    `seen` is aligned with the groups' rewards. Nothing is said of what there is none of.
    """
    parts: dict[str, list[Seen]] = {"": [], "_above": [], "_below": []}
    for group, answers in zip(groups, seen, strict=True):
        mean = sum(group.rewards) / len(group.rewards)
        for reward, answer in zip(group.rewards, answers, strict=True):
            parts[""].append(answer)
            if group.is_mixed and reward != mean:
                parts["_above" if reward > mean else "_below"].append(answer)
    metrics = {}
    for part, some in parts.items():
        if some:
            metrics[f"answer_tokens{part}"] = _mean([answer.tokens for answer in some])
            metrics[f"repeated_share{part}"] = _mean([answer.repeated for answer in some])
            metrics[f"troubled_share{part}"] = _mean([answer.troubled for answer in some])
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
