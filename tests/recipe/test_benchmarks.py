"""A recipe that a benchmark derives from a shipped one stays valid when that one changes."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from athanor.recipe.loading import load_recipe, project_folder
from athanor.recipe.schema.recipe import Recipe


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their folder is where modules are looked for, as where one is started."""
    monkeypatch.syspath_prepend(str(project_folder() / "benchmarks"))


def derived(benchmark: str, quick: bool, tmp_path: Path) -> Recipe:
    module: Any = importlib.import_module(benchmark)
    (path := tmp_path / "derived.yaml").write_text(yaml.safe_dump(module.recipe(1, quick)))
    return load_recipe(str(path))


@pytest.mark.parametrize("quick", [False, True])
def test_campaigns_have_a_valid_recipe(benchmarks: None, tmp_path: Path, quick: bool) -> None:
    assert derived("post_training", quick, tmp_path).preference.control
    online = derived("rl", quick, tmp_path)
    assert online.learns_online and len(online.online.controls) == 2 and not online.learns_preferences
