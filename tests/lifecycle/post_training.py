"""What a project's campaign goes on with behind pretraining, at its smallest: conversations, offline RL, preferences."""

from collections.abc import Mapping
from typing import Any

from tests.lifecycle.project import Project, recipe

SFT = {
    "tasks": {
        "files": {
            "source": "prose",
            "turns": [{"prompts": ["Name {path}", "What is {path}?"], "response": "{name}"}],
            "taxonomy": ["language", "reading", "recall"],
        },
        "sums": {
            "source": "sums",
            "turns": [{"prompts": ["{expression}"], "response": "{answer}"}],
            "taxonomy": ["mathematics", "arithmetic", "sums"],
        },
    },
    "mixture": {"files": 1, "sums": 1},
    "token_budget": 16384,
    "sequence_length": 64,
    "batch_tokens": 512,
    "warmup_tokens": 1024,
    "validate_every_tokens": 4096,
    "answers": {"prompts": 8, "samples": 2, "max_new_tokens": 24},
    "search": {"token_budget": 1024, "alone": ["sums"]},
    "parallel": {"ranks": 2, "expert": 2},
    "checkpoint": {"every_tokens": 2048},
}
OFFLINE = {
    "mixture": {"sums": 1},
    "prompts": 96,
    "samples": 8,
    "max_new_tokens": 8,
    "second_model": True,
    "filter": {"floor": 0.5},
    "controls": True,
    "milestone_tokens": [2048],
    "average": 2,
    "token_budget": 4096,
    "sequence_length": 64,
    "batch_tokens": 512,
    "warmup_tokens": 512,
    "parallel": {"ranks": 2, "expert": 2},
    "checkpoint": {"every_tokens": 1024},
}
PREFERENCE = {
    "kind": "kto",
    "token_budget": 4096,
    "sequence_length": 64,
    "batch_tokens": 512,
    "warmup_tokens": 512,
    "lr": 1e-3,
    "parallel": {"ranks": 2, "micro_batch_size": 2},
    "checkpoint": {"every_tokens": 1024},
}
# Eight rounds of eight prompts; the round after is answered while one is learnt from, saves fall into rounds, and an answer may
# take two rounds.
ONLINE: dict[str, Any] = {
    "start": "sft",
    "mixture": {"sums": 2, "files": 1, "problems": 1},
    "routes": {"files": "rules"},
    "problems": {"generators": ["motif_count"], "most_tasks": 2, "per_task": 8},
    "pool": 48,
    "probes": 4,
    "filter": {"drop_up_to": 0.0},
    "rule_weights": {"brevity": 1.0},
    "prompts": 8,
    "samples": 4,
    "max_new_tokens": 8,
    "tokens_a_round": 4,
    "staleness": 1,
    "watched": 4,
    "watch_every_rounds": 2,
    "controls": ["shuffled"],
    "average": 3,
    "token_budget": 65536,
    "sequence_length": 256,
    "batch_tokens": 2048,
    "warmup_tokens": 2048,
    "lr": 1e-3,
    "parallel": {"ranks": 2, "micro_batch_size": 2},
    "checkpoint": {"every_tokens": 4096},
}
# For a roster of four: the fine-tuned model's control is the last.
SHUFFLED = {**SFT, "shuffled_control": True}
ON_PAIRS = {
    "token_budget": 2048,
    "sequence_length": 64,
    "batch_tokens": 256,
    "lr": 1e-3,
    "parallel": {"ranks": 2, "micro_batch_size": 2},
    "checkpoint": {"every_tokens": 512},
}
REWARD = {
    "prefixes": 48,
    "test_prefixes": 24,
    "longest_prefix": 6,
    "max_new_tokens": 16,
    "shortest_text": 4,
    "pretrain": ON_PAIRS,
    "tune": ON_PAIRS,
}
# Sums of one digit: an answer is right by chance often enough.
SUMS = {
    "kind": "reasoning_gym",
    "package": "chain_sum",
    "version": "0.1.25",
    "licence": "Apache-2.0",
    "domain": "arithmetic",
    "format": "rows",
    "entity": "{question}",
    "items": 600,
    "options": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
}


def with_fine_tuning(project: Project) -> Project:
    """The project's campaign goes on with fine-tuning."""
    return _going_on(project, {"sft": SFT, "offline": OFFLINE, "preference": PREFERENCE, "online": ONLINE})


def with_megatron_online(project: Project) -> Project:
    """The same, but Megatron trains what learns online, from a model that it has fine-tuned."""
    online = {**ONLINE, "backend": "megatron", "parallel": {**ONLINE["parallel"], "expert": 2}, "controls": []}
    return _going_on(project, {"sft": SFT, "offline": OFFLINE, "preference": PREFERENCE, "online": online})


def with_reward_model(project: Project) -> Project:
    """And with a reward model, whose scores count when the best answers are chosen."""
    offline = {**OFFLINE, "weights": {"reward": 0.5}}
    online = {**ONLINE, "mixture": {"sums": 1, "files": 1}, "routes": {"files": "reward_model"}, "staleness": 0, "controls": []}
    sections = {"sft": SHUFFLED, "offline": offline, "preference": PREFERENCE, "reward": REWARD, "online": online}
    return _going_on(project, sections)


def _going_on(project: Project, sections: Mapping[str, object]) -> Project:
    data = recipe()
    data["data"]["licences_allowed"] = [*data["data"]["licences_allowed"], "Apache-2.0"]
    data["data"]["sources"] = data["data"]["sources"] | {"sums": SUMS}
    project.write_recipe("tiny", data | sections)
    locked = project.athanor("recipe", "lock", "tiny")
    assert locked.returncode == 0, locked.stderr
    return project
