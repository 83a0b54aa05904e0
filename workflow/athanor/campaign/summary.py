"""The end of a campaign on one screen: stages, time, key metrics, where to look."""

import sys
from typing import TextIO

from rich.console import Console
from rich.table import Table

from athanor.campaign.campaign import Campaign

KEY_METRICS = 3  # a row's width on an 80-column terminal


def print_summary(campaign: Campaign, out: TextIO | None = None) -> None:
    """Print the table of the campaign's artifacts, done or not, and what to open next."""
    console = Console(file=out or sys.stdout, highlight=False, soft_wrap=False)
    table = Table(title=f"campaign {campaign.name}", title_justify="left", box=None, pad_edge=False)
    for name, justify in (("stage", "left"), ("seconds", "right"), ("what it says", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    seconds, missing = 0.0, 0
    for artifact in campaign.lifecycle:
        manifest = campaign.store.manifest(artifact)
        if manifest is None:
            missing += 1
            table.add_row(artifact.name, "", "not done")
            continue
        seconds += manifest.provenance.seconds
        facts = [f"{k} {v:.4g}" for k, v in manifest.provenance.metrics.items()]
        facts = facts or [
            f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in manifest.result.counters.items()
        ]
        table.add_row(artifact.name, f"{manifest.provenance.seconds:.1f}", "  ".join(facts[:KEY_METRICS]))
    console.print(table)
    state = f"{missing} stages are missing: snakemake makes them" if missing else "every stage is done"
    console.print(f"\n{state}; {seconds:.0f} s of stage time in all")
    for what, command in where_to_look(campaign):
        console.print(f"  {what:22} {command}", soft_wrap=True, markup=False)


def where_to_look(campaign: Campaign) -> list[tuple[str, str]]:
    """What a person would open next."""
    rows = [("results by name", str(campaign.folder)), ("lineage in MLflow", "athanor ui")]
    report = campaign.folder / "report.html"
    if report.is_file():
        rows.insert(0, ("report", str(report)))
    model = [a for a in campaign.lifecycle.of("export") if campaign.store.is_done(a)]
    if model:
        rows.append(("model (transformers)", str(campaign.folder / "export" / model[-1].instance / "model")))
    return rows
