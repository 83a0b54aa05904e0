"""What an edit reruns: exactly what it should."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.lifecycle.project import Project, recipe

pytestmark = pytest.mark.slow

NOTHING: list[str] = []
FROM_PRETRAIN = ["pretrain/8192", "pretrain/16384", "export/16384", "evaluate/16384", "report/campaign"]
FROM_LAST_MILESTONE = ["pretrain/16384", "export/16384", "evaluate/16384", "report/campaign"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The recipe with one key changed."""
    data: dict[str, Any] = recipe()
    *sections, last = path.split(".")
    place = data
    for name in sections:
        place = place.setdefault(name, {})
    place[last] = value
    return data


def test_all_stages_done_every_manifest_verifies_deep(finished: Project) -> None:
    verified = finished.athanor("verify", "--deep")
    assert verified.returncode == 0, verified.stdout
    assert set(finished.computed().values()) == {1}


def test_second_run_has_nothing_to_do(copied: Project) -> None:
    before = copied.computed()
    again = copied.snakemake()
    assert again.returncode == 0, again.stderr
    assert copied.to_run() == NOTHING
    assert copied.computed() == before


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("pretrain.log_every_steps", 3, NOTHING),
        ("pretrain.validate_every_tokens", 2048, NOTHING),
        ("pretrain.parallel.micro_batch_size", 8, NOTHING),
        ("pretrain.parallel.expert", 1, NOTHING),
        ("pretrain.checkpoint.every_tokens", 4096, NOTHING),
        ("evaluate.batch_size", 2, NOTHING),
        ("pretrain.lr", 1e-3, FROM_PRETRAIN),
        ("pretrain.decay_tokens", 2048, FROM_LAST_MILESTONE),
        ("evaluate.limit", 2, ["evaluate/untrained", "evaluate/16384", "report/campaign"]),
        ("export.dtype", "bf16", ["export/untrained", "evaluate/untrained", "export/16384", "evaluate/16384", "report/campaign"]),
    ],
)
def test_edited_key_reruns_what_depends_on_it(copied: Project, path: str, value: Any, expected: list[str]) -> None:
    copied.write_recipe("tiny", changed(path, value))
    assert sorted(copied.to_run()) == sorted(expected)


def test_longer_budget_keeps_earlier_milestones(copied: Project) -> None:
    assert "pretrain/8192" not in copied.to_run("set=pretrain.token_budget=24576")


def test_comments_key_order_touched_inputs_and_site_rerun_nothing(copied: Project) -> None:
    path = copied.folder / "config/recipes/tiny.yaml"
    data = recipe()
    copied.write_recipe("tiny", dict(reversed(data.items())))
    path.write_text("# another comment\n" + path.read_text())
    for manifest in copied.store.glob("*/*/manifest.json"):
        manifest.touch()
    for document in (copied.folder / "corpus").iterdir():
        document.touch()
    shutil.copy(copied.folder / "config/sites/laptop.yaml", copied.folder / "config/sites/other.yaml")
    assert copied.to_run("site=other") == NOTHING


def test_lost_snakemake_folder_and_changed_key_rerun_exactly_what_should(copied: Project) -> None:
    shutil.rmtree(copied.folder / ".snakemake")
    assert copied.to_run() == NOTHING
    assert sorted(copied.to_run("set=pretrain.lr=1e-3")) == sorted(FROM_PRETRAIN)


def test_plan_names_the_changed_key(copied: Project) -> None:
    plan = copied.athanor("plan", "--set", "pretrain.lr=1e-3")
    assert "pretrain.lr 0.003 → 0.001" in plan.stdout


def test_moved_store_is_found_by_the_site_file(copied: Project, tmp_path: Path) -> None:
    shutil.move(copied.store, tmp_path / "elsewhere")
    site = {"store": str(tmp_path / "elsewhere")}
    copied.write("config/sites/moved.yaml", site)
    assert copied.to_run("site=moved") == NOTHING


def test_second_recipe_shares_the_common_prefix(copied: Project) -> None:
    copied.write_recipe("twin", changed("pretrain.lr", 1e-3))
    lock = copied.folder / "config/recipes/tiny.lock.yaml"
    shutil.copy(lock, lock.with_name("twin.lock.yaml"))
    assert sorted(copied.to_run("recipe=twin")) == sorted(FROM_PRETRAIN)


@pytest.mark.parametrize("way", ["deleted manifest", "force all"])
def test_sealed_bytes_are_adopted_and_nothing_is_computed(copied: Project, way: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.folder_of("pretrain/8192").rglob("*.distcp")}
    computed = copied.computed()
    if way == "deleted manifest":
        (copied.folder_of("pretrain/8192") / "manifest.json").unlink()
    done = copied.snakemake(*(["-F"] if way == "force all" else []))
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    recomputed = {name for name, count in copied.computed().items() if count != computed[name]}
    assert recomputed <= {f"report/{copied.folder_of('report/campaign').name}"}  # its figures are declared outputs
