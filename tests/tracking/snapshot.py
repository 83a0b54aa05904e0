"""What a campaign looks like in MLflow, without what two undisturbed drains would differ in (ids)."""

import re
from pathlib import Path
from typing import Any

from athanor.tracking.destination import Destination


def client_of(store: Path, uri: str = "") -> Any:
    """A client of the store's MLflow."""
    from mlflow import MlflowClient

    return MlflowClient(Destination(store, uri).uri)


def runs_of(store: Path, campaign: str = "tiny", uri: str = "") -> dict[str, Any]:
    """The campaign's runs in full, by run name (the newest of a name), its parent run included."""
    client = client_of(store, uri)
    experiment = client.get_experiment_by_name(campaign)
    if experiment is None:
        return {}
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return {run.info.run_name: client.get_run(run.info.run_id) for run in found}


def run_count(store: Path, campaign: str = "tiny") -> int:
    """How many runs the campaign has, its parent included."""
    client = client_of(store)
    experiment = client.get_experiment_by_name(campaign)
    return len(client.search_runs([experiment.experiment_id])) if experiment else 0


def points_of(store: Path, run: Any, uri: str = "") -> dict[str, list[tuple[int, float, int]]]:
    """Every point of every curve of a run: (step, value, time stamp), sorted."""
    client = client_of(store, uri)
    return {
        name: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def snapshot(store: Path, campaign: str = "tiny") -> dict[str, Any]:
    """The whole campaign; equal for two stores with equal spools, however often their writers were killed."""
    client, pages = client_of(store), {}
    experiment = client.get_experiment_by_name(campaign)
    for name, run in runs_of(store, campaign).items():
        models = [client.get_logged_model(m.model_id) for m in run.outputs.model_outputs] if run.outputs else []
        inputs = [client.get_logged_model(m.model_id).name for m in run.inputs.model_inputs]
        pages[name] = {
            "status": run.info.status,
            "points": points_of(store, run),
            "params": run.data.params,
            "tags": {key: _without_ids(value) for key, value in run.data.tags.items()},
            "datasets": sorted((d.dataset.name, d.dataset.digest, d.tags[0].value) for d in run.inputs.dataset_inputs),
            "input models": sorted(inputs),
            "models": sorted((m.name, m.status, tuple(sorted(m.params.items()))) for m in models),
            "scores of models": sorted((s.key, s.value) for m in models for s in (m.metrics or [])),
            "artifacts": sorted(f.path for f in client.list_artifacts(run.info.run_id)),
        }
    pages["count"] = {
        "runs": run_count(store, campaign),
        "models": len(client.search_logged_models([experiment.experiment_id])) if experiment else 0,
    }
    return pages


def _without_ids(text: str) -> str:
    return re.sub(r"(m-)?[0-9a-f]{32}", "ID", text)
