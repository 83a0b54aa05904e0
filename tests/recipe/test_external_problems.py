"""Training that is handed over: what the check refuses, and what decides who the model is."""

from typing import Any

import pytest

from athanor.recipe.external import COUNT, PRETRAIN_COUNT
from athanor.recipe.graph import GIVEN, SHUFFLED
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.schema.online import Online
from athanor.recipe.schema.training import Pretrain
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import ONLINE, problems_with, with_entries

COMMAND = {"online.external.command": "train {handover}"}
PRETRAIN = {"pretrain.external.command": "train {handover}", "pretrain.shuffled_control": False}
TRAINERS_OWN = {"online.decay_tokens": 0, "online.batch_switches": []}  # which the walked recipe has
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "settings of nobody": (
        {"online.external.settings": {"lr": 1}},
        "online.external.settings={'lr': 1}: belongs to no trainer; give online.external.command, or leave it out",
    ),
    "command that is told nothing": (
        {"online.external.command": "train"},
        "online.external.command='train': does not say {handover}, which the stage fills in",
    ),
    "command that wants more": (
        {"online.external.command": "train {handover} --on {gpus}"},
        "online.external.command='train {handover} --on {gpus}': has {gpus}; a stage fills in {handover} (write {{ for a brace)",
    ),
    "command that is not closed": (
        {"online.external.command": "train '{handover}"},
        "online.external.command=\"train '{handover}\": cannot be read: No closing quotation",
    ),
    "version that is not closed": (
        COMMAND | {"online.external.version": "train '"},
        "online.external.version=\"train '\": cannot be read: No closing quotation",
    ),
    "file that is not there": (
        COMMAND | {"online.external.files": ["train.py"]},
        "online.external.files[0]='train.py': no such file; relative paths start at ",
    ),
    "file that nobody would notice": (
        {"online.external.command": "python corpora/prose.txt {handover}"},
        "online.external.files=[]: corpora/prose.txt is a file of the project, and what it holds decides what is learnt; name it",
    ),
    "what no verifier judges": (
        COMMAND | {"online.routes": {"ask": "rules"}},
        "online.routes.ask='rules': with online.external.command verifiers alone tell what an answer is worth; use verifier",
    ),
    "rate that nobody goes by": (
        COMMAND | {"online.lr": 1e-4},
        "online.lr=0.0001: Athanor's trainer alone goes by it, and online.external.command trains; say it in "
        "online.external.settings, and leave it out here",
    ),
    "objective that nobody goes by": (
        COMMAND | {"online.objective.kl_cov": 1.0}, "online.objective.kl_cov=1.0: Athanor's trainer"
    ),
    "layout that nobody goes by": (
        COMMAND | {"online.parallel.micro_batch_size": 4}, "online.parallel.micro_batch_size=4: Athanor's trainer"
    ),
    "mean of rounds that nobody keeps": (
        COMMAND | {"online.average": 2},
        "online.average=2: online.external.command trains, and keeps no weights of its rounds; use 0",
    ),
    "half a round": (
        COMMAND | {"online.token_budget": "700K"},
        "online.token_budget='700K': not a number of whole rounds",
    ),
    "milestone by a command that is told nothing": (
        {"pretrain.external.command": "train"},
        "pretrain.external.command='train': does not say {handover}, which the stage fills in",
    ),
    "settings of no trainer of milestones": (
        {"pretrain.external.settings": {"lr": 1}},
        "pretrain.external.settings={'lr': 1}: belongs to no trainer; give pretrain.external.command, or leave it out",
    ),
    "file of a milestone's trainer that is not there": (
        PRETRAIN | {"pretrain.external.files": ["train.py"]},
        "pretrain.external.files[0]='train.py': no such file; relative paths start at ",
    ),
    "rate that no trainer of milestones goes by": (
        PRETRAIN | {"pretrain.lr": 4e-4},
        "pretrain.lr=0.0004: Athanor's trainer alone goes by it, and pretrain.external.command trains; say it in "
        "pretrain.external.settings, and leave it out here",
    ),
    "setting that is nothing": (
        COMMAND | {"online.external.settings": {"a": {"b": None}}},
        "online.external.settings.a.b: expected text, a number, true or false, or a list of them",
    ),
}  # fmt: skip


@pytest.fixture
def written(project: Project) -> Project:
    """With a file that a command may name."""
    (project.root / "corpora").mkdir(exist_ok=True)
    (project.root / "corpora" / "prose.txt").write_text("print('trains')")
    return project


@pytest.mark.parametrize("name", WRONG)
def test_problem_is_told_with_the_way_out(written: Project, name: str) -> None:
    changes, said = WRONG[name]
    found = problems_with(written, changes)
    assert any(one.startswith(said) for one in found), found


