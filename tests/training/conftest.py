"""Starting points shared by the tests of training: fresh weights, made once."""

from pathlib import Path

import pytest

from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import recipe


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a finished initialize stage."""
    job = Job(tmp_path_factory.mktemp("initialize") / "artifact", recipe())
    assert processes.run(job) == [0], processes.log(job)
    return job.folder / "checkpoint"
