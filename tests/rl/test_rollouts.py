"""Rollouts: the tokens that transformers would draw, the same sample in any batch, ends that are told apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Finish, Prompt, Sample, Sampling, choose, draws, loops

VOCABULARY, END = 40, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with experts."""
    from transformers import GenerationConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(3)
    shape = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "intermediate_size": 32, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "hidden_size": 32}
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "initializer_range": 0.3}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **heads, **sizes))
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=0)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    random = np.random.default_rng(5)
    return [Prompt(f"p{i}", tuple(random.integers(4, VOCABULARY, size=random.integers(1, 12)).tolist())) for i in range(17)]


def answers(engine: InProcessEngine, prompts: list[Prompt], sampling: Sampling) -> dict[tuple[str, int], Sample]:
    return {(sample.prompt, sample.number): sample for sample in engine.generate(prompts, sampling)}


def test_greedy_answers_are_those_of_transformers_generate(folder: Path, prompts: list[Prompt]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    found = answers(InProcessEngine(folder, [END]), prompts, Sampling(temperature=0, max_new_tokens=20))
    for prompt in prompts:
        expected = model.generate(torch.tensor([prompt.tokens]), max_new_tokens=20, do_sample=False)[0, len(prompt.tokens) :]
        said = found[prompt.id, 0].tokens
        assert list(said) == expected.tolist()[: len(said)]
        assert found[prompt.id, 0].finish is not Finish.STOP or said[-1] == END


def test_log_probabilities_are_the_models_own(folder: Path, prompts: list[Prompt]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    sampling = Sampling(samples=2, temperature=0.7, top_p=0.9, top_k=10, max_new_tokens=12)
    by_id = {prompt.id: prompt for prompt in prompts}
    for sample in InProcessEngine(folder, [END]).generate(prompts, sampling):
        tokens = torch.tensor([[*by_id[sample.prompt].tokens, *sample.tokens]])
        with torch.no_grad():
            scores = model(tokens).logits[0, -len(sample.tokens) - 1 : -1].log_softmax(-1)
        expected = scores.gather(-1, tokens[0, -len(sample.tokens) :, None])[:, 0]
        assert sample.log_probs == pytest.approx(expected.tolist(), abs=1e-4)


def test_sample_is_the_same_alone_and_in_a_batch(folder: Path, prompts: list[Prompt]) -> None:
    engine, sampling = InProcessEngine(folder, [END]), Sampling(samples=3, max_new_tokens=16, seed=9)
    together = answers(engine, prompts, sampling)
    for prompt in prompts[:4]:
        for key, sample in answers(engine, [prompt], sampling).items():
            assert sample.tokens == together[key].tokens
    assert len({together["p0", number].tokens for number in range(3)}) == 3
    other = answers(engine, prompts, Sampling(samples=3, max_new_tokens=16, seed=10))
    assert sum(other[key].tokens == together[key].tokens for key in together) < len(together) / 4


def test_draws_follow_the_models_odds(folder: Path) -> None:
    """4,000 first tokens of one prompt against the softmax, by chi-square; a temperature of 2 is told from one of 1."""
    from transformers import AutoModelForCausalLM

    prompt, count = Prompt("p", (5, 6, 7)), 4000
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([prompt.tokens])).logits[:, -1]
    uniform = torch.tensor([draws(Sampling(max_new_tokens=1), prompt, number)[0] for number in range(count)])
    counts = torch.bincount(choose(logits.expand(count, -1), Sampling(), uniform), minlength=VOCABULARY).numpy()
    odds = logits[0].double().softmax(-1).numpy()
    assert _chi_square(counts, odds) > 0.001
    assert _chi_square(counts, (logits[0].double() / 2).softmax(-1).numpy()) < 1e-6


def _chi_square(counts: Any, odds: Any) -> float:
    """The p-value; rare tokens are counted together."""
    often = odds * counts.sum() >= 5
    observed, expected = np.append(counts[often], counts[~often].sum()), np.append(odds[often], odds[~often].sum())
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    return float(chisquare(observed, expected * counts.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_p=0.6), {0, 1}),  # 0.5 alone is less than 0.6
        (Sampling(top_p=0.5), {0}),
        (Sampling(temperature=0), {0}),
        (Sampling(top_k=3, top_p=0.99), {0, 1, 2}),
    ],
)
def test_cut_tails_are_never_drawn(sampling: Sampling, allowed: set[int]) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log().expand(1001, -1)
    uniform = torch.linspace(0, 1 - 1e-9, 1001, dtype=torch.float64)
    assert set(choose(logits, sampling, uniform).tolist()) == allowed


def test_loops_are_told_from_repetition_that_ends() -> None:
    assert loops([1, 2, 3] * 8) and loops([9, 8, 7, *[5] * 24])
    assert not loops([1, 2, 3] * 7), "21 tokens may yet be a list"
    assert not loops(list(range(200)))
    assert not loops([5] * 30 + [6])


def test_answers_that_say_the_same_for_ever_are_stopped(folder: Path) -> None:
    """A greedy random model runs into a loop; it is found before the answer is at its longest."""
    engine = InProcessEngine(folder, [END])
    many = [Prompt(f"q{i}", (4 + i % 30, 5 + i % 7)) for i in range(30)]
    found = list(engine.generate(many, Sampling(temperature=0, max_new_tokens=60)))
    looped = [sample for sample in found if sample.finish is Finish.LOOP]
    assert looped, "none of 30 greedy answers loops"
    assert all(loops(sample.tokens) and len(sample.tokens) < 60 for sample in looped)
    assert all(len(sample.tokens) == 60 for sample in found if sample.finish is Finish.LENGTH)


def test_prompt_without_room_for_an_answer_is_refused(folder: Path) -> None:
    engine = InProcessEngine(folder, [END])
    with pytest.raises(ValueError, match="prompt long of 50 tokens and 20 new ones are more than the model's 64 positions"):
        list(engine.generate([Prompt("long", tuple([5] * 50))], Sampling(max_new_tokens=20)))
