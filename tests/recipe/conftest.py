"""A project of its own for every test of the recipe room."""

from pathlib import Path

import pytest

from tests.recipe.projects import Project, make_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The small project, in force while the test runs."""
    made = make_project(tmp_path / "project")
    monkeypatch.setenv("ATHANOR_PROJECT", str(made.root))
    return made
