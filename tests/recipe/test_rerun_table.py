"""What reruns when a key changes: the whole table, key by key."""

from dataclasses import is_dataclass
from typing import Any, get_args

import pytest

from athanor.recipe.comparison import changed_keys, compare_stages
from athanor.recipe.graph import STAGES
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import read_recipe
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Training
from tests.recipe.projects import Project, base, make_project, put
from tests.recipe.schema_walk import places, with_entries

NOTHING: frozenset[str] = frozenset()
REPORT = frozenset({"report"})
ANSWERS = REPORT | {"answers"}
ONLINE = ANSWERS | {"online", "export"}  # the model that was trained is exported
POOL = ONLINE | {"pool"}
PROBLEMS = POOL | {"problems"}
PREFERENCE = POOL | {"preference"}  # from which online RL starts
OFFLINE = PREFERENCE | {"offline", "average"}
SELECTION = OFFLINE | {"pack", "selection"}
PAIRS = PREFERENCE | {"pairs"}
SCORE = REPORT | {"score"}
TUNE = SCORE | {"reward_tune"}
RANKS = TUNE | {"ranks"}
TELL_APART = TUNE | {"reward_pretrain"}  # policies
ROLLOUTS = SELECTION | PAIRS | RANKS | {"rollouts"}
TRIPLES = TELL_APART | {"triples"}
TRAJECTORIES = TRIPLES | {"trajectories"}
SFT = ROLLOUTS | TRAJECTORIES | {"sft"}  # what was fine-tuned speaks
CURATION = SFT | {"curation"}  # what is learnt of the questions that a model of the search labelled
LABELS = CURATION | {"labels"}
PACK = LABELS
CONVERSATIONS = PACK | {"conversations"}
EVALUATE = POOL | {"evaluate"}  # prompts are kept apart from what a model is evaluated with
EXPORT = EVALUATE | LABELS
PRETRAIN = EXPORT | {"pretrain"}
VALIDATION = PRETRAIN | {"baselines"}
TOKENIZER = VALIDATION | PACK | {"tokenizer", "tokenize"}
FETCH = TOKENIZER | {"fetch"}
SOURCES = FETCH | CONVERSATIONS
MODEL = PRETRAIN | {"initialize"}

