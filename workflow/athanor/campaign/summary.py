"""The end of a campaign on one screen: stages, time, key metrics, where to look."""

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TextIO

from rich.console import Console
from rich.table import Table

from athanor.artifacts.manifest import Manifest
from athanor.campaign.campaign import Campaign
from athanor.campaign.report import REPORT, is_current
from athanor.recipe.graph import FINE_TUNED, OFFLINE, ONLINE, PREFERENCE, SHUFFLED, STAGES, Artifact
from athanor.recipe.mixture_search import SEARCH

TOGETHER = 4  # artifacts of one stage from which on they share a row
FACTS = 4  # shown a row
# Many metrics of one kind are said as one: suffix, how they are put together, what is printed.
TOLD_TOGETHER: tuple[tuple[str, Callable[[Sequence[float]], float], str], ...] = (
    ("/nats_per_token", fmean, "validation {:.3f} nats/token, mean of {} domains"),
    ("/nats_per_sample", fmean, "loss {:.3f} of pairs not learnt from, mean of {} kinds"),
    ("/below_unigram", min, "at least {:.2f} nats below unigram in {} domains"),
    ("/below_shuffled", min, "{:.2f} below the shuffled control"),
    ("/answers_below_base", min, "answers at least {:.2f} nats below the base model in {} tasks"),
    ("/answers_below_shuffled", min, "{:.2f} below their shuffled control"),
    ("/greedy_pass_rate", fmean, "likeliest answers right {:.3f}, mean of {} tasks"),
    ("/sampled_pass_rate", fmean, "drawn answers {:.3f}"),
    ("/sampled_cut", fmean, "{:.3f} of them cut or looping"),
    ("/unigram", fmean, "unigram {:.3f} nats/token"),
    ("/bigram", fmean, "bigram {:.3f} nats/token"),
    ("/bits_per_byte", fmean, "{:.3f} bits/byte, mean of {} tasks"),
    ("/acc", max, "best accuracy {:.3f} of {} tasks"),
)
ADDS_UP = ("documents", "held_out_documents", "tokens", "bytes")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float
    says: str


def print_summary(campaign: Campaign, out: TextIO | None = None) -> None:
    """Print the table of the campaign's artifacts, done or not, and what to open next."""
    stream = out or sys.stdout
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else 120)
    table = Table(title=f"campaign {campaign.name}", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("what it says", overflow="fold")
    rows = [row for stage in STAGES for artifacts in _apart(campaign.lifecycle.of(stage)) for row in _rows(campaign, artifacts)]
    for row in rows:
        table.add_row(row.name, f"{row.seconds:.1f}" if row.seconds else "", row.says)
    console.print(table)
    missing = len(campaign.missing())
    state = f"{missing} stages are missing: snakemake makes them" if missing else "every stage is done"
    console.print(f"\n{state}; {sum(row.seconds for row in rows):.0f} s of stage time in all")
    for what, where in where_to_look(campaign):
        console.print(f"  {what:22} {where}", soft_wrap=True, markup=False)


def _apart(artifacts: Sequence[Artifact]) -> list[list[Artifact]]:
    """The artifacts of one stage, those of a search behind the others: many small ones shall not hide the model."""
    tried = [artifact for artifact in artifacts if artifact.instance.startswith(SEARCH)]
    return [[artifact for artifact in artifacts if artifact not in tried], tried]


def _rows(campaign: Campaign, artifacts: Sequence[Artifact]) -> Iterable[Row]:
    """A row an artifact; many of one stage share a row, with what adds up added up."""
    manifests = {artifact: campaign.store.manifest(artifact) for artifact in artifacts}
    done = [manifest for manifest in manifests.values() if manifest is not None]
    if len(artifacts) < TOGETHER:
        for artifact, manifest in manifests.items():
            yield (
                Row(artifact.name, manifest.provenance.seconds, facts(manifest))
                if manifest
                else Row(artifact.name, 0.0, "not done")
            )
        return
    sums = {key: sum(int(m.result.counters.get(key, 0)) for m in done) for key in ADDS_UP}
    says = "  ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in sums.items() if value)
    short = "" if len(done) == len(artifacts) else f"{len(artifacts) - len(done)} not done  "
    stage = f"{artifacts[0].stage}/search" if artifacts[0].instance.startswith(SEARCH) else artifacts[0].stage
    yield Row(f"{stage} ×{len(artifacts)}", sum(m.provenance.seconds for m in done), short + says)


def facts(manifest: Manifest) -> str:
    """The metrics of a stage, those of one kind together; without any, its first counters."""
    metrics, told = manifest.provenance.metrics, []
    for suffix, together, text in TOLD_TOGETHER:
        values = [value for name, value in metrics.items() if name.endswith(suffix)]
        if values:
            told.append(text.format(together(values), len(values)))
    if not told:
        told = [f"{name} {value:,.4g}" for name, value in metrics.items()]
    counters = [f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in manifest.result.counters.items()]
    return "  ".join((told or counters)[:FACTS])


def _command(name: str, campaign: Campaign) -> str:
    """`athanor NAME` as it is typed for this campaign."""
    words = ["athanor", name, "--recipe", campaign.recipe_given or campaign.recipe.name, "--site", campaign.site.name]
    words += [word for override in campaign.overrides for word in ("--set", override)]
    return shlex.join([*words, *(["--campaign", campaign.name] if campaign.name != campaign.recipe.name else [])])


def where_to_look(campaign: Campaign) -> list[tuple[str, str]]:
    """What a person would open next."""
    rows = [("results by name", str(campaign.folder)), ("lineage in MLflow", "athanor ui")]
    if not campaign.missing():
        rows.insert(0, ("report", str(campaign.folder / REPORT) if is_current(campaign) else _command("report", campaign)))
    ends = [artifact.instance for artifact in campaign.lifecycle.of("pretrain") if artifact.instance != SHUFFLED]
    for label in (ONLINE, PREFERENCE, OFFLINE, FINE_TUNED, ends[-1]):  # the furthest model there is
        if (name := f"export/{label}") in campaign.lifecycle and campaign.store.is_done(campaign.lifecycle[name]):
            rows.append(("model (transformers)", str(campaign.folder / "export" / label / "model")))
            break
    return rows
