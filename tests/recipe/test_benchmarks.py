"""A recipe that a benchmark derives from a shipped one stays valid when that one changes."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from athanor.recipe.loading import load_recipe, project_folder


@pytest.mark.parametrize("quick", [False, True])
def test_campaigns_of_post_training_have_a_valid_recipe(tmp_path: Path, quick: bool) -> None:
    spec = importlib.util.spec_from_file_location("post_training", project_folder() / "benchmarks/post_training.py")
    assert spec is not None and spec.loader is not None
    benchmark: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    (path := tmp_path / "derived.yaml").write_text(yaml.safe_dump(benchmark.recipe(1, quick)))
    assert load_recipe(str(path)).preference.control
