"""`athanor status`: what runs where and how far it is, read from the store, from any machine and without the driver."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from athanor.campaign.campaign import Campaign
from athanor.campaign.state import State, failures_of, latest_attempt, progress_of, state_of
from athanor.campaign.stragglers import in_words, stragglers
from athanor.campaign.watch import describe, duration
from athanor.recipe.graph import SHUFFLED, Artifact
from snakemake_executor_plugin_submitit.journal import Attempt

LOOK_SECONDS = 2.0
SHOWN = (State.RUNNING, State.QUEUED, State.FAILED)


@dataclass(frozen=True)
class Row:
    """One artifact that is at work, or that failed."""

    name: str
    state: State
    job: str  # Slurm job 4711, local job 123
    hosts: str
    attempt: str  # 2, or 2.1 after one requeue
    since: str  # the start of the job's newest run, or its submission
    says: str  # progress and the age of the newest beat; why it failed


def print_status(campaign: Campaign, out: TextIO | None = None) -> None:
    """Print the table once."""
    Console(file=out, highlight=False, width=None if out is None else 160).print(render(campaign))


def watch_status(campaign: Campaign) -> None:
    """Show the table until every stage is done, or until Ctrl-C."""
    with Live(render(campaign), console=Console(highlight=False), auto_refresh=False) as live:
        while campaign.missing():
            time.sleep(LOOK_SECONDS)
            live.update(render(campaign), refresh=True)


def render(campaign: Campaign) -> Group:
    """A line of counts, and a row for each artifact that runs, is queued or has failed."""
    states = {artifact: state_of(campaign.store.folder(artifact)) for artifact in campaign.lifecycle}
    counts = Counter(states.values())
    told = ", ".join(f"{counts[state]} {state}" for state in State if counts[state] and state is not State.DONE)
    head = f"campaign {campaign.name}: {counts[State.DONE]} of {len(states)} stages done" + (f", {told}" if told else "")
    rows = [row_of(campaign, artifact, state) for artifact, state in states.items() if state in SHOWN]
    table = [_table(rows)] if rows else []
    return Group(Text(head), *_next_milestone(campaign, states), *table, *_slow(campaign, states), *_next_step(rows, counts))


def _slow(campaign: Campaign, states: Mapping[Artifact, State]) -> list[Text]:
    """A line for every running stage some of whose ranks make the others wait."""
    running = [artifact for artifact, state in states.items() if state is State.RUNNING]
    found = {artifact.name: stragglers(campaign.store.folder(artifact)) for artifact in running}
    return [Text(in_words(name, slow)) for name, slow in found.items() if slow]


def _next_milestone(campaign: Campaign, states: Mapping[Artifact, State]) -> list[Text]:
    """The first milestone of pretraining that is not reached, how far it is and when it will be; none after the last."""
    milestones = [artifact for artifact in campaign.lifecycle.of("pretrain") if artifact.instance != SHUFFLED]
    ahead = [artifact for artifact in milestones if states[artifact] is not State.DONE]
    if not ahead:
        return []
    progress = progress_of(campaign.store.folder(ahead[0])) if states[ahead[0]] is State.RUNNING else None
    left = progress.seconds_left if progress else None
    when = states[ahead[0]].value if left is None else f"in {duration(left)}, at {_clock(time.time() + left)}"
    return [Text(f"next milestone: {ahead[0].name}, {when}; {len(milestones) - len(ahead)} of {len(milestones)} reached")]


def _clock(moment: float) -> str:
    """Hours and minutes, and the day where it is not today's."""
    today = time.localtime(moment)[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if today else "%a %Y-%m-%d %H:%M", time.localtime(moment))


def row_of(campaign: Campaign, artifact: Artifact, state: State) -> Row:
    """What the journal of the artifact's newest attempt says."""
    folder = campaign.store.folder(artifact)
    path = latest_attempt(folder)
    assert path is not None, f"{folder} is {state} without an attempt"
    attempt = Attempt(path)
    job, starts = attempt.job(), attempt.starts()
    began = starts[-1].time if starts else job.time if job else path.stat().st_mtime
    return Row(
        artifact.name,
        state,
        str(job or ""),
        ",".join(starts[-1].hosts) if starts else "",
        str(attempt.number) + (f".{len(starts) - 1}" if len(starts) > 1 else ""),
        duration(max(0.0, time.time() - began)),
        _says(campaign, artifact, state),
    )


def _says(campaign: Campaign, artifact: Artifact, state: State) -> str:
    folder = campaign.store.folder(artifact)
    if state is State.FAILED:
        return next(failures_of(folder), "the job ended without saying why")
    progress = progress_of(folder) if state is State.RUNNING else None
    return f"{describe(progress)}, last beat {duration(progress.age_seconds)} ago" if progress else ""


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "state", "job", "where", "attempt", "since"):
        table.add_column(name, no_wrap=True)
    table.add_column("", overflow="fold")
    for row in rows:
        cells = (row.name, row.state.value, row.job, row.hosts, row.attempt, row.since, row.says)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _next_step(rows: Sequence[Row], counts: Counter[State]) -> list[Text]:
    failed = next((row.name for row in rows if row.state is State.FAILED), "")
    if failed:
        return [Text(f"look: athanor logs {failed}    continue: type the same snakemake command again")]
    if counts[State.DONE] == counts.total():
        return [Text("results: athanor summary")]
    return [] if rows else [Text("nothing runs: snakemake makes what is missing")]
