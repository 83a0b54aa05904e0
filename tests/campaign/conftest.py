"""A campaign of the small project, and folders that look as if its stages had run."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from athanor.artifacts.files import record_files
from athanor.artifacts.manifest import IDENTITY, Manifest, Provenance, Result, Upstream
from athanor.campaign.campaign import Campaign
from athanor.recipe.graph import Artifact
from tests.recipe.projects import Project, make_project


@dataclass
class Furnace:
    """The small project; what a driver and its jobs would have left in the store is written by hand."""

    project: Project

    def campaign(self, *overrides: str, recipe: str = "base", name: str = "") -> Campaign:
        """The campaign of a recipe with overrides."""
        return Campaign.open(recipe, "laptop", overrides, name)

    def begin(self, campaign: Campaign, artifact: Artifact, attempt: int = 1) -> Path:
        """The artifact's job runs: identity, attempt and log are there. Returns the attempt's folder."""
        folder = campaign.store.folder(artifact)
        attempt_folder = folder / "attempts" / f"{attempt:03d}"
        attempt_folder.mkdir(parents=True)
        (folder / IDENTITY).write_text(yaml.safe_dump(artifact.identity()))
        (attempt_folder / "rank-0.log").write_text(f"attempt {attempt} of {artifact.name}\nlast words\n")
        return attempt_folder

    def finish(self, campaign: Campaign, artifact: Artifact, **metrics: float) -> Path:
        """The artifact is done. Returns its folder."""
        folder = campaign.store.folder(artifact)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / IDENTITY).write_text(yaml.safe_dump(artifact.identity()))
        (folder / "bytes").write_text(artifact.fingerprint)
        upstreams = {n: Upstream(u.stage, u.instance, u.fingerprint) for n, u in artifact.upstreams.items()}
        files = record_files(folder, ["bytes"])
        result = Result(artifact.stage, artifact.instance, artifact.fingerprint, upstreams, files, {"tokens": 7_000})
        Manifest(result, Provenance(f"{artifact.fingerprint}/001", 1, 0.0, 2.5, "host", "", metrics)).write(folder)
        return folder

    def finish_all(self, campaign: Campaign) -> None:
        """Every artifact is done."""
        for artifact in campaign.missing():
            self.finish(campaign, artifact)

    def fail(self, attempt: Path, causes: Mapping[int, str], **end: Any) -> None:
        """The attempt ended: `causes` by rank, as the ranks left them."""
        for order, (rank, cause) in enumerate(causes.items()):
            (attempt / f"exit-{rank}.json").write_text(json.dumps({"schema_version": 1, "cause": cause, "time": order}))
        record = {"outcome": "failed", "rank": 0, "exit_code": 1, "cause": "exit", **end}
        (attempt / "end.json").write_text(json.dumps(record))

    def mark(self, attempt: Path, node: str = "node", **values: Any) -> None:
        """A heartbeat of the attempt."""
        (attempt / f"heartbeat-{node}.json").write_text(json.dumps({"schema_version": 1, **values}))


@pytest.fixture
def furnace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Furnace:
    """The small project in force, with its store inside."""
    project = make_project(tmp_path / "project")
    monkeypatch.setenv("ATHANOR_PROJECT", str(project.root))
    monkeypatch.delenv("ATHANOR_SITE", raising=False)
    return Furnace(project)


@pytest.fixture
def run_cli(furnace: Furnace, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`athanor …` in this process: exit code, what it printed, what it complained."""
    from athanor.cli import main

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([words[0], "--recipe", "base", *words[1:]])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
