"""What a rule's command meets on each rank, and what becomes of ranks that fail or are asked to stop."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.journal import Action, Attempt, Outcome

from .drivers import MARK, Checkout, Submit, wait_until

DUMP = "import json, os; json.dump(dict(os.environ), open('env.' + os.environ['RANK'] + '.json', 'w'))"

DUMP_COMMAND = shlex.join([sys.executable, "-c", DUMP]).replace("{", "{{").replace("}", "}}")


def test_direct_launch_gives_every_rank_its_torch_variables(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")  # what a user has set counts, and all tests have
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
        assert env["SUBMITIT_GRACE_SECONDS"] == "110"  # of the signal's 120 before walltime, less what recording takes
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
    assert len(attempt.starts()) == 3


def test_stage_that_finishes_while_stopping_is_finished(submitted: Submit) -> None:
    attempt = submitted("trap 'exit 0' TERM; while true; do sleep 0.05; done", ranks=1, minutes=8 / 60, delay_seconds=4)
    wait_until(attempt.end, "the end of the job")
    assert attempt.end().outcome is Outcome.SUCCESS and len(attempt.starts()) == 1


STORM = """
echo start >> starts
trap 'exit 75' TERM
kill -USR2 $PPID
while true; do sleep 0.05; done
"""


def test_job_that_is_requeued_again_and_again_without_progress_refuses_to_start(submitted: Submit) -> None:
    attempt = submitted(STORM, idle_starts=3, delay_seconds=10)
    wait_until(attempt.end, "the end of the job")
    assert attempt.end().outcome is Outcome.FAILED
    assert (submitted.folder / "starts").read_text().split() == ["start"] * 3
    assert "3 starts in a row without progress" in (attempt.folder / "exit-0.json").read_text()


def test_job_that_makes_progress_is_requeued_as_often_as_it_takes(submitted: Submit) -> None:
    beat = """
n=$(wc -l < starts); echo "{\\"time\\": $n, \\"done\\": $n}" > $SUBMITIT_ATTEMPT_FOLDER/heartbeat-here.json
[ $n -lt 6 ] || exit 0
"""
    attempt = submitted(STORM.replace("trap", f"{beat}trap"), idle_starts=2, delay_seconds=10)
    wait_until(attempt.end, "the end of the job")
    assert attempt.end().outcome is Outcome.SUCCESS
    assert [start.done for start in attempt.starts()] == [None, 1, 2, 3, 4, 5]


STUBBORN = """
    rule a:
        output: "a.txt"
        shell:
            '''
            n=$(( $(cat n 2>/dev/null || echo 0) + 1 )); echo $n > n
            sh mark.sh $n %s
            [ $n -ge 6 ] || kill -9 $$
            touch {output}
            '''
"""


def test_program_that_gets_on_is_started_again_as_often_as_it_is_killed(checkout: Checkout) -> None:
    checkout.write(MARK, "mark.sh")
    checkout.write(STUBBORN % "$n")
    said = checkout.run_well()
    assert "Starting it again" in said
    attempts = checkout.attempts()
    assert len(attempts) == 6 and {attempt.judgement().cause for attempt in attempts[:5]} == {"killed"}


def test_program_that_does_not_get_on_is_given_up_with_the_evidence(checkout: Checkout) -> None:
    checkout.write(MARK, "mark.sh")
    checkout.write(STUBBORN % "1")
    code, said = checkout.run("--submitit-idle-attempts", "2")
    assert code != 0 and "2 attempts in a row brought nothing new" in said and "attempts so far:" in said
    judgements = [attempt.judgement() for attempt in checkout.attempts()]
    assert [item.action for item in judgements] == [Action.RESTART, Action.RESTART, Action.ASK]


def test_unattended_run_leaves_what_was_given_up_and_does_the_rest(checkout: Checkout) -> None:
    checkout.write("""
        rule all:
            input: "a.txt", "b.txt"
        rule a:
            output: "a.txt"
            shell: "echo a >> runs; [ -e mended ] && touch {output}"
        rule b:
            output: "b.txt"
            shell: "echo b >> runs; [ $(wc -l < runs) -gt 1 ] && touch {output}"
    """)
    unattended = ("--keep-going", "--submitit-given-up", "leave")
    code, _ = checkout.run(*unattended)
    assert code != 0
    runs = checkout.lines("runs")
    code, said = checkout.run(*unattended)
    assert code != 0 and "given up after attempt 1 (failed)" in said and checkout.lines("runs") == runs
    checkout.write("", "mended")
    checkout.run_well()
    assert checkout.lines("runs").count("a") == 2