SOURCE = "data.sources.prose"
RERUN: dict[str, tuple[Any, frozenset[str]]] = {
    "name": ("another", REPORT),
    "seed": (2, MODEL | {"problems"}),
    "environment": ("gpu", NOTHING),  # the small project's two environments pin the same versions
    "data.licences_allowed": (["CC0-1.0", "MIT", "BSD-3-Clause"], NOTHING),
    "data.held_out_fraction": (0.05, SOURCES | {"problems"}),  # of molecules of the corpus
    "data.split_seed": (3, SOURCES | {"problems"}),
    f"{SOURCE}.kind": ("pip", SOURCES),
    f"{SOURCE}.package": ("networkx", SOURCES),
    f"{SOURCE}.version": ("3.6.1", SOURCES),
    f"{SOURCE}.sha256": ("c" * 64, SOURCES),
    f"{SOURCE}.path": ("corpora", SOURCES),
    f"{SOURCE}.licence": ("MIT", NOTHING),
    f"{SOURCE}.domain": ("history", VALIDATION),
    f"{SOURCE}.format": ("code", SOURCES),
    f"{SOURCE}.columns": (["text"], SOURCES),
    f"{SOURCE}.template": ("{text}\n", SOURCES),
    f"{SOURCE}.entity": ("{text}", SOURCES),
    f"{SOURCE}.max_bytes": ("1MB", FETCH),
    f"{SOURCE}.shards": (3, FETCH),
    f"{SOURCE}.items": (5, NOTHING),  # of a generator alone
    f"{SOURCE}.seed": (5, NOTHING),
    f"{SOURCE}.options": ({"max_terms": 3}, SOURCES),
    "tokenizer.vocab_size": (2048, TOKENIZER),
    "tokenizer.sample_bytes": ("1MB", TOKENIZER),
    "tokenizer.min_frequency": (3, TOKENIZER),
    "tokenizer.special_tokens": (["<|endoftext|>", "<|pad|>"], TOKENIZER | CONVERSATIONS),
    "model.num_layers": (2, MODEL),
    "model.hidden_size": (64, MODEL),
    "model.num_attention_heads": (8, MODEL),
    "model.num_query_groups": (4, MODEL),
    "model.head_dim": (16, MODEL),
    "model.num_experts": (4, MODEL),
    "model.experts_per_token": (3, MODEL),
    "model.expert_ffn_size": (128, MODEL),
    "model.vocab_size": (8192, MODEL | VALIDATION),
    "model.max_sequence_length": (1024, MODEL),
    "model.rope_base": (1e6, MODEL),
    "model.norm_epsilon": (1e-5, MODEL),
    "model.qk_norm": (False, MODEL),
    "model.tie_embeddings": (True, MODEL),
    "model.init_std": (0.01, MODEL),
    "model.aux_loss_coefficient": (1e-3, MODEL),
    "model.z_loss_coefficient": (1e-3, MODEL),
    "model.router": ("loss_free", MODEL),
    "model.expert_bias_rate": (1e-2, NOTHING),  # of a softmax router, which has no bias
    "model.shared_experts": (1, MODEL),
    "model.balance": ("aux_loss", MODEL),
    "pretrain.init_from": ("models/base", MODEL | TOKENIZER),
    "pretrain.init_from_sha256": ("d" * 64, NOTHING),  # of no folder
    "pretrain.token_budget": ("2M", PRETRAIN),
    "pretrain.milestone_tokens": (["600K"], PRETRAIN),
    "pretrain.sequence_length": (256, VALIDATION),
    "pretrain.batch_tokens": (4096, PRETRAIN),
    "pretrain.batch_switches": ([], PRETRAIN),
    "pretrain.batch_switches.0.at_tokens": ("300K", PRETRAIN),
    "pretrain.batch_switches.0.batch_tokens": (8192, PRETRAIN),
    "pretrain.lr": (1e-3, PRETRAIN),
    "pretrain.min_lr": (1e-4, PRETRAIN),
    "pretrain.schedule": ("constant", PRETRAIN),
    "pretrain.warmup_tokens": ("10K", PRETRAIN),
    "pretrain.decay_tokens": ("100K", PRETRAIN),
    "pretrain.decay_shape": ("one_minus_sqrt", PRETRAIN),
    "pretrain.precision": ("bf16", PRETRAIN),
    "pretrain.bf16_first_layers": (1, PRETRAIN),
    "pretrain.bf16_last_layers": (1, PRETRAIN),
    "pretrain.mixture": ({"prose": 1, "chemistry": 1}, TOKENIZER),
    "pretrain.validate_every_tokens": ("100K", NOTHING),
    "pretrain.validation_tokens": ("10K", VALIDATION),
    "pretrain.log_every_steps": (1, NOTHING),
    "pretrain.average": (2, REPORT | {"average", "evaluate"}),  # a model beside the others
    "pretrain.shuffled_control": (False, REPORT),
    "pretrain.external.command": ("train {handover}", PRETRAIN),
    "pretrain.external.files": (["train.py"], NOTHING),  # of no command, as the rest
    "pretrain.external.version": ("train --version", NOTHING),
    "pretrain.external.settings": ({"lr": 1e-6}, NOTHING),
    "pretrain.optimizer.name": ("lion", PRETRAIN),
    "pretrain.optimizer.beta3": (0.9, NOTHING),  # which AdamW has not
    "pretrain.optimizer.momentum": (0.9, NOTHING),
    "pretrain.optimizer.rho": (0.05, NOTHING),
    "pretrain.optimizer.estimate_every_steps": (5, NOTHING),
    "pretrain.optimizer.beta1": (0.8, PRETRAIN),
    "pretrain.optimizer.beta2": (0.99, PRETRAIN),
    "pretrain.optimizer.epsilon": (1e-6, PRETRAIN),
    "pretrain.optimizer.weight_decay": (0.0, PRETRAIN),
    "pretrain.optimizer.clip_grad": (0.5, PRETRAIN),
    "pretrain.freeze": (["embedding"], PRETRAIN),
    "pretrain.noise_scale_every_steps": (5, NOTHING),
    "pretrain.spikes.action": ("skip", PRETRAIN),
    "pretrain.spikes.window": (32, NOTHING),  # they count where a spike changes what is trained
    "pretrain.spikes.deviations": (20.0, NOTHING),
    "pretrain.spikes.most": (5, NOTHING),
    "pretrain.parallel.ranks": (8, NOTHING),
    "pretrain.parallel.tensor": (2, NOTHING),
    "pretrain.parallel.pipeline": (2, NOTHING),
    "pretrain.parallel.context": (2, NOTHING),
    "pretrain.parallel.expert": (2, NOTHING),
    "pretrain.parallel.micro_batch_size": (4, NOTHING),
    "pretrain.parallel.recompute": ("full", NOTHING),
    "pretrain.parallel.virtual_pipeline": (2, NOTHING),
    "pretrain.parallel.ends_count_as_layers": (True, NOTHING),
    "pretrain.parallel.expert_tensor": (2, NOTHING),
    "pretrain.parallel.dispatch": ("allgather", NOTHING),
    "pretrain.parallel.overlap": (True, NOTHING),
    "pretrain.checkpoint.every_tokens": ("50K", NOTHING),
    "pretrain.checkpoint.node_hours_between_failures": (100, NOTHING),
    "pretrain.checkpoint.asynchronous": (False, NOTHING),
    "pretrain.checkpoint.local_first": (True, NOTHING),
    "pretrain.checkpoint.keep": (3, NOTHING),
    "export.dtype": ("bf16", EXPORT),
    "export.max_shard_bytes": ("1GB", EXPORT),
    "evaluate.suites": (["mmlu_dev"], EVALUATE),
    "evaluate.limit": (10, EVALUATE),
    "evaluate.batch_size": (4, NOTHING),
    "evaluate.seed": (1, EVALUATE),
}

