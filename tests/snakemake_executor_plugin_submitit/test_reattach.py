"""Drivers die, come back, and meet each other; jobs go on and run once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.journal import Acceptance, Outcome

from .drivers import DEADLINE_SECONDS, Checkout, interrupt, kill, wait_until

GATED = """
rule a:
    output: "a.txt"
    log: "a.log"
    shell: "echo started >> runs.txt; until [ -e gate ]; do sleep 0.05; done; echo said; cp gate {output}"
"""


def started(checkout: Checkout, name: str = "runs.txt") -> bool:
    return bool(checkout.lines(name))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_job_of_a_driver_that_ended_is_adopted(checkout: Checkout, number: signal.Signals) -> None:
    checkout.write(GATED)
    first = checkout.start()
    wait_until(lambda: started(checkout), "the start of the job")
    interrupt(first, number)
    second = checkout.start("--nolock")
    checkout.write("result", "gate")
    said, _ = second.communicate(timeout=DEADLINE_SECONDS)
    assert second.returncode == 0, said
    assert checkout.lines("runs.txt") == ["started"]
    assert checkout.lines("a.txt") == ["result"] and checkout.lines("a.log") == ["said"]
    assert len(checkout.attempts()) == 1


def test_job_that_finished_without_a_driver_is_accepted(checkout: Checkout) -> None:
    checkout.write(GATED)
    first = checkout.start()
    wait_until(lambda: started(checkout), "the start of the job")
    kill(first)
    checkout.write("result", "gate")
    (attempt,) = checkout.attempts()
    wait_until(attempt.end, "the end of the job")
    checkout.run_well("--nolock")
    assert checkout.lines("runs.txt") == ["started"] and attempt.acceptance() is not None


def test_job_that_vanished_is_run_again(checkout: Checkout) -> None:
    checkout.write(GATED)
    first = checkout.start()
    wait_until(lambda: started(checkout), "the start of the job")
    kill(first)
    (attempt,) = checkout.attempts()
    os.kill(attempt.job().process.pid, signal.SIGKILL)
    checkout.write("result", "gate")
    checkout.run_well("--nolock")
    assert [item.end().outcome for item in checkout.attempts()] == [Outcome.LOST, Outcome.SUCCESS]


def test_interrupt_that_cancels_ends_the_job(checkout: Checkout) -> None:
    checkout.write(GATED)
    driver = checkout.start("--submitit-on-interrupt", "cancel")
    wait_until(lambda: started(checkout), "the start of the job")
    interrupt(driver)
    (attempt,) = checkout.attempts()
    wait_until(attempt.end, "the end of the job")
    assert attempt.end().outcome is Outcome.CANCELLED


def test_changed_command_of_a_live_job_is_refused(checkout: Checkout) -> None:
    checkout.write(GATED)
    first = checkout.start()
    wait_until(lambda: started(checkout), "the start of the job")
    kill(first)
    checkout.write(GATED.replace("echo said", "echo something else"))
    code, said = checkout.run("--nolock")
    (attempt,) = checkout.attempts()
    assert code != 0 and str(attempt.job()) in said and attempt.end() is None
    checkout.write(GATED)
    checkout.write("result", "gate")
    checkout.run_well("--nolock")
    assert checkout.lines("runs.txt") == ["started"]


def test_second_driver_of_another_checkout_adopts_the_job_in_the_store(checkout: Checkout, tmp_path: Path) -> None:
    store = tmp_path / "store"
    workflow = f"""
        STORE = "{store}"
        rule a:
            output: STORE + "/train/0123/manifest.json"
            resources: journal=STORE + "/train/0123"
            shell: "echo started >> {store}/runs.txt; until [ -e {store}/gate ]; do sleep 0.05; done; touch {{output}}"
    """
    other = Checkout(tmp_path / "other")
    for each in (checkout, other):
        each.write(workflow)
    drivers = [each.start() for each in (checkout, other)]
    everything = Checkout(tmp_path)
    wait_until(lambda: everything.lines("store/runs.txt"), "the start of the job")
    (store / "gate").touch()
    for driver in drivers:
        said, _ = driver.communicate(timeout=DEADLINE_SECONDS)
        assert driver.returncode == 0, said
    assert everything.lines("store/runs.txt") == ["started"]
    (attempt,) = everything.attempts("store")
    assert Acceptance.read(attempt.folder) is not None


def test_failed_job_is_run_again_by_the_next_driver(checkout: Checkout) -> None:
    checkout.write("""
        rule a:
            output: "a.txt"
            shell: "echo $SUBMITIT_ATTEMPT >> runs.txt; test -e gate && touch {output}"
    """)
    code, _ = checkout.run()
    assert code != 0
    checkout.write("", "gate")
    checkout.run_well()
    assert checkout.lines("runs.txt") == ["1", "2"]


def test_local_queue_never_uses_more_cores_than_it_may(checkout: Checkout) -> None:
    checkout.write("""
        rule all:
            input: expand("{i}.txt", i=range(6))
        rule a:
            output: "{i}.txt"
            threads: 2
            shell:
                "mkdir -p busy; touch busy/{wildcards.i}; ls busy | wc -l >> seen.txt; "
                "rm busy/{wildcards.i}; touch {output}"
    """)
    checkout.run_well("--submitit-local-cores", "4")
    assert len(checkout.lines("seen.txt")) == 6
    assert max(int(line) for line in checkout.lines("seen.txt")) <= 2


def test_terminated_driver_starts_nothing_that_waits_for_its_turn(checkout: Checkout) -> None:
    checkout.write("""
    rule all:
        input: "1.txt", "2.txt"

    rule each:
        output: "{number}.txt"
        shell: "echo started >> runs.txt; until [ -e gate ]; do sleep 0.05; done; touch {output}"
    """)
    driver = checkout.start("--submitit-local-cores", "1")
    wait_until(lambda: started(checkout), "the start of the first")
    said = interrupt(driver, signal.SIGTERM)
    assert "run snakemake again to adopt it" in said and driver.returncode != 0
    assert checkout.lines("runs.txt") == ["started"] and len(checkout.attempts()) == 1
    checkout.write("", "gate")
    checkout.run_well("--nolock")
    assert checkout.lines("runs.txt") == ["started"] * 2 and len(checkout.attempts()) == 2


def test_local_queue_starts_what_has_the_highest_priority(checkout: Checkout) -> None:
    checkout.write("""
    rule all:
        input: expand("{name}.txt", name=["low", "none", "high", "middle"])

    rule each:
        output: "{name}.txt"
        priority: lambda wildcards: dict(low=1, none=0, high=30, middle=20)[wildcards.name]
        shell: "echo {wildcards.name} >> order.txt; touch {output}"
    """)
    checkout.run_well("--submitit-local-cores", "1")
    assert checkout.lines("order.txt") == ["high", "middle", "low", "none"]
