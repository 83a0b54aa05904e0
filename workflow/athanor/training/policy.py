"""What is learnt from answers and their advantages: the losses of online RL, on log-probabilities alone.

Every term is of a token: the policy gradient of GRPO and its family, or OREAL's, and the two divergences that may hold it back.
docs/online-rl.md has the formulas with their sources.
"""

from dataclasses import dataclass

import torch

from athanor.recipe.schema.choices import Grain, PolicyLoss
from athanor.recipe.schema.online import Objective


@dataclass(frozen=True)
class Answered:
    """A micro-batch of answers; all [samples, seq] but where said, log-probabilities in nats."""

    new: torch.Tensor  # of the tokens under the weights that learn, differentiable
    old: torch.Tensor  # under the weights at the beginning of the round, as the trainer computes them
    drawn: torch.Tensor  # as the rollout engine said when it drew them
    counts: torch.Tensor  # 1 where a token is of the answer, else 0: nothing else is looked at there
    advantages: torch.Tensor  # [samples]
    right: torch.Tensor  # [samples], 1 for an answer that OREAL clones, else 0; `clipped` does not read it
    chosen: torch.Tensor  # bool, the tokens that KL-Cov holds back: `choose`
    reference: torch.Tensor | None = None  # under the weights that training started from


def weights(counts: torch.Tensor, settings: Objective) -> torch.Tensor:
    """[samples], float64: what each answer weighs in the mean of a step, from `counts` [samples, seq].

    Its tokens (DAPO's token-level loss, Yu et al. 2025), or 1 for each answer that has any (GRPO, Shao et al. 2024, equation 3).
    """
    tokens = counts.sum(dim=1, dtype=torch.float64)
    return tokens if settings.mean is Grain.TOKEN else (tokens > 0).double()


def losses(answered: Answered, settings: Objective) -> torch.Tensor:
    """[samples], float64: of each answer the sum that its weight divides, in nats, differentiable.

    The step's loss is the sum of these over the sum of `weights`, however answers are spread over micro-batches and ranks. Where
    answers count alike, each has the mean over its tokens.

    `clipped` is the clipped policy gradient. `oreal` has the two terms of OREAL's outcome objective (Lyu et al. 2025,
    2502.06781): right answers are cloned, -log p with weight 1 whatever their advantage; wrong ones are pushed down by the same
    policy gradient, `negatives` times, with the advantages that the caller gives (the paper's, from rewards reshaped by 1 - p:
    `athanor.rl.online.advantages.oreal`). Not there: the paper's token reward model, which weighs tokens within an answer; all
    weigh alike. The paper's gradient of wrong answers is not clipped either.

    Both divergences count beside, unweighted by the rollout engine's mismatch: `reference_kl` that from the start, `kl_cov` that
    from the round's first weights, of the chosen tokens (Cui et al. 2025, over all tokens as there). Raises ValueError for the
    first without `reference`.
    """
    counted = answered.counts > 0
    moved = _where(counted, answered.new - answered.old)
    by_token = _clipped(answered, moved, settings)
    if settings.kind is PolicyLoss.OREAL:
        cloned = -_where(counted, answered.new)
        by_token = torch.where(answered.right[:, None] > 0, cloned, settings.negatives * by_token)
    if settings.reference_kl:
        by_token = by_token + settings.reference_kl * _excess(_where(counted, _reference(answered) - answered.new))
    if settings.kl_cov:
        by_token = by_token + settings.kl_cov * _where(answered.chosen, _excess(moved))
    counts = answered.counts.double()
    sums = (by_token * counts).sum(dim=1)
    return sums if settings.mean is Grain.TOKEN else sums / counts.sum(dim=1).clamp(min=1)


def choose(old: torch.Tensor, advantages: torch.Tensor, counts: torch.Tensor, share: float) -> torch.Tensor:
    """[samples, seq], bool: the tokens that KL-Cov holds back, of all answers of a step or a round at once.

    `old` and `counts` are [samples, seq], `advantages` [samples]; torch tensors, computed in float64 where they are. They are the
    max(1, floor(share x tokens)) of the largest (log p - mean)(A - mean), means over the tokens that count (Cui et al. 2025);
    the earlier one of equals, none where nothing counts.

    Ranked by the weights at the beginning of the round. The paper's code ranks by those that learn, within a micro-batch: there
    the size of a micro-batch decides what is learnt, here data alone does.
    """
    places = (counts > 0).flatten().nonzero()[:, 0]
    chosen = torch.zeros(counts.numel(), dtype=torch.bool, device=counts.device)
    if len(places):
        said = old.double().flatten()[places]
        gained = advantages.double()[:, None].expand(counts.shape).flatten()[places]
        together = (said - said.mean()) * (gained - gained.mean())
        largest = together.argsort(descending=True, stable=True)[: max(1, int(share * len(places)))]
        chosen[places[largest]] = True
    return chosen.view(counts.shape)


