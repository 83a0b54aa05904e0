"""What a stage finds in its environment: the site's secrets and scratch folder, which stand nowhere else."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from athanor.artifacts.execution import Order, execute
from athanor.artifacts.run import Outcome, StageRun
from tests.artifacts.conftest import Bench

SECRET = "hush-4711"


@pytest.fixture
def site(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A site with secrets and scratch; what a stage changes in this process is put back. Returns the secrets file."""
    for name in ("HF_TOKEN", "TMPDIR"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setattr(tempfile, "tempdir", None)
    path = tmp_path / "secrets"
    path.write_text(f"HF_TOKEN={SECRET}\n")
    path.chmod(0o600)
    data = {"secrets": str(path), "scratch": f"{tmp_path}/scratch/$USER"}
    bench.project.write("cluster", data, "sites")
    return path


def run(bench: Bench, stage: object) -> int:
    order = bench.order("fetch/prose")
    at_cluster = Order(order.stage, order.recipe, "cluster", order.inputs, order.manifest)
    return execute(at_cluster, stage)  # type: ignore[arg-type]


def test_stage_has_the_secrets_and_leaves_them_nowhere(
    bench: Bench, site: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen: dict[str, str] = {}

    def look(stage: StageRun) -> Outcome:
        seen.update({name: os.environ[name] for name in ("HF_TOKEN", "TMPDIR")}, temporary=tempfile.gettempdir())
        (stage.folder / "bytes").write_text("x")
        return Outcome(("bytes",), {}, {})

    assert run(bench, look) == 0
    assert seen["HF_TOKEN"] == SECRET
    assert Path(seen["TMPDIR"]).parent == tmp_path / "scratch" and seen["temporary"] == seen["TMPDIR"]
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    assert SECRET.encode() not in Path("/proc/self/environ").read_bytes()  # what `ps e` shows
    written = [path for path in bench.store.rglob("*") if path.is_file()]
    assert written and not any(SECRET.encode() in path.read_bytes() for path in written)


def test_secrets_that_others_can_read_are_refused_before_anything_is_computed(
    bench: Bench, site: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "attempt").mkdir()
    monkeypatch.setenv("SUBMITIT_ATTEMPT_FOLDER", str(tmp_path / "attempt"))
    site.chmod(0o640)
    assert run(bench, lambda stage: pytest.fail("the stage was run")) == 1
    said = capfd.readouterr().err
    assert f"chmod 600 {site}" in said and "Traceback" not in said and SECRET not in said
    note = json.loads((tmp_path / "attempt" / "exit-0.json").read_text())
    assert note["kind"] == "refused" and SECRET not in str(note)


def test_missing_secrets_are_refused(bench: Bench, site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site.unlink()
    assert run(bench, lambda stage: pytest.fail("the stage was run")) == 1
    assert "there is no such file; install -m 600 /dev/null" in capfd.readouterr().err


def test_scratch_that_cannot_be_made_is_refused(
    bench: Bench, site: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "scratch").write_text("a file where the folder should be")
    assert run(bench, lambda stage: pytest.fail("the stage was run")) == 1
    assert "cannot be made" in capfd.readouterr().err
