"""Online RL's batches: the trainer's log-probabilities are the engine's, weights are handed over whole, large norms left out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config

from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.online import Objective, Online
from athanor.recipe.schema.training import Optimizer, Zero
from athanor.rl.rollouts.handover import checksum
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Prompt, Sample, Sampling
from athanor.training.answers import Drawn, Learnable, chosen_by_covariance, most_apart
from athanor.training.deepspeed.answer_log_probs import (
    answer_log_probs,
    log_probs,
    reads_prompts_once,
    shared_log_probs,
    tensors_of,
)
from athanor.training.deepspeed.model_folder import read_model
from athanor.training.deepspeed.online import AnswerBatches, PolicyLoss, freeze
from athanor.training.deepspeed.ranks import connected
from tests.rl.test_rollouts import END, folder, prompts

__all__ = ["folder", "prompts"]  # fixtures
PADDING = 0


@pytest.fixture(scope="module")
def drawn(folder: Path, prompts: list[Prompt]) -> list[Drawn]:
    by_id = {prompt.id: prompt for prompt in prompts}
    samples: list[Sample] = list(InProcessEngine(folder, [END]).generate(prompts, Sampling(samples=2, max_new_tokens=12)))
    return [Drawn(by_id[s.prompt].tokens, s.tokens, s.log_probs) for s in samples]


class Reader:
    def __init__(self, rows: list[Learnable | None]) -> None:
        self.rows = rows

    def answer(self, sample: int) -> Learnable | None:
        return self.rows[sample]


def learnable(rows: list[Drawn]) -> list[Learnable | None]:
    return [Learnable(row, row.log_probs, (-1.0) ** at, at % 2 == 0, ()) for at, row in enumerate(rows)]


def test_trainers_log_probabilities_are_those_that_the_engine_drew_by(folder: Path, drawn: list[Drawn]) -> None:
    model = read_model(folder).eval()
    for size in (1, 7):
        parts = [answer_log_probs(model, drawn[at : at + size], PADDING) for at in range(0, len(drawn), size)]
        found = [row for part in parts for row in part]
        assert [len(row) for row in found] == [len(one.answer) for one in drawn]
        for row, one in zip(found, drawn, strict=True):
            assert row == pytest.approx(one.log_probs, abs=1e-5)


def test_engine_that_draws_by_other_weights_is_told_by_the_answer_that_is_most_apart(folder: Path, drawn: list[Drawn]) -> None:
    said = answer_log_probs(read_model(folder).eval(), drawn, PADDING)
    assert most_apart(drawn, said) < 1e-5 and most_apart([], []) == 0
    other = [Drawn(one.prompt, one.answer, (*one.log_probs[:-1], one.log_probs[-1] - 0.5)) for one in drawn]
    assert most_apart(other, said) == pytest.approx(0.5, abs=1e-5)


def test_loss_of_a_step_does_not_depend_on_how_it_is_cut(folder: Path, drawn: list[Drawn]) -> None:
    model, objective = read_model(folder).eval(), Objective()
    rows: list[Learnable | None] = [*learnable(drawn[:9]), None, None]
    batches, loss = AnswerBatches(Reader(rows), PADDING, objective, once=True), PolicyLoss(objective)
    whole = batches.batch(range(len(rows)))
    assert whole.weights.tolist() == [*(float(len(one.answer)) for one in drawn[:9]), 0.0, 0.0], "what fills up weighs nothing"
    together = loss(model, whole).sum()
    apart = sum(float(loss(model, batches.batch([at])).sum().detach()) for at in range(len(rows)))
    assert float(together.detach()) == pytest.approx(apart, abs=1e-5)
    told = loss.taken().metrics()
    assert told["engine_mismatch_most"] == 0 and told["kl_from_round"] < 1e-9 and not loss.taken().tokens


def several(drawn: list[Drawn]) -> list[Drawn]:
    """Five answers of each of three prompts, all of different lengths, and one of a single token."""
    firsts = [Drawn(one.prompt * (4 + at), one.answer[:7] * 3, ()) for at, one in enumerate(drawn[::2][:3])]
    found = [one for one in firsts for _ in range(5)]
    for place, row in enumerate(found):
        found[place] = Drawn(row.prompt, row.answer[place % 5 : place + 5 - place % 3], ())
    return [*found, Drawn(found[0].prompt, (3,), ())]


def test_prompt_that_is_read_once_teaches_what_it_does_before_each_answer(folder: Path, drawn: list[Drawn]) -> None:
    model, rows = read_model(folder), several(drawn)
    counts = torch.zeros(len(rows), max(len(row.answer) for row in rows))
    for place, row in enumerate(rows):
        counts[place, : len(row.answer)] = torch.linspace(-1, 2, len(row.answer)) if len(row.answer) > 1 else 1
    said, gradients = [], []
    for once in (False, True):
        tensors = tensors_of(rows, PADDING, once=once)
        assert ("prompt_ids" in tensors) is once
        values = log_probs(model, tensors)
        model.zero_grad()
        (values * counts).sum().backward()  # type: ignore[no-untyped-call]
        said.append(values.detach()[counts != 0])
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None})
    torch.testing.assert_close(said[1], said[0], atol=1e-5, rtol=0)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert float((gradients[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-9)) < 1e-4, name


def test_prompts_are_read_once_only_where_that_spares_tokens(drawn: list[Drawn]) -> None:
    rows = several(drawn)
    once, whole = (tensors_of(rows, PADDING, once=which) for which in (True, False))
    assert once["prompt_ids"].shape[0] == 3 and once["prompt_of"].tolist() == [*(at // 5 for at in range(15)), 0]
    assert once["prompt_ids"].numel() + once["position_ids"].numel() <= 0.75 * whole["input_ids"].numel()
    different = [Drawn((*row.prompt, 5 + at), row.answer, ()) for at, row in enumerate(rows)]
    assert "prompt_ids" not in tensors_of(different, PADDING, once=True)
    short = tensors_of([Drawn(row.prompt, (3,), ()) for row in rows], PADDING, once=True)
    assert short["position_ids"].shape == (len(rows), 0), "answers of one token are read no further"


def test_prompt_is_not_read_once_where_a_layer_forgets(folder: Path, tmp_path: Path) -> None:
    assert reads_prompts_once(folder)
    sliding = Qwen3Config(num_hidden_layers=2, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    sliding.save_pretrained(tmp_path)
    assert not reads_prompts_once(tmp_path)


def test_what_the_engine_said_otherwise_is_told_and_cut(folder: Path, drawn: list[Drawn]) -> None:
    model, objective = read_model(folder).eval(), Objective(truncate=2.0)
    unlikely = Drawn(drawn[0].prompt, drawn[0].answer, tuple(said - 3.0 for said in drawn[0].log_probs))
    row = Learnable(unlikely, drawn[0].log_probs, 1.0, True, ())
    loss = PolicyLoss(objective)
    batch = AnswerBatches(Reader([row]), PADDING, objective, once=False).batch([0])
    assert float(loss(model, batch).sum().detach()) == pytest.approx(-2.0 * len(unlikely.answer), rel=1e-4)
    told = loss.taken().metrics()
    assert told["truncated_share"] == 1.0 and told["engine_mismatch"] == pytest.approx(3.0)


def test_tokens_that_kl_cov_holds_back_follow_from_all_answers(drawn: list[Drawn]) -> None:
    answers = [(one.log_probs, (-1.0) ** at) for at, one in enumerate(drawn)]
    tokens = sum(len(said) for said, _ in answers)
    chosen = chosen_by_covariance(answers, 0.1)
    assert [len(some) for some in chosen] == [len(said) for said, _ in answers]
    assert sum(map(sum, chosen)) == int(0.1 * tokens) and chosen_by_covariance([], 0.1) == []


def test_weights_are_handed_over_with_their_sum(folder: Path, prompts: list[Prompt]) -> None:
    engine, model = InProcessEngine(folder, [END]), read_model(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    before = list(engine.generate(prompts[:3], Sampling(max_new_tokens=8)))
    assert engine.load(weights) == checksum(weights) == checksum(reversed(weights.items()))
    behind = list(engine.generate(prompts[:3], Sampling(max_new_tokens=8)))
    assert before != behind
    some = {sample.prompt: sample for sample in behind}
    for prompt in prompts[:3]:
        row = Drawn(prompt.tokens, some[prompt.id].tokens, some[prompt.id].log_probs)
        assert answer_log_probs(model.eval(), [row], PADDING)[0] == pytest.approx(row.log_probs, abs=1e-5)
    one_bit = {**weights, next(iter(weights)): next(iter(weights.values())) + 1e-6}
    assert checksum(one_bit) != checksum(weights)
    with pytest.raises(ValueError, match="these weights are of another model: more"):
        engine.load({**weights, "more": torch.zeros(1)})


def test_routers_stay_as_they_are_unless_told_otherwise(folder: Path) -> None:
    model = read_model(folder)
    freeze(model.named_parameters(), Online(freeze_router=False))
    assert all(weight.requires_grad for weight in model.parameters())
    freeze(model.named_parameters(), Online())
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert len(frozen) == 2 and all(name.endswith("mlp.gate.weight") for name in frozen)


@pytest.fixture
def alone() -> Iterator[None]:
    """One rank."""
    with connected(1, 1):
        yield


def test_every_rank_measures_a_part_of_the_answers(alone: None, folder: Path, drawn: list[Drawn]) -> None:
    model, rows = read_model(folder).eval(), [*several(drawn), *drawn]
    known = [answer_log_probs(model, [row], PADDING)[0] for row in rows]
    for once in (False, True):
        says = shared_log_probs(model, PADDING, 5, once=once)
        assert says([]) == []
        for one, other in zip(says(rows), known, strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_gradients_of_a_prompts_answers_are_the_same_bits_on_many_threads(folder: Path, drawn: list[Drawn]) -> None:
    model, rows = read_model(folder), [Drawn(drawn[0].prompt * 100, drawn[0].answer, ()) for _ in range(32)]
    threads, seen = torch.get_num_threads(), []
    torch.set_num_threads(4)
    try:
        for _ in range(4):
            model.zero_grad()
            log_probs(model, tensors_of(rows, PADDING, once=True)).sum().backward()  # type: ignore[no-untyped-call]
            seen.append({name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None})
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other[name], seen[0][name]) for other in seen[1:] for name in seen[0])


def test_process_that_was_a_rank_alone_is_none_afterwards() -> None:
    before = dict(os.environ)
    with connected(1, 1):
        assert os.environ["LOCAL_RANK"] == "0"
    assert dict(os.environ) == before


def test_step_with_too_large_a_norm_leaves_all_as_it_is(alone: None) -> None:
    from athanor.training.deepspeed.engine import Engine

    def engine(stage: int) -> Any:
        torch.manual_seed(1)
        return Engine(torch.nn.Linear(4, 1), Optimizer(), Zero(stage), Precision.FP32, 1)

    def learn(one: Any, most: float) -> float:
        one.begin_pass(last=True)
        one.backward(one.module(torch.ones(1, 4)).sum())
        return float(one.step(0.1, most))

    tried, skipping = engine(0), engine(0)
    norm = learn(tried, 1e9)
    before = {name: weight.clone() for name, weight in skipping.weights().items()}
    assert learn(skipping, norm / 2) == pytest.approx(norm)
    assert all(torch.equal(weight, before[name]) for name, weight in skipping.weights().items())
    assert not skipping.optimizer.state, "its moments have not seen the gradient"
    assert learn(skipping, norm * 2) == pytest.approx(norm), "and nothing of it is left for the next step"
    assert all(torch.equal(weight, tried.weights()[name]) for name, weight in skipping.weights().items())
    with pytest.raises(ValueError, match="updates before a norm is known"):
        learn(engine(1), 1.0)
