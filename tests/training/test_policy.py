"""What is learnt from advantages: each loss by its formula, gradients where they act and nowhere else, sums in any split."""

import math
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from operator import add

import pytest
import torch

from athanor.recipe.schema.choices import Grain, PolicyLoss
from athanor.recipe.schema.online import Objective
from athanor.training.policy import Answered, Watched, choose, losses, watch, weights

LENGTHS = [5, 2, 7, 1, 4, 6]  # tokens of each answer
OREAL = Objective(kind=PolicyLoss.OREAL)


def _counts(lengths: list[int]) -> torch.Tensor:
    """Answers begin at the second place, as behind a prompt; the rest is padding."""
    places = torch.arange(max(lengths) + 2)
    return torch.stack([((places > 0) & (places <= length)).double() for length in lengths])


def _answered(lengths: list[int] = LENGTHS, *, moved: float = 0.3, seed: int = 0) -> Answered:
    """Log-probabilities at random, `moved` nats (standard deviation) from the round's first; float64."""
    random = torch.Generator().manual_seed(seed)
    counts = _counts(lengths)

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(counts.shape, dtype=torch.float64, generator=random)

    old = -noise(1.0).abs()
    return Answered(
        new=(old + noise(moved)).requires_grad_(),
        old=old,
        drawn=old + noise(0.5),
        counts=counts,
        advantages=torch.randn(len(lengths), dtype=torch.float64, generator=random),
        right=(torch.arange(len(lengths)) % 2).double(),
        chosen=torch.zeros_like(counts, dtype=torch.bool),
        reference=old + noise(0.4),
    )


def _one(new: float, *, old: float = -1.0, drawn: float | None = None, advantage: float = 1.0, right: float = 0.0) -> Answered:
    """An answer of one token."""

    def of(value: float) -> torch.Tensor:
        return torch.tensor([[value]], dtype=torch.float64)

    return Answered(
        new=of(new).requires_grad_(),
        old=of(old),
        drawn=of(old if drawn is None else drawn),
        counts=of(1.0),
        advantages=of(advantage)[0],
        right=of(right)[0],
        chosen=torch.tensor([[False]]),
    )


def _gradient(answered: Answered, settings: Objective) -> torch.Tensor:
    """[samples, seq], of the step's loss by `new`."""
    total = losses(answered, settings).sum() / weights(answered.counts, settings).sum()
    return torch.autograd.grad(total, answered.new)[0]


def _rows(answered: Answered, rows: slice) -> Answered:
    """A micro-batch."""
    names = ("new", "old", "drawn", "counts", "advantages", "right", "chosen", "reference")
    return Answered(**{name: getattr(answered, name)[rows] for name in names})


@pytest.mark.parametrize("mean", list(Grain))
@pytest.mark.parametrize("ratio", list(Grain))
@pytest.mark.parametrize("kind", list(PolicyLoss))
def test_micro_batches_add_up_to_the_step_in_any_split(kind: PolicyLoss, ratio: Grain, mean: Grain) -> None:
    settings = Objective(kind=kind, ratio=ratio, mean=mean, reference_kl=0.3, kl_cov=0.7, kl_cov_share=0.3)
    whole = _answered()
    whole = replace(whole, chosen=choose(whole.old, whole.advantages, whole.counts, settings.kl_cov_share))
    expected = losses(whole, settings).sum() / weights(whole.counts, settings).sum()
    for split in ([0, 6], [0, 1, 6], [0, 2, 4, 6], [0, 1, 2, 3, 4, 5, 6]):
        parts = [_rows(whole, slice(*bounds)) for bounds in pairwise(split)]
        total = torch.stack([losses(part, settings).sum() for part in parts]).sum()
        weighed = torch.stack([weights(part.counts, settings).sum() for part in parts]).sum()
        assert (total / weighed).item() == pytest.approx(expected.item(), abs=1e-14)
    means = torch.stack([losses(part, settings).sum() / weights(part.counts, settings).sum() for part in parts])
    if mean is Grain.TOKEN:
        assert abs((means.mean() - expected).item()) > 1e-3, "answers are unequally long: means of micro-batches are wrong"


def test_each_token_counts_alike_or_each_answer() -> None:
    answered = replace(_answered([1, 3], moved=0.0), advantages=torch.tensor([1.0, 5.0], dtype=torch.float64))
    answered = replace(answered, drawn=answered.old)
    for mean, expected in ((Grain.TOKEN, -(1 * 1 + 3 * 5) / 4), (Grain.SEQUENCE, -(1 + 5) / 2)):
        settings = Objective(mean=mean)
        total = losses(answered, settings).sum() / weights(answered.counts, settings).sum()
        assert total.item() == pytest.approx(expected)


