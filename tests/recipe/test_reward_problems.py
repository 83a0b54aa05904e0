"""What a recipe's section `reward` can get wrong, and what each problem tells to write instead."""

from typing import Any

import pytest

from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.reward import roster
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import problems_with, with_entries

PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "prefixes of no length": ({"reward.shortest_prefix": 20}, "reward.shortest_prefix=20: above reward.longest_prefix=16"),
    "texts that are never long enough": (
        {"reward.shortest_text": 65},
        "reward.shortest_text=65: no text is as long, reward.max_new_tokens=64 at most; lower it",
    ),
    "more than the positions": (
        {"reward.max_new_tokens": 500},
        "reward.max_new_tokens=500: with reward.longest_prefix=16 more than model.max_sequence_length=512; lower one of them",
    ),
    "a temperature twice": ({"reward.temperatures": [1.0, 1]}, "reward.temperatures=[1.0, 1.0]: at least one, each once"),
    "no temperature": ({"reward.temperatures": []}, "reward.temperatures=[]: at least one, each once"),
    "test without negatives for training": (
        {"reward.test_models": 3},
        "reward.test_models=3: the roster has 4 models (400K, 600K, 1M, sft) and training needs 2 more than the test; "
        "add pretrain.milestone_tokens, or sft.tasks with sft.shuffled_control",
    ),
    "weight of a model that is not trained": (
        {"offline.weights.reward": 0.5, "reward.tune.token_budget": 0},
        "offline.weights.reward=0.5: there is no reward model; give reward.tune.token_budget, or use 0",
    ),
    "control of what is not trained": (
        {"reward.without_pretraining": True, "reward.pretrain.token_budget": 0},
        "reward.without_pretraining=True: the control needs reward.pretrain.token_budget and reward.tune.token_budget above 0; "
        "use false",
    ),
    "reward model without a roster": (
        {"reward.prefixes": 0},
        "reward.prefixes=0: a reward model is measured on triples of the roster; give some, or no token_budget to the reward "
        "model",
    ),
    "ranks of no answers": (
        {"offline.mixture": {}, "preference.kind": "none"},
        "reward.tune.token_budget=1000000: ranks are made of the answers that offline RL asks for; give offline.mixture and "
        "offline.prompts, or use 0",
    ),
    "backbone without a head for scores": (
        {"model.router": "loss_free", "model.shared_experts": 1},
        "model.router='loss_free': its Hugging Face form (Glm4Moe) has no head for scores; use softmax, or name "
        "a reward.backbone",
    ),
    "backbone of hundreds of billions": (
        {"model.num_layers": 94, "model.hidden_size": 4096, "model.expert_ffn_size": 1536, "model.num_experts": 128},
        "model.num_layers=94: the reward model's backbone has 227B weights, and every rank builds all of them in float32; name "
        "a reward.backbone of at most 16B, or give no token_budget in reward",
    ),
    "model cut by tensor ranks": (
        {"reward.tune.parallel": {"ranks": 2, "tensor": 2}},
        "reward.tune.parallel.tensor=2: a module in its Hugging Face form is spread by reward.tune.zero alone; use 1",
    ),
    "experts spread over ranks": (
        {"reward.pretrain.parallel": {"ranks": 2, "expert": 2}},
        "reward.pretrain.parallel.expert=2: a module in its Hugging Face form is spread by reward.pretrain.zero alone; use 1",
    ),
    "batch that does not come out even": (
        {"reward.tune.batch_tokens": 1000},
        "reward.tune.batch_tokens=1000: not divisible by sequence_length×micro_batch_size×data-parallel ranks=256; "
        "use 768 or 1024",
    ),
    "sequences beyond the positions": (
        {"reward.tune.sequence_length": 1024, "reward.tune.batch_tokens": 4096},
        "reward.tune.sequence_length=1024: longer than model.max_sequence_length=512",
    ),
    "eight bits": (
        {"reward.pretrain.precision": "fp8_emulated"},
        "reward.pretrain.precision='fp8_emulated': Hugging Face's layers multiply in fp32 or bf16; use bf16",
    ),
    "mixture of triples": (
        {"reward.pretrain.mixture": {"prose": 1}},
        "reward.pretrain.mixture=['prose']: triples and ranks come without sources; leave it out",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problem_names_key_value_and_way_out(project: Project, case: str) -> None:
    changes, expected = PROBLEMS[case]
    assert expected in problems_with(project, changes)


def test_rates_and_batches_left_open_are_the_laws(project: Project) -> None:
    """POLAR's own 7B model: 7B weights that had 4T tokens, 3.6T of rewards."""
    shape = {"num_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_query_groups": 8, "head_dim": 128}
    shape |= {"num_experts": 0, "expert_ffn_size": 14336, "vocab_size": 92544, "max_sequence_length": 32768}
    data = put(with_entries(base()), "model", shape)
    data["pretrain"] |= {"token_budget": "4T", "decay_tokens": 0}
    data["reward"]["pretrain"] = {"token_budget": "3.6T", "sequence_length": "16_384"}
    project.write("seven", data)
    recipe = project.load(name="seven")
    found = recipe.reward_trainings()["reward.pretrain"]
    assert found.lr == pytest.approx(1.67e-5, rel=0.025)
    assert found.batch_tokens / found.sequence_length == pytest.approx(4343, rel=0.05)
    [trained] = Lifecycle(recipe, project.root).of("reward_pretrain")
    assert trained.section["reward.pretrain.lr"] == found.lr, "the identity knows what is trained with"


def test_reward_model_is_asked_only_where_it_counts(project: Project) -> None:
    data = with_entries(base())
    project.write("base", data)
    without = Lifecycle(project.load(), project.root)
    with_it = Lifecycle(project.load("offline.weights.reward=0.5"), project.root)
    assert "scores" not in without["selection/ask"].upstreams and "offline.weights.reward" not in without["selection/ask"].section
    assert with_it["selection/ask"].upstreams["scores"] is with_it["score/ask-sft"]
    assert with_it["score/ask-sft"].path == without["score/ask-sft"].path
    del data["reward"]["tune"]
    project.write("base", data)
    pretrained = Lifecycle(project.load(), project.root)
    assert not [pretrained.of(stage) for stage in ("ranks", "reward_tune", "score") if pretrained.of(stage)]
    assert pretrained["selection/ask"].path == without["selection/ask"].path


def test_roster_is_every_milestone_and_fine_tuned_model(project: Project) -> None:
    data = with_entries(base())
    project.write("base", put(data, "sft.shuffled_control", True))
    recipe = project.load()
    graph = Lifecycle(recipe, project.root)
    exported = [artifact.instance for artifact in graph.of("export")]
    assert roster(recipe) == ["400K", "600K", "1M", "sft", "sft-shuffled"] and set(roster(recipe)) < set(exported)
    assert [artifact.instance for artifact in graph.of("trajectories")] == roster(recipe)
    upstreams = graph["triples/polar"].upstreams
    assert {name for name in upstreams if name.startswith("trajectories-")} == {f"trajectories-{m}" for m in roster(recipe)}


def test_recipe_without_prefixes_has_no_roster_and_exports_no_milestones(project: Project) -> None:
    data = with_entries(base())
    del data["reward"]
    project.write("bare", data)
    graph = Lifecycle(project.load(name="bare"), project.root)
    assert not graph.of("trajectories") and not graph.of("triples")
    assert "export/400K" not in graph
