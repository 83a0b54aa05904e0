"""The Markdown that MLflow shows on a run's page: what it was made from, as links to click back through."""

from collections.abc import Sequence
from dataclasses import dataclass

from athanor.tracking.lineage import Inputs
from athanor.tracking.mlflow_adapter import model_link, run_link
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
    """One attempt: its artifact, and a link to each upstream's run and model."""
    lines = [f"**{start.name}**, attempt {start.attempt}. In the store: `{folder}`", ""]
    rows = []
    for origin in inputs.origins[:MAX_ROWS]:
        name = f"{origin.upstream.stage}/{origin.upstream.instance}"
        run = origin.run
        link = f"[{name}]({run_link(run.experiment_id, run.run_id)})" if run else f"{name} (not in this MLflow)"
        rows.append(f"| {origin.upstream.name} | {link} |")
    if rows:
        lines += ["| made from | run |", "| --- | --- |", *rows]
    if len(inputs.origins) > MAX_ROWS:
        lines.append(f"\nand {len(inputs.origins) - MAX_ROWS} more, in the tags `upstream.*`")
    experiments = {run.experiment_id for origin in inputs.origins if (run := origin.run)}
    if inputs.models and len(experiments) == 1:
        (experiment,) = experiments
        models = ", ".join(f"[{m.name}]({model_link(experiment, m.model_id)})" for m in inputs.models[:MAX_ROWS])
        lines += ["", f"Weights from: {models}"]
    return "\n".join(lines)


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
