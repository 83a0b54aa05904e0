"""From spools to runs: what each record becomes in MLflow, exactly once however often the writer is killed.

One parent run a campaign, one nested run an attempt. An attempt's points go to its own run. The attempt that finishes
the artifact also receives the points of the earlier attempts it continued from (`records.history`), so the run that
models and links point to holds the whole curve, each step once.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from athanor.tracking import description, mlflow_adapter
from athanor.tracking.description import Row
from athanor.tracking.lineage import Lineage
from athanor.tracking.mlflow_adapter import BATCH, Dataset, MlflowAdapter, Point, Refused
from athanor.tracking.records import Start, flat, history, mapping, numbers, text
from athanor.tracking.spool import (
    Chunk,
    Kind,
    Record,
    SpoolVersionError,
    Status,
    read_chunk,
    read_records,
    spool_files,
)
from athanor.tracking.state import Progress, WriterState

ENDS = {Status.FINISHED: "FINISHED", Status.FAILED: "FAILED", Status.STOPPED: "KILLED"}
RUNNING, KILLED = "RUNNING", "KILLED"
SILENT_SECONDS = 900.0  # the system metrics come every ten seconds: an attempt silent for so long is dead
Say = Callable[[str], None]
DrainFolder = Callable[[str], int]


class Drain:
    """Brings the spools of one campaign's artifacts into MLflow; `folders` are store-relative: `pretrain/0123…`."""

    def __init__(
        self, store: Path, campaign: str, adapter: MlflowAdapter, state: WriterState, upstream: DrainFolder, say: Say
    ) -> None:
        self._store, self._campaign, self._adapter, self._state, self._say = store, campaign, adapter, state, say
        self._lineage = Lineage(adapter, upstream)
        self._reported: set[str] = set()
        self._shown = ("", "")
        self._open_campaign()

    def drain_folder(self, folder: str) -> int:
        """Drain every attempt of one artifact. Returns the records taken. Raises Unavailable."""
        paths, taken = spool_files(self._store / folder), 0
        for position, path in enumerate(paths):
            progress = self._progress(folder, path)
            try:
                taken += self._drain_spool(path, paths[:position], progress)
            except (SpoolVersionError, Refused, OSError) as error:
                self._once(f"{folder}: {error}")
                continue
            self._note_death(path, progress, superseded=position + 1 < len(paths))
        return taken

    def refresh_campaign(self, rows: Sequence[Row], total: int, status: str = RUNNING) -> None:
        """Bring the parent run's table of artifacts, and its status, up to date."""
        table = description.campaign_note(self._campaign, total, rows)
        if (table, status) != self._shown:
            end = None if status == RUNNING else int(time.time() * 1000)
            self._adapter.tag(self._state.parent_run_id, {mlflow_adapter.NOTE: table})
            self._adapter.set_status(self._state.parent_run_id, status, end)
            self._shown = (table, status)

    def _open_campaign(self) -> None:
        """The experiment and the parent run. A database that does not know the remembered run is a new one."""
        state, key = self._state, {mlflow_adapter.CAMPAIGN: self._campaign, "kind": "campaign"}
        experiment = self._adapter.experiment(self._campaign)
        found = self._adapter.find_run([experiment], key)
        if found is None or found.run_id != state.parent_run_id or experiment != state.experiment_id:
            state.spools.clear()
        state.experiment_id = experiment
        state.parent_run_id = (
            found.run_id if found else self._adapter.create_run(experiment, self._campaign, int(time.time() * 1000), "", key)
        )

    def _progress(self, folder: str, path: Path) -> Progress:
        return self._state.spool(folder, path.name)

    def _drain_spool(self, path: Path, earlier: Sequence[Path], progress: Progress) -> int:
        taken = 0
        if path.stat().st_size < progress.offset:  # not the file we knew
            progress.offset = 0
        while (chunk := read_chunk(path, progress.offset)).offset > progress.offset:
            if chunk.damaged:
                self._once(f"{path}: {chunk.damaged} damaged lines left out")
            taken += self._take(chunk, path, earlier, progress)
            progress.offset = chunk.offset
        return taken

    def _take(self, chunk: Chunk, path: Path, earlier: Sequence[Path], progress: Progress) -> int:
        """Bring one chunk's new records into the run; curves in batches, the rest one by one."""
        if not chunk.records:
            return 0
        if not progress.run_id:
            self._open_run(chunk.records[0], path, progress)
        new = [record for record in chunk.records if record.seq > progress.seq]
        points: list[Point] = []
        for record in new:
            if record.kind in (Kind.METRICS, Kind.SYSTEM):
                points += _points([record])
            else:
                self._log(points, progress)
                points = []
                self._take_one(record, path, earlier, progress)
            progress.time = record.time
            if len(points) >= BATCH:
                self._log(points, progress, record.seq)
                points = []
        if new:
            self._log(points, progress, new[-1].seq)
        return len(new)

    def _log(self, points: Sequence[Point], progress: Progress, seq: int | None = None) -> None:
        """Points, and with them the tag that says up to which record the run is complete."""
        tags = {mlflow_adapter.SEQ: str(seq)} if seq is not None else {}
        if points or tags:
            try:
                self._adapter.log_points(progress.run_id, points, tags, progress.model_id)
            except Refused as refusal:
                self._once(f"{progress.name}: {refusal}")
        if seq is not None:
            progress.seq = seq

    def _take_one(self, record: Record, path: Path, earlier: Sequence[Path], progress: Progress) -> None:
        handlers: Mapping[Kind, Callable[[], None]] = {
            Kind.START: lambda: self._start(record, path, progress),
            Kind.PARAMS: lambda: self._adapter.log_params(progress.run_id, flat(record.payload)),
            Kind.DATASET: lambda: self._adapter.log_datasets(progress.run_id, [_dataset(record.payload)]),
            Kind.MODEL: lambda: self._model(record, path, progress),
            Kind.ARTIFACT: lambda: self._artifact(record, path, progress),
            Kind.END: lambda: self._end(record, path, earlier, progress),
        }
        try:
            handlers[record.kind]()
        except (Refused, ValueError, KeyError) as refusal:  # one bad record must not keep the others out
            self._once(f"{progress.name}: {record.kind} left out: {refusal}")

    def _open_run(self, first: Record, path: Path, progress: Progress) -> None:
        """The run of this attempt, by its tracking id: found, or made together with its tags."""
        start = _start_of(first, path)
        progress.name, progress.time, progress.status = start.name, first.time, RUNNING
        tracking_id = f"{start.fingerprint}/{path.stem}"
        key = {mlflow_adapter.TRACKING_ID: tracking_id}
        found = self._adapter.find_run([self._state.experiment_id], key)
        if found:
            progress.run_id, progress.status = found.run_id, found.status
            progress.seq = int(found.tags.get(mlflow_adapter.SEQ, "0"))
            progress.ended = mlflow_adapter.STATUS in found.tags
            progress.seconds = float(found.tags.get("seconds", "0"))
            progress.model_id = found.tags.get("scored_model", "")
            return
        tags = {
            **key,
            mlflow_adapter.CAMPAIGN: self._campaign,
            mlflow_adapter.FINGERPRINT: start.fingerprint,
            "stage": start.stage,
            "instance": start.instance,
            "attempt": str(start.attempt),
            "host": start.host,
            mlflow_adapter.USER: _owner(path),
            mlflow_adapter.SOURCE: f"athanor stage {start.stage}",
            mlflow_adapter.COMMIT: start.git_commit,
            **{f"upstream.{u.name}": f"{u.stage}/{u.fingerprint}" for u in start.upstreams},
        }
        name = start.name if start.attempt == 1 else f"{start.name} #{start.attempt}"
        progress.run_id = self._adapter.create_run(
            self._state.experiment_id, name, int(first.time * 1000), self._state.parent_run_id, tags
        )

    def _start(self, record: Record, path: Path, progress: Progress) -> None:
        """Parameters, and what the attempt takes in: datasets, models and links. One that ended may start again."""
        start = _start_of(record, path)
        progress.ended, progress.status = False, RUNNING
        self._adapter.set_status(progress.run_id, RUNNING)
        versions = {f"versions.{name}": version for name, version in start.versions.items()}
        self._adapter.log_params(progress.run_id, {**start.params, **versions})
        inputs = self._lineage.inputs(start)
        self._adapter.log_datasets(progress.run_id, inputs.datasets)
        self._adapter.log_input_models(progress.run_id, [model.model_id for model in inputs.models])
        progress.model_id = inputs.scored_model
        note = description.run_note(start, inputs, self._folder(path))
        self._adapter.tag(progress.run_id, {mlflow_adapter.NOTE: note, "scored_model": inputs.scored_model})

    def _model(self, record: Record, path: Path, progress: Progress) -> None:
        payload = record.payload
        where = f"{self._folder(path)}/{text(payload, 'path')}"
        params = {**flat(mapping(payload.get("params"))), "store_path": where}
        run = self._adapter.run(progress.run_id)
        self._adapter.log_output_model(
            run, text(payload, "name"), record.step, text(payload, "source"), params, description.model_note(run)
        )

    def _artifact(self, record: Record, path: Path, progress: Progress) -> None:
        below = text(record.payload, "path")
        source = path.parent.parent / below
        if not source.exists():
            self._once(f"{progress.name}: {below} is not there any more")
            return
        destination = below if source.is_dir() else Path(below).parent.as_posix().lstrip(".")
        self._adapter.log_artifact(progress.run_id, source, destination)
        self._adapter.tag(progress.run_id, {f"artifact.{below}": text(record.payload, "title")})

    def _end(self, record: Record, path: Path, earlier: Sequence[Path], progress: Progress) -> None:
        status = Status(text(record.payload, "status"))
        if status is Status.FINISHED:
            self._whole_curve(earlier, path, progress)
            results = flat(mapping(record.payload.get("counters")), "result.")
            self._adapter.log_params(progress.run_id, results)
            run = self._adapter.run(progress.run_id)
            note = description.model_note(run)
            self._lineage.ensure_model(run, _start_of(record, path), self._folder(path), note)
        progress.seconds = float(text(record.payload, "seconds") or 0)
        tags = {"message": text(record.payload, "message"), "seconds": str(progress.seconds)}
        self._adapter.tag(progress.run_id, {**tags, mlflow_adapter.STATUS: status})
        self._close(progress, ENDS[status], record.time)

    def _whole_curve(self, earlier: Sequence[Path], path: Path, progress: Progress) -> None:
        """Give the finished run the points of the attempts it went on from, with their own time stamps."""
        points: list[Point] = []
        for record in history(earlier, path):
            points += _points([record])
            if len(points) >= BATCH:
                self._log(points, progress)
                points = []
        self._log(points, progress)

    def _close(self, progress: Progress, status: str, when: float) -> None:
        self._adapter.set_status(progress.run_id, status, int(when * 1000))
        progress.status, progress.ended = status, True

    def _note_death(self, path: Path, progress: Progress, superseded: bool) -> None:
        """End the run of an attempt that was killed without a word; one that is only silent may come back."""
        if not progress.run_id or progress.ended:
            return
        silent = time.time() - path.stat().st_mtime > SILENT_SECONDS
        if superseded:
            self._close(progress, KILLED, progress.time)
        elif silent and progress.status == RUNNING:
            self._adapter.set_status(progress.run_id, KILLED, int(progress.time * 1000))
            progress.status = KILLED
        elif not silent and progress.status == KILLED:
            self._adapter.set_status(progress.run_id, RUNNING)
            progress.status = RUNNING

    def _folder(self, path: Path) -> str:
        return path.parent.parent.relative_to(self._store).as_posix()

    def _once(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._say(message)


def _points(records: Iterable[Record]) -> list[Point]:
    return [Point(name, value, int(r.time * 1000), r.step) for r in records for name, value in numbers(r)]


def _dataset(payload: Mapping[str, object]) -> Dataset:
    source = json.dumps({"tags": {"source": text(payload, "source")}})
    profile = json.dumps({"source": text(payload, "source"), **mapping(payload.get("profile"))}, ensure_ascii=False)
    return Dataset(text(payload, "name"), text(payload, "digest"), source, text(payload, "context"), profile)


def _owner(path: Path) -> str:
    """Who owns the file; the number where this machine does not know the name, as in a container or without its directory."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def _start_of(record: Record, path: Path) -> Start:
    """The start record of a spool, from the record at hand or the beginning of the file."""
    if record.kind is not Kind.START:
        record = next((r for r in read_records(path) if r.kind is Kind.START), record)
    payload = record.payload if record.kind is Kind.START else {}
    return Start.read(payload, path.parent.parent, int(path.stem))
