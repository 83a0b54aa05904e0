"""One finished campaign, made once and copied by the tests that disturb it."""

from pathlib import Path

import pytest

from tests.lifecycle.project import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose campaign has run to its end, undisturbed. Do not change it: copy it."""
    project = Project.make(tmp_path_factory.mktemp("finished"))
    done = project.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def copied(finished: Project, tmp_path: Path) -> Project:
    """The finished project in another place: both the checkout and the store have moved."""
    return finished.copy(tmp_path / "moved")
