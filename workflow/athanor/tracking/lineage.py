"""What an attempt takes in from its upstreams' runs: datasets from text, models from weights, links from all."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from athanor.tracking.mlflow_adapter import FINGERPRINT, Dataset, MlflowAdapter, Model, TrackedRun
from athanor.tracking.records import Start, Upstream

CARRIES_TEXT = frozenset({"fetch", "tokenize", "conversations", "pack", "pairs"})  # their datasets are what the next stage reads
# Their models are what the next stage starts from.
CARRIES_WEIGHTS = frozenset({"initialize", "pretrain", "sft", "offline", "preference", "online", "export", "average"})
MAX_DATASETS, MAX_MODELS = 100, 100  # shown on one page
SCORED_INPUT = "model"  # the input whose page shows the scores of a stage that makes no weights


@dataclass(frozen=True)
class Origin:
    """One upstream and its run; None when no run of it is known to this MLflow."""

    upstream: Upstream
    run: TrackedRun | None


@dataclass(frozen=True)
class Inputs:
    """What goes into a run."""

    origins: tuple[Origin, ...]
    datasets: tuple[Dataset, ...]
    models: tuple[Model, ...]
    scored_model: str  # model id, or empty


class Lineage:
    """Finds the runs of upstream artifacts, in any campaign's experiment, and remembers the finished ones."""

    def __init__(self, adapter: MlflowAdapter, drain_folder: Callable[[str], int]) -> None:
        self._adapter, self._drain_folder = adapter, drain_folder
        self._finished: dict[str, TrackedRun] = {}

    def inputs(self, start: Start) -> Inputs:
        """The datasets and models behind the upstreams of one attempt."""
        origins = tuple(Origin(upstream, self._run_of(upstream)) for upstream in start.upstreams)
        datasets: dict[tuple[str, str], Dataset] = {}
        models: dict[str, Model] = {}
        scored = ""
        for origin in origins:
            if origin.run is None:
                continue
            if origin.upstream.stage in CARRIES_TEXT:
                for dataset in origin.run.datasets:
                    read = dataclasses.replace(dataset, context=start.stage)
                    datasets.setdefault((dataset.name, dataset.digest), read)
            if origin.upstream.stage in CARRIES_WEIGHTS:
                for model in self._weights(origin.run):
                    models[model.model_id] = model
                    if origin.upstream.name == SCORED_INPUT and start.stage not in CARRIES_WEIGHTS:
                        scored = model.model_id
        return Inputs(origins, tuple(datasets.values())[:MAX_DATASETS], tuple(models.values())[:MAX_MODELS], scored)

    def ensure_model(self, run: TrackedRun, start: Start, folder: str, note: str) -> None:
        """A finished stage that makes weights leaves a model, also when it recorded none itself."""
        if start.stage in CARRIES_WEIGHTS and not run.outputs:
            params = {"store_path": folder, "fingerprint": start.fingerprint}
            self._adapter.log_output_model(run, f"{start.stage}-{start.instance}", 0, start.stage, params, note)

    def _weights(self, run: TrackedRun) -> list[Model]:
        """The newest model a run made; where it made none, those it took in."""
        if run.outputs:
            return sorted(self._adapter.models(run.outputs), key=lambda model: model.step)[-1:]
        return self._adapter.models(run.inputs)

    def _run_of(self, upstream: Upstream) -> TrackedRun | None:
        """The newest run of an artifact; its spool is drained first where nothing is known of it yet."""
        known = self._finished.get(upstream.fingerprint)
        if known:
            return known
        self._drain_folder(f"{upstream.stage}/{upstream.fingerprint}")
        run = self._adapter.find_run(self._adapter.experiments(), {FINGERPRINT: upstream.fingerprint})
        if run is not None and run.status == "FINISHED":
            self._finished[upstream.fingerprint] = run
        return run