def test_recipe_that_says_what_counts_has_no_problem(written: Project) -> None:
    """Steps and rates that would not fit Athanor's own trainer are not asked for."""
    settings = {"actor": {"optim": {"lr": 1e-6}}, "devices": [0, 1]}
    external = COMMAND | {"online.external.settings": settings, "online.external.files": ["corpora/prose.txt"]}
    shorter = {"online.token_budget": 64 * 8 * 24, "online.sequence_length": 24, "online.max_new_tokens": 8}
    before = problems_with(written, {})
    assert [one for one in problems_with(written, TRAINERS_OWN | external | shorter) if one not in before] == []


def test_controls_go_by_athanors_own_keys(written: Project) -> None:
    changes = COMMAND | {"online.lr": 1e-4, "online.controls": ["shuffled"]}
    assert not [one for one in problems_with(written, changes) if one.startswith("online.lr")]
    wrong = problems_with(written, changes | {"online.batch_tokens": 2048 * 3})
    assert any(one.startswith("online.batch_tokens=6144: a round of") for one in wrong), "and by its rules"


def test_control_of_pretraining_goes_by_athanors_own_keys(written: Project) -> None:
    changes = PRETRAIN | {"pretrain.lr": 4e-4, "pretrain.shuffled_control": True}
    assert not [one for one in problems_with(written, changes) if one.startswith("pretrain.lr")]


def test_milestones_of_another_trainer_may_be_nearer_than_a_step_of_ours(written: Project) -> None:
    near = {"pretrain.milestone_tokens": ["999K"], "pretrain.token_budget": "1M", "pretrain.batch_tokens": 4096}
    said = "ends within the step of 4096 tokens"
    assert any(said in one for one in problems_with(written, near))
    assert not any(said in one for one in problems_with(written, near | PRETRAIN))


def test_every_key_either_counts_or_is_told_not_to() -> None:
    for counts, section in ((COUNT, Online), (PRETRAIN_COUNT, Pretrain)):
        names = {name.partition(".")[0] for name in counts}
        assert names <= set(section.__dataclass_fields__), "no key of another name"


def prints(project: Project, **changes: Any) -> dict[str, str]:
    """Fingerprints of online RL, by label."""
    data = with_entries(base())
    data["online"] = {name: value for name, value in ONLINE.items() if name != "decay_tokens"}
    for path, value in changes.items():
        put(data, f"online.{path.replace('__', '.')}", value)
    project.write("whole", data)
    return {a.instance: a.fingerprint for a in Lifecycle(project.load(name="whole"), project.root).of("online")}


def test_command_settings_and_bytes_of_files_are_the_models_identity_and_not_the_controls(written: Project) -> None:
    path = "corpora/prose.txt"
    known: dict[str, Any] = {"external__command": f"python {path} {{handover}}", "external__files": [path]}
    controls = {"controls": ["shuffled"]}
    own, handed = prints(written, **controls), prints(written, **controls, **known)
    assert own["model"] != handed["model"] and own["shuffled"] == handed["shuffled"]
    others = [
        {"external__settings": {"lr": 1e-6}},
        {"external__settings": {"lr": {"warm": 1e-6}}},
        {"external__command": f"python -u {path} {{handover}}"},
        {"prompts": 32},
        {"max_new_tokens": 32},
    ]
    made = [prints(written, **(known | other))["model"] for other in others]
    (written.root / path).write_text("print('trains otherwise')")
    made.append(prints(written, **known)["model"])
    assert len({handed["model"], *made}) == len(others) + 2
    assert prints(written, **known, external__version="python --version")["model"] == made[-1]


def test_milestones_of_another_trainer_are_made_of_the_exported_start(written: Project) -> None:
    data = with_entries(base())
    put(data, "pretrain.shuffled_control", True)
    written.write("whole", data)
    ours = Lifecycle(written.load(name="whole"), written.root)
    put(data, "pretrain.external.command", "train {handover}")
    written.write("whole", data)
    theirs = Lifecycle(written.load(name="whole"), written.root)
    before = "export/untrained"
    for artifact in theirs.of("pretrain"):
        if artifact.instance == SHUFFLED:
            assert artifact.fingerprint == ours["pretrain/shuffled"].fingerprint and GIVEN not in artifact.upstreams
            continue
        assert artifact.upstreams[GIVEN].name == before
        assert artifact.fingerprint != ours[artifact.name].fingerprint
        before = f"export/{artifact.instance}"
    assert theirs["export/untrained"].fingerprint == ours["export/untrained"].fingerprint
    put(data, "pretrain.external.settings", {"lr": 1e-5})
    written.write("whole", data)
    last = theirs.of("pretrain")[0]
    assert Lifecycle(written.load(name="whole"), written.root)[last.name].fingerprint != last.fingerprint