def test_sample_that_fills_up_weighs_nothing_whatever_stands_there() -> None:
    """Padding of minus infinity, and a sample without tokens."""
    answered = _answered([3, 2])
    counts = answered.counts * torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    nowhere = torch.full_like(counts, -math.inf)
    settings = Objective(mean=Grain.SEQUENCE, reference_kl=0.1, kl_cov=0.1)
    assert weights(counts, settings).tolist() == [1.0, 0.0]
    assert weights(counts, Objective()).tolist() == [3.0, 0.0]
    new = torch.where(counts > 0, answered.new, nowhere).detach().requires_grad_()
    padded = replace(answered, counts=counts, new=new, old=torch.where(counts > 0, answered.old, nowhere))
    found = losses(padded, settings)
    assert found[0].item() == pytest.approx(losses(answered, settings)[0].item()) and found[1].item() == 0.0
    gradient = torch.autograd.grad(found.sum(), new)[0]
    assert bool((gradient[counts == 0] == 0).all()) and bool((gradient[counts > 0] != 0).any())


@pytest.mark.parametrize(
    ("advantage", "ratio", "acts"),
    [(1.0, 1.31, False), (1.0, 1.29, True), (1.0, 0.5, True), (-1.0, 0.79, False), (-1.0, 0.81, True), (-1.0, 2.0, True)],
)
def test_clipping_stops_the_gradient_on_its_own_side_alone(advantage: float, ratio: float, acts: bool) -> None:
    """Above 1 + 0.3 for what shall be likelier, below 1 - 0.2 for what shall not; a ratio gone the wrong way is pulled back."""
    answered = _one(-1.0 + math.log(ratio), advantage=advantage)
    settings = Objective(clip_low=0.2, clip_high=0.3)
    assert _gradient(answered, settings).item() == pytest.approx(-advantage * ratio if acts else 0.0)
    assert watch(answered, settings).clipped == (not acts)


@pytest.mark.parametrize(("ahead", "weight"), [(0.5, 0.5), (1.0, 1.0), (1.99, 1.99), (2.01, 2.0), (50.0, 2.0)])
def test_importance_weight_is_cut_beyond_truncate_and_nowhere_else(ahead: float, weight: float) -> None:
    answered, settings = _one(-1.1, drawn=-1.0 - math.log(ahead)), Objective(truncate=2.0)
    ratio = math.exp(-0.1)
    assert losses(answered, settings).item() == pytest.approx(-weight * ratio)
    assert _gradient(answered, settings).item() == pytest.approx(-weight * ratio)
    assert watch(answered, settings).truncated == (ahead > 2)


def test_sequence_ratio_is_the_geometric_mean_and_its_gradient_goes_to_all_tokens_alike() -> None:
    """GSPO: s = exp(mean(log p - log p_old)); of a sample the gradient is -s A / tokens at each token."""
    settings = Objective(ratio=Grain.SEQUENCE, mean=Grain.SEQUENCE, clip_low=0.9, clip_high=9.0)
    answered = _answered([4], moved=0.3)
    answered = replace(answered, drawn=answered.old)
    inside = answered.counts[0] > 0
    sequence = ((answered.new - answered.old)[0][inside].mean()).exp()
    expected = -sequence * answered.advantages[0]
    assert losses(answered, settings).item() == pytest.approx(expected.item())
    assert _gradient(answered, settings)[0][inside].tolist() == pytest.approx([expected.item() / 4] * 4)
    by_token = _gradient(answered, replace(settings, ratio=Grain.TOKEN))[0][inside]
    assert float(by_token.std() / by_token.mean().abs()) > 0.1, "each token has a ratio of its own otherwise"


def test_sequence_ratio_is_clipped_as_a_whole() -> None:
    answered = _answered([4], moved=0.0)
    up = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)  # one token, exp(2): the sequence's ratio exp(0.5)
    answered = replace(
        answered, new=(answered.old + up).requires_grad_(), drawn=answered.old, advantages=torch.ones(1, dtype=torch.float64)
    )
    by_sequence, by_token = Objective(ratio=Grain.SEQUENCE), Objective()
    assert not _gradient(answered, by_sequence).any() and watch(answered, by_sequence).clipped == 4
    assert _gradient(answered, by_token)[0].tolist() == pytest.approx([0, 0, -0.25, -0.25, -0.25, 0])
    assert watch(answered, by_token).clipped == 1


