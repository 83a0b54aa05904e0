"""A project with a store, and what is needed to run fake stages in it."""

import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from athanor.artifacts.execution import Order, execute
from athanor.artifacts.manifest import MANIFEST, Manifest
from athanor.recipe.graph import Artifact
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import resolved_text
from athanor.recipe.schema.recipe import Recipe
from tests.artifacts.fakes import bake
from tests.recipe.projects import PINS, Project, make_project

CHECKOUT = Path(__file__).parents[2]
INSTALLED = {**PINS, "tokenizers": importlib.metadata.version("tokenizers")}


@dataclass
class Bench:
    """The small project and a store beside it."""

    project: Project
    store: Path
    recipe: Recipe
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def artifact(self, name: str) -> Artifact:
        """An artifact of the small recipe by name."""
        return Lifecycle(self.recipe, self.project.root)[name]

    def folder(self, name: str) -> Path:
        """Its folder in the store."""
        return self.store / self.artifact(name).path

    def order(self, name: str, inputs: Mapping[str, Path] | None = None) -> Order:
        """The order to make it, with its plan in place as a driver would have written it."""
        folder = self.folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        plan = folder / "plan.yaml"
        if not plan.exists():
            plan.write_text(resolved_text(self.recipe))
        return Order(self.artifact(name).stage, plan, "laptop", inputs or {}, folder / MANIFEST)

    def make(self, name: str) -> Manifest:
        """Make it with the fake stage `bake`."""
        order = self.order(name)
        assert execute(order, bake) == 0
        return Manifest.read(order.manifest)

    def start(self, name: str, fake: str, **variables: str) -> subprocess.Popen[str]:
        """Make it in a process of its own with a fake stage of `tests.artifacts.fakes`."""
        order = self.order(name)
        path = os.pathsep.join([str(CHECKOUT / "workflow"), str(CHECKOUT)])
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.artifacts.fakes", fake, order.stage, str(order.recipe), str(order.manifest)],
            env={**os.environ, "PYTHONPATH": path, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.children.append(child)
        return child


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The small project in force; children that a failed test left behind are ended, SIGTERM is put back."""
    project = make_project(tmp_path / "project")
    for tag in ("py311", "py312"):
        project.write_lock("cpu", tag, INSTALLED)
    monkeypatch.setenv("ATHANOR_PROJECT", str(project.root))
    for name in ("RANK", "WORLD_SIZE", "SUBMITIT_ATTEMPT", "SUBMITIT_ATTEMPT_FOLDER", "SLURM_JOB_ID", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    made = Bench(project, tmp_path / "store", project.load())
    yield made
    signal.signal(signal.SIGTERM, before)
    for child in made.children:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
