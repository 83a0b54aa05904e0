"""What a rule's command meets on each rank, and what becomes of ranks that fail or are asked to stop."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.backend import Submission, submit_local
from snakemake_executor_plugin_submitit.journal import Attempt, Intent, JobFolder, JobKind, Outcome
from snakemake_executor_plugin_submitit.launch import StageTask
from snakemake_executor_plugin_submitit.processes import this_process

from .drivers import SOURCE_ROOT, Checkout, wait_until

DUMP = "import json, os; json.dump(dict(os.environ), open('env.' + os.environ['RANK'] + '.json', 'w'))"

DUMP_COMMAND = shlex.join([sys.executable, "-c", DUMP]).replace("{", "{{").replace("}", "}}")


def test_direct_launch_gives_every_rank_its_torch_variables(checkout: Checkout) -> None:
    checkout.write(f"""
        container: "docker://no/such:image"

        rule train:
            output: "done.txt"
            log: "logs/train.log"
            threads: 3
            resources: tasks=2, tmpdir="scratch"
            shell:
                {DUMP_COMMAND!r}
                " && echo I am $RANK && touch {{output}}"
    """)
    checkout.run_well()
    envs = [json.loads((checkout.folder / f"env.{rank}.json").read_text()) for rank in range(2)]
    for rank, env in enumerate(envs):
        assert (env["RANK"], env["LOCAL_RANK"]) == (str(rank), str(rank))
        assert (env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"]) == ("2", "2")
        assert (env["NODE_RANK"], env["NNODES"], env["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")
        assert (env["OMP_NUM_THREADS"], env["SUBMITIT_ATTEMPT"], env["TMPDIR"]) == ("3", "1", "scratch")
    assert envs[0]["MASTER_PORT"] == envs[1]["MASTER_PORT"]
    attempt = Attempt(Path(envs[0]["SUBMITIT_ATTEMPT_FOLDER"]))
    assert (checkout.folder / "logs/train.log").read_text() == "I am 0\n"
    assert [attempt.rank_log(rank).read_text() for rank in range(2)] == ["I am 0\n", "I am 1\n"]
    end = attempt.end()
    assert end is not None and end.exit_codes == {"0": 0, "1": 0}


def test_rank_that_dies_ends_the_others_and_is_named(checkout: Checkout) -> None:
    checkout.write("""
        rule train:
            output: "done.txt"
            resources: tasks=3
            shell: "echo line before; if [ $RANK = 1 ]; then echo the reason; exit 7; fi; exec sleep 600"
    """)
    code, said = checkout.run()
    assert code != 0
    (attempt,) = checkout.attempts()
    end = attempt.end()
    assert end is not None and (end.outcome, end.rank, end.exit_code) == (Outcome.FAILED, 1, 7)
    assert set(end.exit_codes) == {"0", "1", "2"}
    for expected in ("rank 1", "exit code 7", str(attempt.rank_log(1)), "the reason"):
        assert expected in said


def test_job_with_a_setup_that_fails_is_an_error(checkout: Checkout) -> None:
    checkout.write("""
        rule a:
            output: "a.txt"
            resources: slurm_setup="export WORD=ready; test -n \\"$MISSING\\" || exit 3"
            shell: "touch {output}"
    """)
    code, said = checkout.run()
    assert code != 0 and "did not start" in said


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    monkeypatch.setenv("PYTHONPATH", str(SOURCE_ROOT))
    return Submit(tmp_path)


class Submit:
    """Submits one local attempt without Snakemake, to set time limits of seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, command: str, ranks: int, minutes: float, delay_seconds: float) -> Attempt:
        intent = Intent("key", "uid", "spec", JobKind.LOCAL, "rule", command, ranks, this_process(), "me")
        attempt = JobFolder(self.folder / "job").claim(1, intent)
        assert attempt is not None
        task = StageTask(command, "/bin/bash", str(self.folder), str(attempt.folder), 4, 1, delay_seconds)
        submit_local(
            attempt,
            Submission(
                task,
                {"tasks_per_node": ranks, "timeout_min": minutes, "signal_delay_s": delay_seconds, "devices": (), "setup": []},
            ),
        )
        return attempt


STOPPABLE = """
echo $SUBMITIT_ATTEMPT >> attempts.$RANK
if [ $SUBMITIT_ATTEMPT -gt 6 ]; then exit 0; fi
trap 'echo saved >> saved.$RANK; exit 75' TERM
while true; do sleep 0.05; done
"""


def test_time_limit_stops_the_stage_softly_and_requeues_it_until_it_finishes(submitted: Submit) -> None:
    attempt = submitted(STOPPABLE, ranks=2, minutes=3 / 60, delay_seconds=2)
    wait_until(attempt.end, "the end of the job")
    assert attempt.end().outcome is Outcome.SUCCESS
    for rank in range(2):
        assert (submitted.folder / f"attempts.{rank}").read_text().split() == ["5", "6", "7"]
        assert (submitted.folder / f"saved.{rank}").read_text().split() == ["saved", "saved"]
    assert attempt.starts() == 3


def test_stage_that_finishes_while_stopping_is_finished(submitted: Submit) -> None:
    attempt = submitted("trap 'exit 0' TERM; while true; do sleep 0.05; done", ranks=1, minutes=3 / 60, delay_seconds=2)
    wait_until(attempt.end, "the end of the job")
    assert attempt.end().outcome is Outcome.SUCCESS and attempt.starts() == 1
