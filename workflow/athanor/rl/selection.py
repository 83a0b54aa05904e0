"""Which answers are learnt from: the best of N of the questions that are neither too easy nor too hard, and a control's.

Intern-S1 drops questions that two models answer always (pass rate 1) or hardly ever (at most 1/4) out of eight samples each.
Applied to all questions alike that starves the families that are still weak, whose questions are nearly all hard; so it is
applied family by family, and a family keeps at least a floor of the questions that the model answered right at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from athanor.recipe.schema.post_training import PassRateFilter
from athanor.rewards.scores import Scores

SELECTION_FILE = "selection.json"


@dataclass(frozen=True)
class Candidate:
    """One answer of the policy that is trained."""

    prompt: str
    number: int
    text: str
    scores: Scores
    total: float
    log_prob: float  # mean over its tokens, nats
    tokens: int

    @property
    def is_learnable(self) -> bool:
        """Right, and nothing forbidden in it."""
        return self.scores.accuracy == 1.0 and self.scores.safety == 1.0


@dataclass(frozen=True)
class Kept:
    """The questions of one family that are learnt from, and why the others are not."""

    prompts: tuple[str, ...]
    unanswered: int  # nothing among the answers could be learnt
    easy: int
    hard: int
    floor: int  # kept although hard

    def counters(self) -> dict[str, int]:
        """The counts, for the manifest."""
        return {
            "kept": len(self.prompts),
            "unanswered": self.unanswered,
            "easy": self.easy,
            "hard": self.hard,
            "kept_by_floor": self.floor,
        }


def answerable(candidates: Mapping[str, Sequence[Candidate]]) -> set[str]:
    """The questions that were given an answer which can be learnt."""
    return {prompt for prompt, some in candidates.items() if any(candidate.is_learnable for candidate in some)}


def keep(pass_rates: Mapping[str, float], learnable: Collection[str], rule: PassRateFilter) -> Kept:
    """The questions to learn from, in the order of `pass_rates`, each a mean over all models' samples.

    `learnable` are those that have an answer which can be learnt.
    """
    answered = [prompt for prompt in pass_rates if prompt in learnable]
    easy = [prompt for prompt in answered if pass_rates[prompt] >= rule.drop_from]
    hard = [prompt for prompt in answered if pass_rates[prompt] <= rule.drop_up_to and prompt not in set(easy)]
    kept = set(answered) - set(easy) - set(hard)
    missing = max(0, round(rule.floor * len(answered)) - len(kept))
    # The least hard first; among equals an order that has nothing to do with where they stand.
    spared = sorted(hard, key=lambda prompt: (-pass_rates[prompt], lot(prompt, 0)))[:missing]
    kept |= set(spared)
    in_order = tuple(prompt for prompt in answered if prompt in kept)
    return Kept(in_order, len(pass_rates) - len(answered), len(easy), len(hard) - len(spared), len(spared))


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The learnable answer of the highest total; among equals the one that the model finds likeliest. Raises ValueError where
    none is learnable."""
    return max((c for c in candidates if c.is_learnable), key=lambda c: (c.total, c.log_prob, -c.number))


def drawn(candidates: Sequence[Candidate], seed: int) -> Candidate:
    """Any answer: the negative control, for which right and wrong are the same."""
    return min(candidates, key=lambda c: lot(f"{c.prompt}\0{c.number}", seed))


def lot(text: str, seed: int) -> bytes:
    """Sixteen bytes that nothing but `text` and `seed` decide."""
    return blake2b(text.encode(errors="surrogateescape"), digest_size=16, key=seed.to_bytes(16, "little")).digest()
