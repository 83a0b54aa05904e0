"""What a recipe's section `online` can get wrong, and what each problem tells to write instead."""

from typing import Any

import pytest

from athanor.recipe.lifecycle import Lifecycle
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import problems_with, with_entries

MEGATRON = {"online.backend": "megatron", "online.start": "offline"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "task that there is not": (
        {"online.mixture": {"tell": 1}},
        "online.mixture.tell=1.0: no such task; there is ask, problems",
    ),
    "problems of no generator": (
        {"online.problems.generators": []},
        "online.problems.generators=[]: online.mixture asks for them; name some, or all: athanor task audit lists them",
    ),
    "molecules of no source": (
        {"online.problems.corpus": {}},
        "online.problems.generators='ring_count': asks about molecules; give online.problems.corpus, sources that have some, or "
        "leave it out",
    ),
    "molecules of a source that there is not": (
        {"online.problems.corpus": {"drugs": {}}},
        "online.problems.corpus.drugs: no such source; there is prose, chemistry",
    ),
    "molecules that nobody asks about": (
        {"online.problems.generators": ["gcd"]},
        "online.problems.corpus=['chemistry']: no generator asks about molecules; name some (average_weight, ",
    ),
    "molecules in no field": (
        {"online.problems.corpus.chemistry.smiles": "smiles"},
        "online.problems.corpus.chemistry.smiles='smiles': names no field; write {field}",
    ),
    "names in no field": (
        {"online.problems.corpus.chemistry.name": "name"},
        "online.problems.corpus.chemistry.name='name': names no field; write {field}, or leave it out",
    ),
    "names that no source has": (
        {"online.problems.generators": ["structure_of_name"]},
        "online.problems.generators='structure_of_name': asks for names, and no source of online.problems.corpus has any; give "
        "one its name, or leave the generator out",
    ),
    "task that nobody judges": (
        {"online.routes": {}},
        "online.routes={}: ask: no verifier judges its answers; say who rewards them: verifier (the text on record alone is "
        "right), reward_model, judge or rules",
    ),
    "route of no task": (
        {"online.routes": {"ask": "rules", "tell": "rules"}},
        "online.routes.tell='rules': not in online.mixture; leave it out",
    ),
    "problems by rules": (
        {"online.routes": {"ask": "rules", "problems": "rules"}},
        "online.routes.problems='rules': problems have verifiers; leave it out",
    ),
    "start that Megatron has no checkpoint of": (
        {"online.backend": "megatron"},
        "online.start='last': preference learning leaves no checkpoint of Megatron's; use offline, or online.backend=deepspeed",
    ),
    "Megatron behind DeepSpeed": (
        {"online.backend": "megatron", "sft.backend": "deepspeed"},
        "online.backend='megatron': goes on from Megatron's checkpoint, and sft.backend=deepspeed leaves none; use deepspeed",
    ),
    "experts balanced by what fills up": (
        MEGATRON | {"online.freeze_router": False},
        "online.freeze_router=False: what balances experts would count prompts and what fills windows up as if it were",
    ),
    "second model beside Megatron's": (
        MEGATRON | {"online.objective.reference_kl": 0.1},
        "online.objective.reference_kl=0.1: would need a second model beside Megatron's; use 0, or kl_cov",
    ),
    "ZeRO of Megatron": (
        MEGATRON | {"online.zero.stage": 2},
        "online.zero.stage=2: Megatron's optimizer is always spread as in stage 1; use 1",
    ),
    "no ZeRO of Megatron": (
        MEGATRON | {"online.zero.stage": 0},
        "online.zero.stage=0: Megatron's optimizer is always spread as in stage 1; use 1",
    ),
    "answers cut over context ranks": (
        MEGATRON | {"online.parallel.context": 2, "online.parallel.ranks": 2},
        "online.parallel.context=2: a context rank would hold parts of answers, which the local attention cannot tell apart",
    ),
    "rule that Megatron has not": (
        MEGATRON | {"online.optimizer.name": "muon"},
        "online.optimizer.name='muon': Megatron's distributed optimizer is AdamW here; use adamw",
    ),
    "rounds rolled back": (
        MEGATRON | {"online.spikes.action": "roll_back"},
        "online.spikes.action='roll_back': what follows a spike is answered by the weights that there were; use skip, or log",
    ),
    "layout that Megatron cannot build": (
        MEGATRON | {"online.parallel.tensor": 3, "online.parallel.ranks": 3},
        "online.parallel.tensor=3: does not divide model.num_attention_heads",
    ),
    "reward model that is not": (
        {"online.routes": {"ask": "reward_model"}, "reward.tune.token_budget": 0},
        "online.routes.ask='reward_model': there is no reward model; give reward.tune.token_budget, or another route",
    ),
    "judge without a name": (
        {"online.routes": {"ask": "judge"}},
        "online.judge.model='': a task has route judge; name the model that judges",
    ),
    "steps that do not cut a round": (
        {"online.batch_tokens": 2048 * 3},
        "online.batch_tokens=6144: a round of 64 x 8 answers of 128 tokens does not cut into such steps; use a divisor of 65536",
    ),
    "half a round": (
        {"online.token_budget": "700K"},
        "online.token_budget='700K': not a number of whole rounds, each a round of 64 x 8 answers of 128 tokens; 11 are 720896",
    ),
    "other steps within a round": (
        {"online.batch_switches.0.at_tokens": "200K"},
        "online.batch_switches[0].at_tokens=200000: not behind a whole round; use a multiple of 65536",
    ),
    "no room for a prompt": (
        {"online.max_new_tokens": 128},
        "online.max_new_tokens=128: leaves no room for a prompt in online.sequence_length=128; lower it",
    ),
    "mean of more than there is": (
        {"online.average": 11},
        "online.average=11: there are 10 rounds; average 2 to 10, or use 0",
    ),
    "parts of no answer": (
        {"online.tokens_a_round": 48},
        "online.tokens_a_round=48: does not cut online.max_new_tokens=64 into equal parts; use a divisor, or 0",
    ),
    "start that is not": (
        {"online.start": "preference", "preference.kind": "none"},
        "online.start='preference': the recipe has no such model; use last",
    ),
    "clones of what a rule likes": (
        {"online.objective.kind": "oreal", "online.routes": {"ask": "rules"}},
        "online.objective.kind='oreal': oreal clones what is right and pushes down what is wrong, which verifiers alone can "
        "tell; use clipped",
    ),
    "norms that come too late": (
        {"online.drop_norms": 0.03},
        "online.drop_norms=0.03: DeepSpeed tells a norm when the step is done, but for online.zero.stage=0 in fp32; use these, "
        "or 0",
    ),
    "weights in parts": ({"online.zero.stage": 3}, "online.zero.stage=3: the weights are handed over whole each round; use 2"),
    "pattern that is none": ({"online.forbidden": ["("]}, "online.forbidden[0]='('"),
    "rule that there is not": (
        {"online.rule_weights": {"wit": 1}},
        "online.rule_weights.wit=1.0: no such rule; there is fluency, safety, brevity, script",
    ),
    "share of no route": (
        {"online.shares": {"reward_model": 1}},
        "online.shares.reward_model=1.0: no task of the mixture has this route; leave it out",
    ),
    "rates that cross": (
        {"online.filter.drop_up_to": 1.0},
        "online.filter.drop_up_to=1.0: no pass rate lies between it and online.filter.drop_from=1; lower it",
    ),
    "draws of another scale": (
        {"online.controls": ["random"], "online.routes": {"ask": "reward_model"}},
        "online.controls=['random']: draws rewards of 0 and 1, and the reward model's have no such scale; use shuffled",
    ),
    "Megatron's ranks": (
        {"online.parallel.ranks": 2, "online.parallel.tensor": 2},
        "online.parallel.tensor=2: a module in its Hugging Face form is spread by online.zero alone; use 1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_problem_is_told_with_the_way_out(project: Project, name: str) -> None:
    changes, said = WRONG[name]
    found = problems_with(project, changes)
    assert any(one.startswith(said) for one in found), found


def test_online_rl_starts_from_the_last_model_and_is_asked_what_was_held_out(project: Project) -> None:
    data = with_entries(base())
    put(data, "online.controls", ["shuffled"])
    project.write("whole", data)
    graph = Lifecycle(project.load(name="whole"), project.root)
    for label in ("model", "shuffled"):
        made = graph[f"online/{label}"]
        assert {name: up.name for name, up in made.upstreams.items()} == {"start": "export/preference", "pool": "pool/online"}
    pool = graph["pool/online"].upstreams
    assert {name: up.name for name, up in pool.items()} == {
        "model": "export/preference",
        "ask": "conversations/ask",
        "problems": "problems/registry",
        "suites": "evaluate/1M",
    }
    assert {"export/online", "export/online-shuffled", "answers/online", "answers/online-shuffled"} <= {a.name for a in graph}
    assert graph["answers/online"].upstreams["problems"].name == "problems/registry"


@pytest.mark.parametrize(
    ("start", "model"), [("sft", "export/sft"), ("offline", "export/offline"), ("last", "export/preference")]
)
def test_start_is_the_one_that_is_named(project: Project, start: str, model: str) -> None:
    data = with_entries(base())
    put(data, "online.start", start)
    project.write("whole", data)
    assert Lifecycle(project.load(name="whole"), project.root)["online/model"].upstreams["start"].name == model


def test_megatron_goes_on_from_the_checkpoint_of_the_start(project: Project) -> None:
    data = with_entries(base())
    for key, value in MEGATRON.items():
        put(data, key, value)
    project.write("whole", data)
    made = Lifecycle(project.load(name="whole"), project.root)["online/model"]
    assert made.upstreams["start"].name == "export/offline" and made.upstreams["checkpoint"].name == "offline/model"
    assert "megatron-core" in made.packages and "deepspeed" not in made.packages


def test_what_a_generator_of_ones_own_holds_decides_its_problems(project: Project) -> None:
    data = with_entries(base())
    put(data, "online.problems.generators", ["sums.py:Sums", "ring_count"])
    project.write("whole", data)
    assert "online.problems.generators='sums.py': no such file; relative paths start at " in " ".join(
        problems_with(project, {"online.problems.generators": ["sums.py:Sums", "ring_count"]})
    )
    prints = []
    for text in ("class Sums: ...", "class Sums: ...", "class Sums: pass"):
        (project.root / "sums.py").write_text(text)
        prints.append(Lifecycle(project.load(name="whole"), project.root)["problems/registry"].fingerprint)
    assert prints[0] == prints[1] != prints[2]