def test_sequence_ratio_goes_with_the_mean_of_its_tokens_importance() -> None:
    settings = Objective(ratio=Grain.SEQUENCE, mean=Grain.SEQUENCE, truncate=2.0)
    answered = _answered([4], moved=0.0)
    ahead = torch.tensor([[0.0, 0.5, 1.0, 1.5, 8.0, 1.0]], dtype=torch.float64).clamp(min=1e-3)
    answered = replace(answered, drawn=answered.old - ahead.log())
    assert losses(answered, settings).item() == pytest.approx(-answered.advantages.item() * (0.5 + 1.0 + 1.5 + 2.0) / 4)


def test_right_answer_is_cloned_and_wrong_one_is_pushed_down_by_its_advantage() -> None:
    """OREAL: -1 a token of the right, whatever ratio, advantage and engine; -negatives w r A of the wrong."""
    answered = _answered(moved=0.05)
    settings = replace(OREAL, negatives=0.5, truncate=2.0)
    gradient = _gradient(answered, settings) * sum(LENGTHS)
    clones, counted = answered.right > 0, answered.counts > 0
    assert torch.equal(gradient[clones], -answered.counts[clones])
    ratio, weight = (answered.new - answered.old).exp(), (answered.old - answered.drawn).exp().clamp(max=2.0)
    expected = (-0.5 * weight * ratio * answered.advantages[:, None]).where(counted, torch.tensor(0.0, dtype=torch.float64))
    torch.testing.assert_close(gradient[~clones], expected[~clones], atol=1e-12, rtol=0)
    assert not _gradient(answered, replace(settings, negatives=0.0))[~clones].any()


def test_wrong_answer_that_has_become_unlikely_is_left_alone() -> None:
    assert _gradient(_one(-1.5, advantage=-1.0), OREAL).item() == 0.0
    right = _one(-0.5, advantage=1.0, right=1.0)  # cloned on, though its ratio is beyond clipping
    assert _gradient(right, OREAL).item() == -1.0
    assert watch(_one(-1.5, advantage=-1.0), OREAL).clipped == 1 and watch(right, OREAL).clipped == 0


def test_divergence_from_the_start_is_the_estimate_of_grpo() -> None:
    """p_ref / p - log(p_ref / p) - 1 a token; its gradient, 1 - p_ref / p, pulls towards the start and is 0 there."""
    answered = replace(_answered(), advantages=torch.zeros(len(LENGTHS), dtype=torch.float64))
    settings = Objective(reference_kl=0.2)
    assert answered.reference is not None
    away = answered.reference - answered.new
    expected = 0.2 * ((away.exp() - 1 - away) * answered.counts).sum(dim=1)
    torch.testing.assert_close(losses(answered, settings), expected)
    gradient = _gradient(answered, settings) * sum(LENGTHS)
    torch.testing.assert_close(gradient, 0.2 * (1 - away.exp()) * answered.counts, atol=1e-12, rtol=0)
    assert not _gradient(replace(answered, reference=answered.new.detach()), settings).any()
    with pytest.raises(ValueError, match=r"reference_kl is above 0.*set it to 0"):
        losses(replace(answered, reference=None), settings)


def test_kl_cov_is_exactly_nothing_until_weights_move_then_holds_its_tokens_back() -> None:
    """A policy over six words; two mini-batches of one round. In the first the gradients are the same to the last bit."""
    random = torch.Generator().manual_seed(3)
    answered = _answered()
    words = torch.randint(0, 6, answered.counts.shape, generator=random)
    logits = torch.zeros(*answered.counts.shape, 6, dtype=torch.float64, requires_grad=True)

    def said() -> torch.Tensor:
        return logits.log_softmax(-1).gather(-1, words[..., None])[..., 0]

    first = said().detach()
    chosen = choose(first + 1e-3 * answered.old, answered.advantages, answered.counts, 0.2)

    def gradient(kl_cov: float) -> torch.Tensor:
        now = replace(answered, new=said(), old=first, drawn=first, chosen=chosen)
        return torch.autograd.grad(losses(now, Objective(kl_cov=kl_cov)).sum(), logits)[0]

    assert torch.equal(gradient(5.0), gradient(0.0)) and gradient(0.0).abs().sum() > 1
    step = 0.5 * gradient(0.0)
    with torch.no_grad():
        logits -= step
    held = (gradient(5.0) - gradient(0.0)).abs().sum(-1)
    assert bool((held[chosen] > 1e-2).all()) and not held[~chosen].any()


