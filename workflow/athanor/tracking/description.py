"""The Markdown that MLflow shows on a run's page: what it was made from, as links to click back through."""

from collections.abc import Sequence
from dataclasses import dataclass

from athanor.tracking.lineage import Inputs
from athanor.tracking.mlflow_adapter import TrackedRun, run_link
from athanor.tracking.records import Start

MAX_ROWS = 40  # a note holds about 5000 characters


@dataclass(frozen=True)
class Row:
    """One artifact in the campaign's table."""

    name: str
    experiment_id: str
    run_id: str
    status: str
    seconds: float


def run_note(start: Start, inputs: Inputs, folder: str) -> str:
    """One attempt: a link to each upstream's run, and its folder. Links first: MLflow folds what follows away."""
    links = []
    for origin in inputs.origins[:MAX_ROWS]:
        name, run = f"{origin.upstream.stage}/{origin.upstream.instance}", origin.run
        links.append(f"[{name}]({run_link(run.experiment_id, run.run_id)})" if run else f"{name} (not in this MLflow)")
    if len(inputs.origins) > MAX_ROWS:
        links.append(f"{len(inputs.origins) - MAX_ROWS} more, in the tags `upstream.*`")
    made_from = f"Made from {', '.join(links)}" if links else "Made from the recipe alone"
    return f"{made_from}\n\nIn the store: `{folder}`"


def model_note(run: TrackedRun) -> str:
    """One model: the run that made it and the datasets that run read."""
    datasets = ", ".join(f"{d.name} ({d.digest})" for d in run.datasets[:MAX_ROWS])
    text = f"Made by [{run.name}]({run_link(run.experiment_id, run.run_id)})"
    return f"{text} from the datasets {datasets}" if datasets else text


def campaign_note(campaign: str, total: int, rows: Sequence[Row]) -> str:
    """The campaign: how far it is, and its artifacts with links to their runs."""
    finished = sum(row.status == "FINISHED" for row in rows)
    lines = [f"Campaign **{campaign}**: {finished} of {total} artifacts finished.", ""]
    lines += ["| artifact | state | seconds |", "| --- | --- | --- |"]
    for row in rows[:MAX_ROWS]:
        seconds = f"{row.seconds:.0f}" if row.seconds else ""
        link = run_link(row.experiment_id, row.run_id)
        lines.append(f"| [{row.name}]({link}) | {row.status.lower()} | {seconds} |")
    if len(rows) > MAX_ROWS:
        lines.append(f"\nand {len(rows) - MAX_ROWS} more: the runs nested below this one")
    return "\n".join(lines)