TASK = "sft.tasks.ask"
# What fine-tuning has in common with pretraining reruns it alone.
OF_ALL = {key: pair for key, pair in RERUN.items() if key.startswith("pretrain.") and hasattr(Training(), key.split(".")[1])}
OF_SECTIONS = {
    "sft": LABELS,
    "offline": OFFLINE,
    "preference": PREFERENCE,
    "online": ONLINE,
    "reward.pretrain": TELL_APART,
    "reward.tune": TUNE,
}
for section, again in OF_SECTIONS.items():
    RERUN |= {
        key.replace("pretrain", section, 1): (value, again if stages else NOTHING) for key, (value, stages) in OF_ALL.items()
    }
RERUN |= {  # which the models of a search, and so labels, have none of
    key: (value, SFT) for key, (value, stages) in RERUN.items() if key.startswith("sft.batch_switches") and stages
}
RERUN |= {
    "sft.sequence_length": (256, PACK),
    "sft.mixture": ({"ask": 2}, SFT),
    "sft.shuffled_control": (True, ANSWERS | TRAJECTORIES | {"pack", "sft", "export"}),  # one more model beside the other
    "sft.backend": ("deepspeed", LABELS),
    "sft.zero.stage": (3, NOTHING),
    "sft.peft.kind": ("lora", NOTHING),  # of Megatron's, which has none: refused
    "sft.peft.rank": (4, NOTHING),
    "sft.peft.alpha": (8.0, NOTHING),
    "sft.peft.tokens": (4, NOTHING),
    "sft.zero.offload": (True, NOTHING),
    "offline.zero.stage": (3, NOTHING),
    "offline.zero.offload": (True, NOTHING),
    "offline.peft.kind": ("lora", NOTHING),  # refused, as fine-tuning's
    "offline.peft.rank": (4, NOTHING),
    "offline.peft.alpha": (8.0, NOTHING),
    "offline.peft.tokens": (4, NOTHING),
    "sft.answers.prompts": (32, ANSWERS),
    "sft.answers.samples": (2, ANSWERS),
    "sft.answers.max_new_tokens": (32, ANSWERS),
    "sft.search.token_budget": ("100K", LABELS),
    "sft.search.alone": (["ask"], NOTHING),  # the only task there is
    "sft.search.combinations": ({"half": {"ask": 0.5}}, REPORT | {"sft"}),  # one more small model beside the others
    "sft.labels.by": ("", SFT),
    "sft.labels.tasks": (["ask", "ask"], NOTHING),
    "sft.labels.questions": (100, LABELS),
    "sft.labels.samples": (4, LABELS),
    "sft.labels.temperature": (0.5, LABELS),
    "sft.labels.max_new_tokens": (32, LABELS),
    "sft.labels.easy_from": (0.9, CURATION),
    "sft.labels.hard_up_to": (0.3, CURATION),
    "sft.labels.drop": (["easy"], CURATION),
    "sft.labels.floor": (0.5, NOTHING),  # of levels that are dropped
    "sft.labels.repeats": ({"hard": 3}, CURATION),
    "rollouts.engine": ("server", LABELS | TRAJECTORIES),
    "offline.sequence_length": (256, OFFLINE | {"pack"}),
    "offline.mixture": ({"ask": 2}, OFFLINE),
    "reward.pretrain.mixture": ({"ask": 2}, TELL_APART),  # refused
    "reward.tune.mixture": ({"ask": 2}, TUNE),
    "offline.controls": (True, ANSWERS | {"offline", "export", "pack"}),  # more models beside the other
    "offline.milestone_tokens": (["200K"], OFFLINE | {"average"}),
    "offline.average": (0, REPORT),  # of the two there are
    "offline.second_model": (True, SELECTION | RANKS | {"sft", "export", "rollouts"}),
    "offline.prompts": (100, ROLLOUTS),
    "offline.samples": (4, ROLLOUTS),
    "offline.temperature": (0.7, ROLLOUTS),
    "offline.top_p": (0.9, ROLLOUTS),
    "offline.top_k": (50, ROLLOUTS),
    "offline.max_new_tokens": (32, ROLLOUTS),
    "offline.forbidden": (["kill"], ROLLOUTS),
    "offline.filter.drop_from": (0.9, SELECTION),
    "offline.filter.drop_up_to": (0.1, SELECTION),
    "offline.filter.floor": (0.5, SELECTION),
    "offline.weights.accuracy": (2, SELECTION | PAIRS | RANKS),
    "offline.weights.fluency": (1, SELECTION | PAIRS | RANKS),
    "offline.weights.safety": (2, SELECTION | PAIRS | RANKS),
    "online.mixture": ({"ask": 2, "problems": 1}, ONLINE),
    "online.start": ("sft", POOL),
    "online.problems.generators": (["gcd", "ring_count", "lcm"], PROBLEMS),
    "online.problems.corpus.chemistry.smiles": ("{text}", PROBLEMS),
    "online.problems.corpus.chemistry.name": ("{name}", PROBLEMS),
    "online.problems.most_tasks": (3, PROBLEMS),
    "online.problems.hardest": (0.5, PROBLEMS),
    "online.problems.per_task": (12, PROBLEMS),
    "online.problems.held_out": (0.25, PROBLEMS),
    "online.routes": ({"ask": "rules"}, POOL),
    "online.prompts": (32, ONLINE),
    "online.samples": (4, ONLINE),
    "online.pool": (100, POOL),
    "online.max_new_tokens": (32, POOL),
    "online.tokens_a_round": (16, ONLINE),
    "online.probes": (4, POOL),
    "online.filter.drop_from": (0.9, POOL),
    "online.filter.drop_up_to": (0.1, POOL),
    "online.filter.floor": (0.5, POOL),
    "online.ngram": (8, POOL),
    "online.curriculum": (0.5, ONLINE),
    "online.comparison": ("raw", ONLINE),
    "online.ema": (0.9, NOTHING),  # of comparison ema
    "online.shares": ({"verifier": 1.0}, ONLINE),
    "online.forbidden": (["kill"], ONLINE),
    "online.rule_weights": ({"fluency": 2.0}, NOTHING),  # of route rules
    "online.reward_engine": ("server", NOTHING),  # of route reward_model
    "online.judge.model": ("a-judge", NOTHING),  # of route judge
    "online.judge.rubric": ("Is it short?", NOTHING),
    "online.judge.max_new_tokens": (32, NOTHING),
    "online.objective.kind": ("oreal", ONLINE),
    "online.objective.ratio": ("sequence", ONLINE),
    "online.objective.mean": ("sequence", ONLINE),
    "online.objective.clip_low": (0.1, ONLINE),
    "online.objective.clip_high": (0.3, ONLINE),
    "online.objective.truncate": (4.0, ONLINE),
    "online.objective.reference_kl": (0.1, ONLINE),
    "online.objective.kl_cov": (1.0, ONLINE),
    "online.objective.kl_cov_share": (0.2, ONLINE),
    "online.objective.negatives": (1.0, ONLINE),
    "online.average": (2, ONLINE | {"average"}),
    "online.staleness": (1, ONLINE),
    "online.drop_norms": (0.03, ONLINE),
    "online.freeze_router": (False, ONLINE),
    "online.backend": ("megatron", ONLINE),
    "online.zero.stage": (0, NOTHING),
    "online.zero.offload": (True, NOTHING),
    "online.controls": (["random"], ONLINE),  # one more model beside the other
    "online.external.command": ("train {handover}", ONLINE),
    "online.external.files": (["train.py"], NOTHING),  # of no command, as the rest
    "online.external.version": ("train --version", NOTHING),
    "online.external.settings": ({"lr": 1e-6}, NOTHING),
    "online.watched": (8, POOL),
    "online.watch_every_rounds": (2, NOTHING),
    "preference.kind": ("kto", PREFERENCE),
    "preference.beta": (0.2, PREFERENCE),
    "preference.nll_weight": (1.0, PREFERENCE),
    "preference.measured": (0.25, PREFERENCE),
    "preference.zero.stage": (3, NOTHING),
    "preference.zero.offload": (True, NOTHING),
    "preference.control": (True, ANSWERS | {"preference", "export"}),  # one more model beside the other
    "preference.mixture": ({"ask": 2}, PREFERENCE),  # refused
    "offline.weights.reward": (0.5, SELECTION),
    "reward.prefixes": (9, TRAJECTORIES),
    "reward.test_prefixes": (9, TRAJECTORIES),
    "reward.test_models": (3, TRAJECTORIES),
    "reward.shortest_prefix": (2, TRAJECTORIES),
    "reward.longest_prefix": (17, TRAJECTORIES),
    "reward.temperatures": ([0.7, 1.0], TRAJECTORIES),
    "reward.top_p": (1.0, TRAJECTORIES),
    "reward.top_k": (0, TRAJECTORIES),
    "reward.max_new_tokens": (65, TRAJECTORIES),
    "reward.shortest_text": (24, TRIPLES),
    "reward.shared": (0.9, TRIPLES),
    "reward.pretrain.sequence_length": (128, TELL_APART),
    "reward.tune.sequence_length": (128, TUNE),
    "reward.pretrain.zero.stage": (3, NOTHING),
    "reward.pretrain.zero.offload": (True, NOTHING),
    "reward.tune.zero.stage": (3, NOTHING),
    "reward.tune.zero.offload": (True, NOTHING),
    "reward.ranks_a_question": (2, RANKS),
    "reward.ranks_aside": (0.2, RANKS),
    "reward.backbone": ("models/base", TELL_APART | {"backbone"}),
    "reward.backbone_sha256": ("d" * 64, NOTHING),  # of no folder
    "reward.without_pretraining": (True, TUNE - {"score"}),  # one more model beside the other
    f"{TASK}.source": ("chemistry", CONVERSATIONS),
    f"{TASK}.extract": ("functions", CONVERSATIONS),
    f"{TASK}.system": ("Be brief.", CONVERSATIONS),
    f"{TASK}.messages": ("said", CONVERSATIONS),
    f"{TASK}.tools": ("tools", CONVERSATIONS),
    f"{TASK}.taxonomy": (["language", "reading", "recall word by word"], REPORT),
    f"{TASK}.max_conversations": (10, CONVERSATIONS),
    f"{TASK}.turns.0.prompts": (["And {path}?"], CONVERSATIONS),
    f"{TASK}.turns.0.thinking": ("{path}", CONVERSATIONS),
    f"{TASK}.turns.0.response": ("{name}", CONVERSATIONS),
}