def test_kl_cov_counts_over_all_tokens_by_the_divergence_from_the_round() -> None:
    answered = replace(_answered(), advantages=torch.zeros(len(LENGTHS), dtype=torch.float64))
    answered = replace(answered, chosen=(answered.counts > 0) & (answered.old < -1.0))
    moved = (answered.new - answered.old)[answered.chosen]
    assert 0 < len(moved) < sum(LENGTHS)
    settings = Objective(kl_cov=2.0)
    total = losses(answered, settings).sum() / weights(answered.counts, settings).sum()
    assert total.item() == pytest.approx((2.0 * (moved.exp() - 1 - moved).sum() / sum(LENGTHS)).item())


@pytest.mark.parametrize(("share", "number"), [(1e-6, 1), (0.2, 5), (0.5, 12), (1.0, 25)])
def test_chosen_are_as_many_as_the_share_says_and_vary_together_the_most(share: float, number: int) -> None:
    answered = _answered()
    chosen = choose(answered.old, answered.advantages, answered.counts, share)
    assert int(chosen.sum()) == number and not chosen[answered.counts == 0].any()
    counted = answered.counts > 0
    gained = answered.advantages[:, None].expand(counted.shape)
    together = (answered.old - answered.old[counted].mean()) * (gained - gained[counted].mean())
    rest = counted & ~chosen
    assert not rest.any() or float(together[chosen].min()) >= float(together[rest].max())


def test_choice_is_of_the_whole_step_the_earlier_of_equals_and_nothing_of_nothing() -> None:
    answered = _answered()
    chosen = choose(answered.old, answered.advantages, answered.counts, 0.3)
    parts = [_rows(answered, slice(3)), _rows(answered, slice(3, 6))]
    halves = [choose(part.old, part.advantages, part.counts, 0.3) for part in parts]
    assert not torch.equal(torch.cat(halves), chosen), "by micro-batch other tokens would be chosen"
    same = torch.zeros(2, 3)
    assert choose(same, torch.zeros(2), torch.ones(2, 3), 0.5).tolist() == [[True, True, True], [False, False, False]]
    assert not choose(same, torch.zeros(2), torch.zeros(2, 3), 0.5).any()


def test_what_is_watched_adds_up_over_micro_batches() -> None:
    settings = Objective(truncate=1.5, reference_kl=0.1)
    whole = _answered()
    parts = [watch(_rows(whole, slice(row, row + 1)), settings) for row in range(len(LENGTHS))]
    found, expected = reduce(add, parts, Watched()).metrics(), watch(whole, settings).metrics()
    assert found == pytest.approx(expected, abs=1e-12)
    inside = whole.counts > 0
    mismatch, moved = (whole.old - whole.drawn)[inside], (whole.new - whole.old)[inside].detach()
    assert expected["kl_from_round"] == pytest.approx(float((moved.exp() - 1 - moved).mean()))
    assert expected["engine_mismatch"] == pytest.approx(float(mismatch.abs().mean()))
    assert expected["engine_mismatch_most"] == pytest.approx(float(mismatch.abs().max()))
    assert 0 < expected["truncated_share"] == pytest.approx(float((mismatch.exp() > 1.5).double().mean()))
    assert expected["kl_from_start"] > 0 and "kl_from_start" not in watch(whole, Objective()).metrics()
    assert Watched().metrics() == {}


def test_divergence_that_is_watched_estimates_the_true_one() -> None:
    """Of 200,000 words drawn from the first of two policies over three: KL(old || new) within five standard errors."""
    old, new = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64)
    words = torch.multinomial(old, 200_000, replacement=True, generator=torch.Generator().manual_seed(5))[None]
    said = old.log()[words]
    answered = Answered(
        new=new.log()[words],
        old=said,
        drawn=said,
        counts=torch.ones_like(said),
        advantages=torch.zeros(1),
        right=torch.zeros(1),
        chosen=torch.zeros_like(said, dtype=torch.bool),
    )
    true, other = float((old * (old / new).log()).sum()), float((new * (new / old).log()).sum())
    moved = (new / old).log()[words]
    error = float((moved.exp() - 1 - moved).std()) / 200_000**0.5
    assert watch(answered, Objective()).metrics()["kl_from_round"] == pytest.approx(true, abs=5 * error)
    assert abs(true - other) > 10 * error, "the other way round it is another number"