@dataclass(frozen=True)
class Watched:
    """How far weights have gone, and the rollout engine is from the trainer: sums over tokens, to add up over micro-batches and
    ranks."""

    tokens: float = 0.0
    divergence: float = 0.0  # nats: KL(old || new), whose samples the answers are
    reference: float = 0.0  # nats: KL(new || reference); 0 where that does not count
    clipped: float = 0.0  # tokens whose gradient is stopped
    engine: float = 0.0  # nats: |old - drawn|
    truncated: float = 0.0  # tokens whose importance weight is cut
    engine_most: float = 0.0  # nats: the largest |old - drawn|, no sum

    def __add__(self, other: "Watched") -> "Watched":
        return Watched(
            self.tokens + other.tokens,
            self.divergence + other.divergence,
            self.reference + other.reference,
            self.clipped + other.clipped,
            self.engine + other.engine,
            self.truncated + other.truncated,
            max(self.engine_most, other.engine_most),
        )

    def metrics(self) -> dict[str, float]:
        """Means over tokens in nats, and shares of them, by name; nothing where there was no token."""
        if not self.tokens:
            return {}
        start = {"kl_from_start": self.reference / self.tokens} if self.reference else {}
        return {
            "kl_from_round": self.divergence / self.tokens,
            **start,
            "clipped_share": self.clipped / self.tokens,
            "engine_mismatch": self.engine / self.tokens,
            "engine_mismatch_most": self.engine_most,
            "truncated_share": self.truncated / self.tokens,
        }


@torch.no_grad()
def watch(answered: Answered, settings: Objective) -> Watched:
    """Of one micro-batch."""
    counted, counts = answered.counts > 0, answered.counts.double()
    moved = _where(counted, answered.new - answered.old)
    mismatch = _where(counted, answered.old - answered.drawn)
    away = _where(counted, _reference(answered) - answered.new) if settings.reference_kl else torch.zeros_like(moved)
    by_token = [
        torch.ones_like(counts),
        _excess(moved),
        _excess(away),
        _stopped(answered, moved, settings),
        mismatch.abs(),
        mismatch.exp() > settings.truncate,
    ]
    sums = [(values * counts).sum() for values in by_token]
    return Watched(*torch.stack([*sums, mismatch.abs().amax().double()]).tolist())


def _clipped(answered: Answered, moved: torch.Tensor, settings: Objective) -> torch.Tensor:
    """[samples, seq]: -w min(r A, clip(r) A).

    A ratio of the sequence (GSPO, Zheng et al. 2025) stands at each of its tokens, whose mean it is then, while the weight
    w = min(p_old / p_drawn, truncate) stays the token's: together they are the sequence's term times the mean of its tokens'
    weights. Without gradient, w corrects for the engine (Yao et al. 2025).
    """
    ratio, gain = _ratio(answered, moved, settings), answered.advantages[:, None]
    bounded = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    ahead = _where(answered.counts > 0, answered.old - answered.drawn).detach()
    return -torch.minimum(ratio * gain, bounded * gain) * ahead.exp().clamp(max=settings.truncate)


def _ratio(answered: Answered, moved: torch.Tensor, settings: Objective) -> torch.Tensor:
    """[samples, seq]: p_new / p_old of each token, or its geometric mean over the answer's."""
    if settings.ratio is Grain.TOKEN:
        return moved.exp()
    tokens = answered.counts.sum(dim=1, keepdim=True).clamp(min=1)
    return (moved.sum(dim=1, keepdim=True) / tokens).exp().expand_as(moved)


def _stopped(answered: Answered, moved: torch.Tensor, settings: Objective) -> torch.Tensor:
    """[samples, seq], bool: where clipping stops the gradient."""
    ratio, gain = _ratio(answered, moved, settings), answered.advantages[:, None]
    beyond = ((gain > 0) & (ratio > 1 + settings.clip_high)) | ((gain < 0) & (ratio < 1 - settings.clip_low))
    return beyond & (answered.right[:, None] <= 0) if settings.kind is PolicyLoss.OREAL else beyond


def _excess(log_ratio: torch.Tensor) -> torch.Tensor:
    """r - 1 - log r >= 0 of log r: where samples are of q, the unbiased estimate k3 of KL(q || p) by r = p / q (Schulman 2020).

    Its gradient at log r = 0 is exactly 0.
    """
    return torch.expm1(log_ratio) - log_ratio


def _where(counted: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """0 elsewhere: 0 times what padding says would not be 0 where that is infinite."""
    return torch.where(counted, values, torch.zeros_like(values))


def _reference(answered: Answered) -> torch.Tensor:
    if answered.reference is None:
        raise ValueError("objective.reference_kl is above 0, but Answered.reference is None; give the start's, or set it to 0")
    return answered.reference
