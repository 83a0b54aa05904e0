"""A rank may start before its submitter has given the task its final name."""

from pathlib import Path

from snakemake_executor_plugin_submitit.rank import heal_submission


def test_rank_before_submitter_both_find_the_task(tmp_path: Path) -> None:
    draft, named = tmp_path / "0a1b.pkl", tmp_path / "77_submitted.pkl"
    draft.write_bytes(b"task")
    heal_submission(tmp_path, "77")
    assert named.read_bytes() == b"task"
    draft.rename(named)  # what submitit does next, when its submitter is still alive
    assert named.read_bytes() == b"task"


def test_rank_after_submitter_leaves_the_task_alone(tmp_path: Path) -> None:
    named = tmp_path / "77_submitted.pkl"
    named.write_bytes(b"task")
    heal_submission(tmp_path, "77")
    assert [path.name for path in tmp_path.iterdir()] == [named.name]
