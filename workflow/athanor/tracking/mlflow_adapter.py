"""The only module that imports MLflow: campaigns as parent runs, attempts as nested runs, and the links between them.

Every write can be repeated: runs and models are looked up by tag before they are made, points keep the spool's own time
stamps (MLflow's SQL stores drop a point that is already there), inputs and outputs are sets.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from athanor.tracking.destination import without_password

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

TRACKING_ID, SEQ, CAMPAIGN, FINGERPRINT, STATUS = "tracking_id", "spool_seq", "campaign", "fingerprint", "status"
RECORD = "record"  # on a logged model: tracking_id#name@step
NOTE, PARENT, USER = "mlflow.note.content", "mlflow.parentRunId", "mlflow.user"
SOURCE, COMMIT = "mlflow.source.name", "mlflow.source.git.commit"
BATCH = 900  # MLflow takes 1000 entities a call; the rest is for tags
PARAM_BATCH = 90
TRAINING_PAGES = {"mlflow.experimentKind": "custom_model_development"}  # else the pages of agents and prompts
MAX_VALUE, MAX_NAME, MAX_DIGEST, MAX_PROFILE = 5_000, 250, 36, 16_000
DISTANT_SERVER = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}  # else 247 s a call
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"})

P = ParamSpec("P")
R = TypeVar("R")


class TrackingError(Exception):
    """MLflow did not do what it was asked."""


class Unavailable(TrackingError):
    """MLflow cannot be reached, is locked, or has lost a run: worth another try later."""


class Refused(TrackingError):
    """MLflow will never take this: say so and go on."""


@dataclass(frozen=True)
class Point:
    """One value of one curve; `time` in milliseconds since the epoch."""

    name: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class Dataset:
    """What a run read or made."""

    name: str
    digest: str
    source: str
    context: str
    profile: str


@dataclass(frozen=True)
class Model:
    """A logged model and the step it was taken at."""

    model_id: str
    name: str
    step: int


@dataclass(frozen=True)
class TrackedRun:
    """One run as MLflow has it."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    datasets: tuple[Dataset, ...]
    inputs: tuple[str, ...]  # model ids
    outputs: tuple[str, ...]  # model ids


def _translated(
    call: Callable[Concatenate["MlflowAdapter", P], R],
) -> Callable[Concatenate["MlflowAdapter", P], R]:
    """Sort what MLflow and its database raise into Refused and Unavailable."""

    @wraps(call)
    def translated(self: "MlflowAdapter", /, *args: P.args, **kwargs: P.kwargs) -> R:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

        try:
            return call(self, *args, **kwargs)
        except MlflowException as error:
            for_good = error.error_code in REFUSALS or isinstance(error.__cause__, DataError | IntegrityError)
            kind = Refused if for_good else Unavailable
            raise kind(without_password(f"{error.error_code}: {str(error)[:500]}")) from error
        except (SQLAlchemyError, RequestException, OSError) as error:
            raise Unavailable(without_password(f"{type(error).__name__}: {str(error)[:500]}")) from error

    return translated


