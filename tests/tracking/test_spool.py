"""The spool survives a kill at any byte, and costs the stage next to nothing."""

import inspect
import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.tracking.spool import Kind, NullSpool, Spool, SpoolVersionError, Status, read_chunk, read_records, spool_files
from athanor.tracking.system_metrics import parse_gpus
from tests.tracking.synthetic import PRETRAIN, log_curve, open_spool


def spool_at(folder: Path) -> Spool:
    """A fresh spool where an artifact has it."""
    return Spool(folder / "tracking" / "001.jsonl")


def test_records_come_back_in_order_with_their_payloads(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, PRETRAIN)
    spool.params({"lr": 1e-3})
    spool.metrics(10, {"loss": 2.5})
    spool.dataset("wiki", "abc", "pip:wiki", "training", {"rows": 3})
    spool.model("ckpt", 10, spool.path.parent.parent / "checkpoint", {"tokens": 5}, "megatron")
    spool.artifact("loss.png", "Loss")
    spool.end("finished", seconds=2.0, counters={"tokens": 5})
    spool.close()
    records = list(read_records(spool.path))
    kinds = [Kind.START, Kind.PARAMS, Kind.METRICS, Kind.DATASET, Kind.MODEL, Kind.ARTIFACT, Kind.END]
    assert [record.kind for record in records] == kinds
    assert [record.seq for record in records] == list(range(1, 8))
    assert (records[2].step, records[2].payload) == (10, {"loss": 2.5})
    assert records[4].payload["path"] == "checkpoint"  # store-relative, though given absolutely
    assert records[6].payload == {"status": "finished", "message": "", "seconds": 2.0, "counters": {"tokens": 5}}
    assert all(json.loads(line)["schema_version"] == 1 for line in spool.path.read_text().splitlines())


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000), more=st.integers(1, 4))
def test_reopening_after_a_kill_at_any_byte_keeps_whole_records_and_counts_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int, more: int
) -> None:
    spool = spool_at(tmp_path_factory.mktemp("a"))
    log_curve(spool, range(8))
    spool.close()
    before = list(read_records(spool.path))
    spool.path.write_bytes(spool.path.read_bytes()[:cut])
    whole = spool.path.read_bytes().count(b"\n")
    again = Spool(spool.path)
    log_curve(again, range(100, 100 + more))
    again.close()
    after = list(read_records(spool.path))
    assert after[:whole] == before[:whole]
    assert [record.seq for record in after] == list(range(1, whole + more + 1))


def test_reader_leaves_a_torn_last_line_for_later(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    log_curve(spool, range(2))
    whole = spool.path.stat().st_size
    with open(spool.path, "ab") as file:
        file.write(b'{"schema_version":1,"seq":3')
    chunk = read_chunk(spool.path)
    assert (len(chunk.records), chunk.offset, chunk.damaged) == (2, whole, 0)


def test_a_damaged_line_is_counted_and_the_rest_read(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    log_curve(spool, range(3))
    lines = spool.path.read_bytes().splitlines(keepends=True)
    spool.path.write_bytes(lines[0] + b"\0" * 40 + b"\n" + lines[2])
    chunk = read_chunk(spool.path)
    assert ([record.seq for record in chunk.records], chunk.damaged) == ([1, 3], 1)


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 500))
def test_reading_in_chunks_of_any_size_gives_every_record_once(tmp_path_factory: pytest.TempPathFactory, limit: int) -> None:
    spool = spool_at(tmp_path_factory.mktemp("a"))
    log_curve(spool, range(12))
    offset, seqs = 0, []
    while (chunk := read_chunk(spool.path, offset, limit)).offset > offset:
        offset = chunk.offset
        seqs += [record.seq for record in chunk.records]
    assert seqs == list(range(1, 13))


def test_not_a_number_and_infinity_survive_as_standard_json(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.metrics(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    assert "NaN" not in spool.path.read_text() and "Infinity" not in spool.path.read_text()
    (record,) = read_records(spool.path)
    values = [float(str(value)) for value in record.payload.values()]
    assert math.isnan(values[0]) and values[1:] == [math.inf, -math.inf]


def test_numbers_deep_in_a_payload_are_standard_json_too(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.params({"lr": math.nan, "schedule": {"rates": [1.0, math.inf]}})
    spool.dataset("wiki", "abc", "pip:wiki", "training", {"mean": math.nan})
    assert "NaN" not in spool.path.read_text() and "Infinity" not in spool.path.read_text()
    params, dataset = read_records(spool.path)
    assert params.payload == {"lr": "nan", "schedule": {"rates": [1.0, "inf"]}}
    assert dataset.payload["profile"] == {"mean": "nan"}


def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.path.write_text('{"schema_version": 2, "seq": 1}\n')
    with pytest.raises(SpoolVersionError, match=r"001\.jsonl has schema_version 2"):
        read_chunk(spool.path)


def test_threads_share_a_spool_without_mixing_lines(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    threads = [threading.Thread(target=log_curve, args=(spool, range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.seq for record in read_records(spool.path)] == list(range(1, 201))


def test_system_metrics_are_sampled_while_the_context_is_open(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    sampled = threading.Event()
    append = spool.system

    def system(values: dict[str, float]) -> None:
        append(values)
        sampled.set()

    spool.system = system  # type: ignore[method-assign,assignment]
    with spool.system_metrics(every_seconds=0.01):
        assert sampled.wait(30)
    names = next(read_records(spool.path)).payload
    assert {"cpu_utilization_percentage", "process_memory_megabytes", "disk_available_megabytes"} <= set(names)
    count = len(list(read_records(spool.path)))
    assert all(record.kind is Kind.SYSTEM for record in read_records(spool.path)) and count >= 1


def test_gpu_metrics_leave_out_what_is_not_a_number() -> None:
    text = "0, 97, 70000, 143771, 650.5\n1, [N/A], 12, 143771, [N/A]\n"
    found = parse_gpus(text)
    assert found["gpu_0_utilization_percentage"] == 97 and found["gpu_0_power_usage_watts"] == 650.5
    assert set(found) & {"gpu_1_utilization_percentage", "gpu_1_power_usage_watts"} == set()
    assert found["gpu_1_memory_usage_megabytes"] == 12


def test_null_spool_has_the_same_methods() -> None:
    for name, method in inspect.getmembers(Spool, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(NullSpool, name)) == inspect.signature(method), name


def test_spools_of_an_artifact_come_in_order_of_attempts(tmp_path: Path) -> None:
    for attempt in (1, 2, 10, 1000):
        open_spool(tmp_path, PRETRAIN, attempt).close()
    assert [int(path.stem) for path in spool_files(tmp_path / PRETRAIN.path)] == [1, 2, 10, 1000]


def test_an_unknown_end_status_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="done"):
        spool_at(tmp_path).end("done")
    assert {status.value for status in Status} == {"finished", "failed", "stopped"}


def test_importing_the_spool_imports_only_the_standard_library() -> None:
    code = "import sys; import athanor.tracking.spool; sys.exit(bool({'mlflow', 'psutil', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