def recipe(project: Project, path: str = "", value: Any = None) -> Recipe:
    """The small recipe with a batch switch, and `value` at `path`; rules between keys are not this table's business."""
    data = with_entries(base())
    name = value if path == "name" else "base"
    file = project.write(name, put(data, path, value) if path not in ("", "name") else data)
    return read_recipe(str(file)).recipe


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The small recipe as it was."""
    return recipe(make_project(tmp_path_factory.mktemp("before") / "project"))


@pytest.mark.parametrize("key", RERUN)
def test_changed_key_reruns_exactly_these_stages(project: Project, before: Recipe, key: str) -> None:
    value, stages = RERUN[key]
    after = recipe(project, key, value)
    assert key == "name" or changed_keys(before, after), f"{key}={value} changes nothing in the recipe"
    _, made = compare_stages(before, after)
    assert {name.split("/")[0] for name in made} == stages


def test_table_has_every_key_of_the_recipe() -> None:
    sections = {place.path for place in places(Recipe) if is_dataclass(place.hint)}
    of_sources = {p.path for p in places(Recipe) if get_args(p.hint) and is_dataclass(get_args(p.hint)[-1])}
    leaves = {place.path for place in places(Recipe)} - sections - of_sources
    trainings = (*Recipe().__dict__, "reward.pretrain", "reward.tune")
    assert set(RERUN) - {f"{section}.batch_switches" for section in trainings} == leaves


@pytest.mark.parametrize(("key", "value"), [("items", 200), ("seed", 1), ("options", {"max_terms": 4}), ("package", "gcd")])
def test_other_problems_of_a_generator_are_other_conversations(project: Project, key: str, value: Any) -> None:
    sums = {"kind": "reasoning_gym", "package": "chain_sum", "version": "0.1.25", "items": 100, "format": "rows"}
    before, after = (recipe(project, SOURCE, {**sums, "licence": "MIT", "domain": "sums", **more}) for more in ({}, {key: value}))
    assert {name.split("/")[0] for name in compare_stages(before, after)[1]} == SOURCES


def test_learning_rate_reruns_what_was_trained_and_nothing_else(project: Project) -> None:
    before, after = project.load(), project.load("pretrain.lr=1e-3")
    shared, made = compare_stages(before, after)
    assert made == [
        "pretrain/400K", "pretrain/1M", "pretrain/shuffled", "export/1M", "evaluate/1M", "report/campaign",
    ]  # fmt: skip
    assert shared == [
        "fetch/prose", "fetch/chemistry", "tokenizer/bpe", "tokenize/prose-0", "tokenize/prose-1",
        "tokenize/prose-held_out", "tokenize/chemistry-0", "tokenize/chemistry-held_out", "initialize/model",
        "baselines/ngram", "export/untrained", "evaluate/untrained",
    ]  # fmt: skip


def test_unused_source_is_no_part_of_the_graph(project: Project) -> None:
    before = project.load("pretrain.mixture={prose: 1}", "evaluate.suites=[mmlu_dev]")
    assert not [artifact.name for artifact in Lifecycle(before, project.root) if "chemistry" in artifact.name]


def test_every_stage_has_artifacts_and_every_artifact_a_stage(project: Project) -> None:
    after = recipe(project, "reward.backbone", "models/base")  # everything that a recipe may have
    assert {artifact.stage for artifact in Lifecycle(after, project.root)} == set(STAGES)
