"""Entry point of one rank: `python -m snakemake_executor_plugin_submitit.rank SUBMITIT_FOLDER`."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the one task that lies in the folder."""
    folder = Path(sys.argv[1])
    # submitit imports numpy for the sake of pickles that hold arrays; ours hold strings, and it costs 0.2 CPU s a rank.
    sys.modules["numpy"] = None  # type: ignore[assignment]
    from submitit.core.job_environment import JobEnvironment
    from submitit.core.submission import process_job

    place = JobEnvironment()
    heal_submission(folder, place.job_id)
    del sys.modules["numpy"]
    process_job(folder)


def task_file(index: int) -> str:
    """Name of the pickled task of an array's element."""
    return f"task_{index}.pkl"


def heal_submission(folder: Path, job_id: str) -> None:
    """Give the task's pickle its final name when the submitter died, or is slower than this rank.

    A folder belongs to one attempt, so the only pickle without a job id is this job's; an array's folder names each
    task by its index. It gets a second name: a submitter that lives still finds the first one, and its own renaming then
    changes nothing.
    """
    named = folder / f"{job_id}_submitted.pkl"
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    drafts = [folder / task_file(int(index))] if index else [path for path in folder.glob("*.pkl") if "_" not in path.stem]
    for draft in drafts:
        if not named.exists():
            try:
                os.link(draft, named)
            except (FileNotFoundError, FileExistsError):
                continue  # the submitter, or another rank, was faster


if __name__ == "__main__":
    main()
