"""A store with an empty MLflow database (its migration takes two seconds, so it is made once and copied)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.tracking.destination import Destination
from athanor.tracking.mlflow_adapter import MlflowAdapter

MakeStore = Callable[[str], Path]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs."""
    to = Destination(tmp_path_factory.mktemp("template"))
    to.prepare()
    MlflowAdapter(to.uri, to.artifact_root).experiments()
    return to.store / "mlflow" / "mlflow.db"


@pytest.fixture
def make_store(tmp_path: Path, empty_database: Path) -> MakeStore:
    """Stores with an empty MLflow, by name."""

    def make(name: str) -> Path:
        folder = tmp_path / name / "mlflow"
        folder.mkdir(parents=True)
        shutil.copy(empty_database, folder / "mlflow.db")
        return tmp_path / name

    return make


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    """One store with an empty MLflow."""
    return make_store("store")
