"""What a project's campaign goes on with behind pretraining, at its smallest: conversations, offline RL, preferences."""

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
    data = recipe()
    data["data"]["licences_allowed"] = [*data["data"]["licences_allowed"], "Apache-2.0"]
    data["data"]["sources"] = data["data"]["sources"] | {"sums": SUMS}
    project.write_recipe("tiny", data | {"sft": SFT, "offline": OFFLINE, "preference": PREFERENCE})
    locked = project.athanor("recipe", "lock", "tiny")
    assert locked.returncode == 0, locked.stderr
    return project
