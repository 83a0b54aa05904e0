"""The run of one stage: adopt, compute, stop, fail, be killed, be refused; never half done, never done twice."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from athanor.artifacts.execution import execute
from athanor.artifacts.lease import LEASE
from athanor.artifacts.manifest import IDENTITY, MANIFEST, SEAL, Manifest
from athanor.artifacts.run import STOPPED, Outcome, StageError, StageRun, Stopped
from athanor.tracking.spool import read_records
from tests.artifacts.conftest import INSTALLED, Bench
from tests.artifacts.fakes import await_file, bake, burn, computations, crash, promise

FETCH = "fetch/prose"
TOKENIZER = "tokenizer/bpe"


def refuse(stage: StageRun) -> Outcome:
    raise AssertionError("nothing was to be computed")


def ends_of(folder: Path) -> list[object]:
    """How each attempt ended, by its spool."""
    return [
        next((r.payload["status"] for r in read_records(path) if r.kind == "end"), None)
        for path in sorted((folder / "tracking").glob("*.jsonl"))
    ]


def test_stage_leaves_a_manifest_that_verifies(bench: Bench) -> None:
    manifest = bench.make(FETCH)
    folder = bench.folder(FETCH)
    assert manifest.verify(folder, deep=True) == []
    assert [record.path for record in manifest.result.files] == ["crumbs/big", "crumbs/fine/dust", "loaf.txt"]
    assert manifest.result.counters == {"loaves": 1, "flour": "rye"}
    assert manifest.provenance.metrics == {"crust": 0.5}
    assert (folder / MANIFEST).read_bytes() == (folder / SEAL).read_bytes()
    assert yaml.safe_load((folder / IDENTITY).read_text()) == bench.artifact(FETCH).identity()
    assert not (folder / LEASE).exists()


def test_spool_says_who_ran_on_what_and_how_it_ended(bench: Bench) -> None:
    bench.make("fetch/prose")
    bench.make("fetch/chemistry")
    manifest = bench.make(TOKENIZER)
    (spool,) = (bench.folder(TOKENIZER) / "tracking").glob("*.jsonl")
    records = list(read_records(spool))
    start, end = records[0].payload, records[-1].payload
    assert start["fingerprint"] == bench.artifact(TOKENIZER).fingerprint
    assert start["upstreams"] == json.loads(json.dumps({n: vars(u) for n, u in manifest.result.upstreams.items()}))
    assert start["versions"] == {"tokenizers": INSTALLED["tokenizers"]}
    assert end["status"] == "finished"
    assert manifest.provenance.tracking_id == f"{bench.artifact(TOKENIZER).fingerprint}/001"


def test_finished_artifact_is_not_made_again(bench: Bench) -> None:
    bench.make(FETCH)
    assert execute(bench.order(FETCH), refuse) == 0


def test_deleted_manifest_is_rewritten_from_the_sealed_bytes(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    before = bench.make(FETCH)
    order = bench.order(FETCH)
    order.manifest.unlink()
    assert execute(order, refuse) == 0
    assert Manifest.read(order.manifest) == before
    assert "verified, nothing computed" in capsys.readouterr().out


def damage_byte(folder: Path) -> None:
    content = bytearray((folder / "crumbs" / "big").read_bytes())
    content[1000] ^= 1
    (folder / "crumbs" / "big").write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": damage_byte,
    "a missing file": lambda folder: (folder / "loaf.txt").unlink(),
    "a truncated file": lambda folder: os.truncate(folder / "loaf.txt", 3),
    "an unreadable seal": lambda folder: (folder / SEAL).write_text("{"),
    "a seal that is none": lambda folder: (folder / SEAL).write_text('{"schema_version": 1, "result": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_result_is_made_again(bench: Bench, damage: str) -> None:
    before = bench.make(FETCH)
    order, folder = bench.order(FETCH), bench.folder(FETCH)
    order.manifest.unlink()
    DAMAGES[damage](folder)
    assert execute(order, bake) == 0
    after = Manifest.read(order.manifest)
    assert after.result == before.result
    assert after.verify(folder, deep=True) == []
    assert computations(folder) == ["rank 0 attempt 1", "rank 0 attempt 2"]


def test_seal_of_a_newer_athanor_is_neither_trusted_nor_overwritten(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.make(FETCH)
    order, seal = bench.order(FETCH), bench.folder(FETCH) / SEAL
    order.manifest.unlink()
    seal.write_text(json.dumps({**json.loads(seal.read_text()), "schema_version": 2}))
    assert execute(order, refuse) == 1
    assert "has schema_version 2, this Athanor reads 1" in capsys.readouterr().err
    assert json.loads(seal.read_text())["schema_version"] == 2
    assert not (bench.folder(FETCH) / LEASE).exists()


def test_stopped_stage_exits_75_and_continues_at_the_next_start(bench: Bench) -> None:
    def stop_once(stage: StageRun) -> Outcome:
        state = stage.folder / "state"
        if not state.exists():
            state.write_text("half way")
            raise Stopped("after half the bread")
        return bake(stage)

    order = bench.order(FETCH)
    assert execute(order, stop_once) == STOPPED == 75
    assert not order.manifest.exists()
    assert not (bench.folder(FETCH) / SEAL).exists()
    assert execute(order, stop_once) == 0
    assert ends_of(bench.folder(FETCH)) == ["stopped", "finished"]
    assert Manifest.read(order.manifest).provenance.attempts == 2


@pytest.mark.parametrize(
    ("fake", "cause"),
    [
        (burn, "oven.temperature=900: above 300; turn it down"),
        (crash, "ZeroDivisionError: no flour"),
        (promise, "FileNotFoundError: the stage names "),
    ],
)
def test_failed_stage_leaves_its_cause(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake: Callable[[StageRun], Outcome],
    cause: str,
) -> None:
    monkeypatch.setenv("SUBMITIT_ATTEMPT_FOLDER", str(tmp_path))
    order = bench.order(FETCH)
    assert execute(order, fake) == 1
    assert json.loads((tmp_path / "exit-0.json").read_text())["cause"].startswith(cause)
    assert cause.partition(": ")[2] in capsys.readouterr().err
    assert not order.manifest.exists()
    assert ends_of(bench.folder(FETCH)) == ["failed"]
    assert not (bench.folder(FETCH) / LEASE).exists()


def test_failed_stage_names_the_node_at_fault(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class HotError(StageError):
        kind, node = "hardware fault", "node7"

    def overheat(_stage: StageRun) -> Outcome:
        raise HotError("oven 7 is too hot")

    monkeypatch.setenv("SUBMITIT_ATTEMPT_FOLDER", str(tmp_path))
    assert execute(bench.order(FETCH), overheat) == 1
    note = json.loads((tmp_path / "exit-0.json").read_text())
    assert (note["kind"], note["node"], note["cause"]) == ("hardware fault", "node7", "oven 7 is too hot")


def test_user_error_is_told_without_a_traceback(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    execute(bench.order(FETCH), burn)
    said = capsys.readouterr().err
    assert said == "error: oven.temperature=900: above 300; turn it down\n"


def test_numbers_that_json_does_not_know_stay_out_of_the_manifest(bench: Bench) -> None:
    def odd(stage: StageRun) -> Outcome:
        return dataclasses.replace(bake(stage), metrics={"loss": float("nan"), "rate": float("inf"), "crust": 1.0})

    order = bench.order(FETCH)
    assert execute(order, odd) == 0
    assert Manifest.read(order.manifest).provenance.metrics == {"crust": 1.0}
    json.loads(order.manifest.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_input_is_opened_with_what_its_manifest_says(bench: Bench) -> None:
    for name in ("fetch/prose", "fetch/chemistry"):
        bench.make(name)
    seen: dict[str, object] = {}

    def look(stage: StageRun) -> Outcome:
        prose = stage.input_named("prose")
        seen.update(instance=prose.instance, loaves=prose.counters["loaves"], crust=prose.metrics["crust"])
        seen["bytes"] = (prose.folder / "loaf.txt").read_text()
        with pytest.raises(StageError, match="has no input 'poetry'; it was given prose, chemistry"):
            stage.input_named("poetry")
        return bake(stage)

    assert execute(bench.order(TOKENIZER), look) == 0
    fingerprint = bench.artifact("fetch/prose").fingerprint
    assert seen == {"instance": "prose", "loaves": 1, "crust": 0.5, "bytes": f"loaf of {fingerprint}\n"}


def test_input_of_another_identity_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fetch/prose", "fetch/chemistry"):
        bench.make(name)
    wrong = bench.folder("fetch/chemistry") / MANIFEST
    assert execute(bench.order(TOKENIZER, {"prose": wrong}), refuse) == 1
    assert f"--input prose: {wrong} is not {bench.artifact('fetch/prose').path}" in capsys.readouterr().err


def test_input_elsewhere_is_taken_when_it_is_the_right_one(bench: Bench, tmp_path: Path) -> None:
    for name in ("fetch/prose", "fetch/chemistry"):
        bench.make(name)
    moved = shutil.move(bench.folder("fetch/prose"), tmp_path / "elsewhere")
    assert execute(bench.order(TOKENIZER, {"prose": Path(moved) / MANIFEST}), bake) == 0


def test_missing_input_is_named(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(bench.order(TOKENIZER), refuse) == 1
    assert f"{bench.folder('fetch/prose') / MANIFEST} is missing" in capsys.readouterr().err


def test_damaged_input_is_refused_with_the_way_out(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fetch/prose", "fetch/chemistry"):
        bench.make(name)
    (bench.folder("fetch/prose") / "loaf.txt").unlink()
    assert execute(bench.order(TOKENIZER), refuse) == 1
    manifest = bench.folder("fetch/prose") / MANIFEST
    expected = f"input fetch/prose is damaged: loaf.txt is missing; delete {manifest} and run snakemake to remake it"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("pinned", ["9.9.9", "0.0.1"])
def test_other_package_version_than_pinned_is_refused(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: str
) -> None:
    from tests.recipe.projects import make_project

    other = make_project(tmp_path / "other")
    for tag in ("py311", "py312"):
        other.write_lock("cpu", tag, {**INSTALLED, "tokenizers": pinned})
    monkeypatch.setenv("ATHANOR_PROJECT", str(other.root))
    bench.project = other
    for name in ("fetch/prose", "fetch/chemistry"):
        bench.make(name)
    assert execute(bench.order(TOKENIZER), refuse) == 1
    assert f"tokenizer/bpe is pinned to tokenizers {pinned}, but " in capsys.readouterr().err


def test_plan_that_changed_since_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    order = bench.order("initialize/model")
    order.recipe.write_text(order.recipe.read_text().replace("seed: 1\n", "seed: 2\n", 1))
    assert execute(order, refuse) == 1
    assert f"{bench.artifact('initialize/model').path} is no artifact of plan.yaml any more" in capsys.readouterr().err


def test_killed_stage_is_made_by_the_next_start(bench: Bench) -> None:
    folder = bench.folder(FETCH)
    child = bench.start(FETCH, "bake_at_the_gate")
    await_file(folder / "begun")
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert (folder / LEASE).exists()
    manifest = bench.make(FETCH)
    assert manifest.verify(folder, deep=True) == []
    assert manifest.provenance.attempts == 2
    assert ends_of(folder) == [None, "finished"]


def test_sigterm_lets_a_stage_save_and_exit_75(bench: Bench) -> None:
    folder = bench.folder(FETCH)
    child = bench.start(FETCH, "bake_until_stopped")
    await_file(folder / "begun")
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate()
    assert child.returncode == STOPPED
    assert "stopped: after the first loaf; the next start continues from here" in said
    assert (folder / "saved").exists()
    assert not (folder / MANIFEST).exists()


def test_two_drivers_make_an_artifact_once(bench: Bench) -> None:
    folder = bench.folder(FETCH)
    children = [bench.start(FETCH, "bake_at_the_gate") for _ in range(2)]
    await_file(folder / "begun")
    (folder / "gate").touch()
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert computations(folder) == ["rank 0 attempt 1"]
    assert sum("nothing computed" in text for text in said) == 1
    assert Manifest.read(folder / MANIFEST).verify(folder, deep=True) == []


def test_waiting_driver_stops_when_asked_to(bench: Bench) -> None:
    folder = bench.folder(FETCH)
    bench.start(FETCH, "bake_at_the_gate")
    await_file(folder / "begun")
    waiting = bench.start(FETCH, "bake")
    assert waiting.stdout is not None
    assert "waiting for process" in waiting.stdout.readline()
    waiting.send_signal(signal.SIGTERM)
    said, _ = waiting.communicate()
    assert waiting.returncode == STOPPED
    assert "stopped: before the work began" in said
    assert computations(folder) == []


def test_all_ranks_do_what_rank_0_decides(bench: Bench) -> None:
    folder = bench.folder(FETCH)

    def job(attempt: str) -> list[int]:
        shared = {"WORLD_SIZE": "2", "SUBMITIT_ATTEMPT": attempt, "MASTER_PORT": f"2000{attempt}"}
        ranks = [bench.start(FETCH, "bake", RANK=str(rank), **shared) for rank in (1, 0)]
        return [rank.wait() for rank in ranks]

    assert job("1") == [0, 0]
    assert sorted(computations(folder)) == ["rank 0 attempt 1", "rank 1 attempt 1"]
    (folder / MANIFEST).unlink()
    assert job("2") == [0, 0]
    assert len(computations(folder)) == 2
    assert [path.name for path in (folder / "tracking").glob("*.jsonl")] == ["001.jsonl"]


def test_a_rank_that_comes_late_counts_as_rank_0_does(bench: Bench) -> None:
    shared = {"WORLD_SIZE": "2", "SUBMITIT_ATTEMPT": "1", "MASTER_PORT": "20001"}
    for rank in ("0", "1"):
        assert bench.start(FETCH, "bake", RANK=rank, **shared).wait() == 0
    assert computations(bench.folder(FETCH)) == ["rank 0 attempt 1", "rank 1 attempt 1"]
