"""The locks in `envs/`, what identity takes from them, and the containers that are built from them."""

import re
from pathlib import Path

import pytest

from athanor.recipe.environments import LockError, environments, pinned_versions, pins
from athanor.recipe.graph import STAGES
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import load_recipe
from tests.recipe.projects import PINS, Project, make_project

CHECKOUT = Path(__file__).parents[2]
ENVS = CHECKOUT / "envs"
LOCKS = sorted(ENVS.glob("*-py*.lock"))
DEFINITIONS = sorted(ENVS.glob("*.def"))
PACKAGES = sorted({package for stage in STAGES.values() for package in stage.packages})
ENTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)((?: ;[^\\]*)?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def lock(path: Path) -> dict[str, str]:
    """Package → version; every line of the lock must be read."""
    text = path.read_text()
    assert "".join(found[0] for found in ENTRY.finditer(text)) == text, f"{path.name} has lines that are no hashed pin"
    names = [found[1] for found in ENTRY.finditer(text)]
    assert len(set(names)) == len(names), path.name
    return {found[1]: found[2] for found in ENTRY.finditer(text)}


def of_stages(versions: dict[str, str]) -> dict[str, str]:
    return {name: versions[name] for name in PACKAGES if name in versions}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_lock_is_nothing_but_hashed_pins(path: Path) -> None:
    assert len(lock(path)) > 50
    assert "torch" not in lock(path)


@pytest.mark.parametrize("environment", ["cpu", "dev", "gpu"])
def test_locks_of_all_python_versions_agree_on_what_decides_results(environment: str) -> None:
    found = [of_stages(lock(path)) for path in ENVS.glob(f"{environment}-py*.lock")]
    assert found
    assert all(versions == found[0] for versions in found)


def test_tests_run_with_what_stages_run_with() -> None:
    assert of_stages(lock(ENVS / "dev-py311.lock")) == of_stages(lock(ENVS / "cpu-py311.lock"))


def test_driver_can_be_no_environment_of_a_recipe() -> None:
    assert environments(CHECKOUT) == ["cpu", "gpu"]


@pytest.mark.parametrize("environment", ["cpu", "gpu"])
def test_every_package_a_stage_names_is_pinned_where_it_runs(environment: str) -> None:
    missing = set(PACKAGES) - set(pinned_versions(CHECKOUT, environment))
    assert missing == ({"transformer-engine"} if environment == "cpu" else set())


RECIPES = sorted(path for path in (CHECKOUT / "config" / "recipes").glob("*.yaml") if not path.name.endswith(".lock.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_of_the_checkout_is_fine_and_has_identities(path: Path) -> None:
    graph = list(Lifecycle(load_recipe(path.stem), CHECKOUT))
    assert len({artifact.path for artifact in graph}) == len(graph)


def test_build_of_a_package_does_not_count(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    (project.root / "envs" / "torch-cpu.txt").write_text("torch==2.13.0+cpu\n")
    assert pins(project.root, "cpu", ("torch",)) == {"torch": "2.13.0"}


def test_spelling_of_a_package_does_not_count(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    for path in (project.root / "envs").glob("cpu-*.lock"):
        path.write_text(path.read_text().replace("lm-eval", "LM_Eval"))
    assert pins(project.root, "cpu", ("lm-eval",)) == {"lm-eval": PINS["lm-eval"]}


def test_package_an_environment_lacks_is_no_part_of_its_identity(project: Project) -> None:
    assert pins(project.root, "cpu", ("numpy", "no-such-package")) == {"numpy": PINS["numpy"]}


def test_environment_without_a_lock_is_an_error_that_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"no lock envs/tpu-py\*\.lock in .*; make lock writes it"):
        pinned_versions(tmp_path, "tpu")


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.name)
def test_container_is_built_from_the_same_locks(path: Path) -> None:
    environment, text = path.stem, path.read_text()
    copied = re.findall(r"^ {4}(\S+) (/opt/envs/\S+)$", text, re.MULTILINE)
    assert [source for source, _ in copied] == [f"envs/torch-{environment}.txt", f"envs/{environment}-py312.lock"]
    assert all((CHECKOUT / source).is_file() for source, _ in copied)
    torch, locked, *others = re.findall(r"^ {4}.*\$pip install .*$", text, re.MULTILINE)
    assert "-r /opt/envs/torch.txt --index-url https://download.pytorch.org/whl/" in torch
    assert f"grep '^torch==' /opt/envs/torch-{environment}.txt >/opt/envs/torch.txt" in text
    assert f"--require-hashes --no-deps -r /opt/envs/{environment}-py312.lock" in locked
    assert all("--no-deps" in line for line in others)
    assert "python3.12 -m venv /opt/venv" in text


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.name)
def test_container_starts_from_a_named_version(path: Path) -> None:
    (base,) = re.findall(r"^From: (\S+)$", path.read_text(), re.MULTILINE)
    assert re.search(r":\d+\.\d+", base)


def test_gpu_container_compiles_transformer_engine_against_the_torch_it_has() -> None:
    text = (ENVS / "gpu.def").read_text()
    assert re.search(r"--no-deps --no-build-isolation -r /opt/envs/transformer-engine\.txt", text)
    pinned = re.findall(r"^(transformer-engine\S*)==(\S+)$", (ENVS / "torch-gpu.txt").read_text(), re.MULTILINE)
    assert {name for name, _ in pinned} == {"transformer-engine", "transformer-engine-cu13", "transformer-engine-torch"}
    assert len({version for _, version in pinned}) == 1
    extra = dict(re.findall(r" (\w+)==([\d.]+)", text))
    assert not set(extra) & set(lock(ENVS / "gpu-py312.lock")), "the lock has it by now: take it out of gpu.def"
