"""`config/README.md` is what the schema says."""

import subprocess
import sys
from pathlib import Path

from athanor.recipe.reference import reference
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.site import Site
from tests.recipe.schema_walk import places

README = Path(__file__).parents[2] / "config" / "README.md"


def test_readme_is_what_the_generator_writes() -> None:
    assert README.read_text(encoding="utf-8") == reference(), "run: python -m athanor.recipe.reference > config/README.md"


def test_every_key_has_a_row_with_its_meaning() -> None:
    rows = {line.split("`")[1] for line in reference().splitlines() if line.startswith("| `")}
    assert rows == {place.name for place in [*places(Recipe), *places(Site)]}


def test_every_table_row_has_as_many_cells_as_its_head() -> None:
    rows = [line.replace("\\|", "") for line in reference().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}


def test_command_prints_the_page() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "athanor.recipe.reference"],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "workflow"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert answer.stdout == reference()