class MlflowAdapter:
    """One tracking server or database. Methods raise Refused and Unavailable."""

    def __init__(self, uri: str, artifact_root: Path | None = None) -> None:
        for name, value in DISTANT_SERVER.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._uri, self._artifact_root = uri, artifact_root
        self._connect()

    @_translated
    def _connect(self) -> None:
        import mlflow

        _check_sqlite(self._uri)
        mlflow.set_tracking_uri(self._uri)  # create_external_model has no client of its own
        self._client = mlflow.MlflowClient(self._uri)

    @_translated
    def experiment(self, name: str) -> str:
        """The id of experiment `name`, made at the first call, restored if a person deleted it."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = (self._artifact_root / _safe_name(name)).as_uri() if self._artifact_root else None
            return str(self._client.create_experiment(name, artifact_location=location, tags=TRAINING_PAGES))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    @_translated
    def find_run(self, experiments: Sequence[str], tags: Mapping[str, str]) -> TrackedRun | None:
        """The newest run with these tags, deleted ones too: what a person deleted is not made again."""
        from mlflow.entities import ViewType

        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs(
            list(experiments), wanted, ViewType.ALL, max_results=1, order_by=["attributes.start_time DESC"]
        )
        return _tracked(self._client.get_run(found[0].info.run_id)) if found else None  # with its input models

    @_translated
    def experiments(self) -> list[str]:
        """The ids of all experiments."""
        found, token = [], None
        while True:
            page = self._client.search_experiments(page_token=token)
            found += [str(experiment.experiment_id) for experiment in page]
            token = page.token
            if not token:
                return found

    @_translated
    def run(self, run_id: str) -> TrackedRun:
        """One run by id."""
        return _tracked(self._client.get_run(run_id))

    @_translated
    def create_run(self, experiment: str, name: str, start_time: int, parent: str, tags: Mapping[str, str]) -> str:
        """A new run, nested below `parent` where that is not empty; its id. The tags appear with it, in one write."""
        nested = {PARENT: parent} if parent else {}
        return str(
            self._client.create_run(
                experiment,
                start_time=start_time,
                run_name=name,
                tags={**{key: value for key, value in _clean(tags).items() if value}, **nested},
            ).info.run_id
        )

    @_translated
    def log_points(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str], model_id: str = "") -> None:
        """Points in batches, the tags with the last; `model_id` also shows them on that model's page."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(_safe_name(p.name), p.value, p.time, p.step, model_id=model_id or None, run_id=run_id) for p in points]
        for begin in range(0, max(1, len(metrics)), BATCH):
            last = begin + BATCH >= len(metrics)
            with_tags = [RunTag(key, value) for key, value in _clean(tags).items()] if last else []
            self._client.log_batch(run_id, metrics=metrics[begin : begin + BATCH], tags=with_tags)

    @_translated
    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Parameters that the run does not have yet: MLflow's are immutable, the first value stays."""
        from mlflow.entities import Param

        known = self._client.get_run(run_id).data.params
        new = [Param(name, value) for name, value in _clean(params).items() if name not in known]
        for begin in range(0, len(new), PARAM_BATCH):
            self._client.log_batch(run_id, params=new[begin : begin + PARAM_BATCH])

    @_translated
    def log_datasets(self, run_id: str, datasets: Iterable[Dataset]) -> None:
        """Datasets as inputs of the run."""
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        inputs = []
        for d in datasets:
            profile = d.profile if len(d.profile) <= MAX_PROFILE else None
            entity = Entity(d.name[:MAX_NAME], d.digest[:MAX_DIGEST], "code", d.source, profile=profile)
            inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", d.context)]))
        if inputs:
            self._client.log_inputs(run_id, inputs)

    @_translated
    def log_input_models(self, run_id: str, models: Iterable[str]) -> None:
        """Models as inputs of the run."""
        from mlflow.entities import LoggedModelInput

        if inputs := [LoggedModelInput(model_id) for model_id in models]:
            self._client.log_inputs(run_id, models=inputs)

    @_translated
    def log_output_model(self, run: TrackedRun, name: str, step: int, kind: str, params: Mapping[str, str], note: str) -> Model:
        """A model the run made, whose bytes stay in the store; a run has one of a name and step."""
        import mlflow
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        experiments, record = [run.experiment_id], f"{run.tags[TRACKING_ID]}#{_model_name(name)}@{step}"
        found = self._client.search_logged_models(experiments, filter_string=f"tags.`{RECORD}` = '{record}'")
        ready = [model for model in found if model.status is LoggedModelStatus.READY]
        for torn in found:
            if torn not in ready:  # its writer was killed between creation and the files that make it whole
                self._client.delete_logged_model(torn.model_id)
        model: LoggedModel = (
            ready[0]
            if ready
            else mlflow.create_external_model(
                name=_model_name(name),
                source_run_id=run.run_id,
                experiment_id=run.experiment_id,
                params=_clean({**params, "step": str(step)}),
                model_type=kind,
                tags={key: run.tags[key] for key in (USER, SOURCE) if key in run.tags} | {RECORD: record, NOTE: note},
            )
        )
        self._client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step)])
        return Model(model.model_id, model.name, step)

    @_translated
    def models(self, model_ids: Iterable[str]) -> list[Model]:
        """Logged models by id, with the step their parameters say."""
        found = [self._client.get_logged_model(model_id) for model_id in model_ids]
        return [Model(m.model_id, m.name, int(m.params.get("step", "0"))) for m in found]

    @_translated
    def log_artifact(self, run_id: str, path: Path, destination: str) -> None:
        """Copy a file or folder to the run's artifacts."""
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), destination)
        else:
            self._client.log_artifact(run_id, str(path), destination or None)

    @_translated
    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; empty ones are left out."""
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in _clean(tags).items() if value])

    @_translated
    def set_status(self, run_id: str, status: str, end_time: int | None = None) -> None:
        """RUNNING, or with `end_time` in milliseconds FINISHED, FAILED or KILLED."""
        if end_time is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, end_time)


def _check_sqlite(uri: str) -> None:
    """Raise OSError at once where a sqlite file cannot be opened: MLflow itself would try for 100 seconds.

    A new file is made with the mode that the umask allows, which sqlite would not: the group may write its database.
    """
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        return
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o666))
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error


def run_link(experiment_id: str, run_id: str) -> str:
    """The run's page, relative to MLflow's own address."""
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def _tracked(run: "Run") -> TrackedRun:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return TrackedRun(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        name=run.info.run_name or "",
        status=run.info.status,
        tags=run.data.tags,
        params=run.data.params,
        datasets=tuple(
            Dataset(
                name=i.dataset.name,
                digest=i.dataset.digest,
                source=i.dataset.source,
                context=next((t.value for t in i.tags if t.key == "mlflow.data.context"), ""),
                profile=i.dataset.profile or "",
            )
            for i in inputs
        ),
        inputs=tuple(m.model_id for m in run.inputs.model_inputs) if run.inputs else (),
        outputs=tuple(m.model_id for m in run.outputs.model_outputs) if run.outputs else (),
    )


def _safe_name(name: str) -> str:
    """Names may hold letters, digits, `_`, `-`, `.`, space and `:`, with `/` between parts that are none of `.`, `..`."""
    parts = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:MAX_NAME].split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"


def _model_name(name: str) -> str:
    """Model names may hold neither `/` nor `:`, `.`, `%` and quotes."""
    return re.sub(r"[^\w\- ]", "-", name)[:MAX_NAME]


def _clean(values: Mapping[str, str]) -> dict[str, str]:
    return {_safe_name(key): value[:MAX_VALUE] for key, value in values.items()}
