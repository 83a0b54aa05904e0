"""The figures of a report, as SVG files whose bytes depend on the numbers alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from athanor.evaluation.results import CampaignResults, CurvePoint
from athanor.evaluation.scores import ScoreRow
from athanor.recipe.schema.choices import Suite
from athanor.recipe.units import Unit, format_quantity

LOSS_FIGURE, VALIDATION_FIGURE, SCORES_FIGURE = "figures/loss.svg", "figures/validation.svg", "figures/scores.svg"
EXPERTS_FIGURE, TASKS_FIGURE, ONLINE_FIGURE = "figures/expert_load.svg", "figures/fine_tuning.svg", "figures/online.svg"

MODEL, CONTROL, BASELINE, INK, FAINT = "#b5451b", "#6b7280", "#2f6f8f", "#1f2937", "#d1d5db"
STYLE: Any = {
    "svg.hashsalt": "athanor",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
TITLE: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 11, "fontweight": "bold"}
SMOOTHED_OVER = 25  # a median is drawn over a window of this share of the points: 1/25
NAMES = {"bits_per_byte": "bits per byte", "acc": "accuracy", "acc_norm": "accuracy, per character"}
SHOWN_METRICS = ("bits_per_byte", "acc")  # the others say the same in another unit

Series = tuple[str, str, str, str, list[float | None]]  # name, marker, its face and edge, a value a row


def write_figures(folder: Path, results: CampaignResults) -> tuple[str, ...]:
    """Write all figures below `folder`; their paths."""
    drawings = {LOSS_FIGURE: draw_loss, VALIDATION_FIGURE: draw_validation, SCORES_FIGURE: draw_scores}
    if any(milestone.expert_load is not None for milestone in results.milestones):
        drawings[EXPERTS_FIGURE] = draw_expert_load
    if results.tasks:
        drawings[TASKS_FIGURE] = draw_fine_tuning
    if results.online:
        drawings[ONLINE_FIGURE] = draw_online
    for name, draw in drawings.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            draw(results).savefig(folder / name, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return tuple(drawings)


def draw_loss(results: CampaignResults) -> Figure:
    """Training loss over tokens with the milestones marked, and the learning rate below it."""
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    if results.shuffled:
        _curve(loss, results.shuffled.curve, CONTROL, "same model, tokens shuffled")
    points = [point for milestone in results.milestones for point in milestone.curve]
    _curve(loss, points, MODEL, results.name)
    rate.plot([p.tokens for p in points], [p.lr for p in points], color=MODEL, linewidth=1.6)
    for milestone in results.milestones:
        for axes in (loss, rate):
            axes.axvline(milestone.tokens, color=INK, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        loss.annotate(milestone.label, (milestone.tokens, 1), xytext=(0, 4), **above)
    figure.suptitle(f"Training loss of {results.name}, milestones dotted", **TITLE)
    loss.set_ylabel("nats per token")
    loss.legend(loc="upper right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    rate.set_xlabel("tokens trained")
    rate.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: format_quantity(int(tokens), Unit.TOKENS)))
    rate.set_xlim(left=0)
    return figure


def draw_validation(results: CampaignResults) -> Figure:
    """Held-out loss of every domain: the model beside unigram, bigram and the shuffled control."""
    domains = sorted(results.domains, key=lambda domain: domain.model, reverse=True)
    series: list[Series] = [
        ("unigram", "o", "white", BASELINE, [d.unigram for d in domains]),
        ("bigram", "o", BASELINE, BASELINE, [d.bigram for d in domains]),
        ("tokens shuffled", "s", "white", CONTROL, [d.shuffled for d in domains]),
        (results.name, "D", MODEL, MODEL, [d.model for d in domains]),
    ]
    return _beside("Validation by domain", [d.domain for d in domains], series, "held-out loss, nats per token (left is better)")


def draw_fine_tuning(results: CampaignResults) -> Figure:
    """Loss of every task's held-out responses: before fine-tuning, behind it, and of the control."""
    tasks = sorted(results.tasks, key=lambda task: task.model, reverse=True)
    series: list[Series] = [
        ("before", "o", BASELINE, BASELINE, [t.base for t in tasks]),
        ("others' responses", "s", "white", CONTROL, [t.shuffled for t in tasks]),
        ("fine-tuned", "D", MODEL, MODEL, [t.model for t in tasks]),
    ]
    names = [task.task.replace("_", " ") for task in tasks]
    return _beside("Fine-tuning by task", names, series, "loss of held-out responses, nats per token (left is better)")


def draw_online(results: CampaignResults) -> Figure:
    """How often answers were right, and their entropy, round by round: the model and its controls."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    rate, entropy = figure.subplots(2, 1, sharex=True)
    styles = {"model": (MODEL, "solid"), "random": (CONTROL, (0, (2, 2))), "shuffled": (BASELINE, (0, (5, 2)))}
    for one in results.online:
        colour, dashes = styles[one.model]
        name = results.name if one.model == "model" else f"control: rewards {one.model}"
        for axes, values in ((rate, one.pass_rate), (entropy, one.entropy)):
            drawn = [math.nan if value is None else value for value in values]
            axes.plot(range(len(drawn)), drawn, color=colour, linestyle=dashes, linewidth=1.6, label=name)
    figure.suptitle("Online RL by round", **TITLE)
    rate.set_ylabel("drawn answers right")
    rate.set_ylim(bottom=0)
    rate.legend(loc="best")
    entropy.set_ylabel("entropy, nats per token")
    entropy.set_ylim(bottom=0)
    entropy.set_xlabel("round")
    return figure


def _beside(title: str, rows: Sequence[str], series: Sequence[Series], unit: str) -> Figure:
    """Several losses on one line a row; the last series is written out."""
    figure = Figure(figsize=(8.4, 1.5 + 0.48 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for row in range(len(rows)):
        span = [loss for *_, values in series if (loss := values[row]) is not None]
        axes.plot([min(span), max(span)], [row, row], color=FAINT, linewidth=2.5, solid_capstyle="round", zorder=1)
    for name, marker, face, edge, values in series:
        known = [(value, row) for row, value in enumerate(values) if value is not None]
        if known:
            xs, ys = zip(*known, strict=True)
            axes.plot(xs, ys, marker, color=edge, markerfacecolor=face, markersize=7.5, markeredgewidth=1.6, label=name)
    for row, value in enumerate(series[-1][-1]):
        assert value is not None
        axes.annotate(
            f"{value:.2f}",
            (value, row),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=MODEL,
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(unit)
    figure.suptitle(title, **TITLE)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handletextpad=0.2, columnspacing=1.4, borderaxespad=0.2)
    return figure


def draw_scores(results: CampaignResults) -> Figure:
    """Scores with one standard error, beside the untrained model's and beside chance; one panel a metric."""
    rows = [row for row in results.scores if row.metric in SHOWN_METRICS]
    panels = [[row for row in rows if row.metric == metric] for metric in SHOWN_METRICS]
    panels = [panel for panel in panels if panel]
    longest = max(map(len, panels), default=1)
    figure = Figure(figsize=(8.4, 1.7 + 0.46 * longest), layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "no suite was evaluated", ha="center")
        return figure
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, panel, results.name)
    figure.suptitle("Scores, with one standard error", **TITLE)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=3)
    return figure


def draw_expert_load(results: CampaignResults) -> Figure:
    """Every expert's share of its layer's tokens over training, layer by layer; white is an even share."""
    counted = [(m, m.expert_load) for m in results.milestones if m.expert_load is not None]
    shares = [
        load.reshape(load.shape[0], -1) / np.maximum(1, load.mean(axis=2)).repeat(load.shape[2], axis=1) for _, load in counted
    ]
    layers, experts = counted[-1][1].shape[1:]
    figure = Figure(figsize=(8.4, min(9.0, 2.2 + 0.1 * layers * experts)), layout="constrained")
    panels = figure.subplots(1, len(counted), sharey=True, squeeze=False)[0]
    # A share of 0 is a dead expert, 1 is even; what is above 2 is drawn as 2.
    scale = {
        "cmap": "RdBu_r",
        "norm": TwoSlopeNorm(vcenter=1.0, vmin=0.0, vmax=2.0),
        "aspect": "auto",
        "interpolation": "nearest",
    }
    begin = 0
    for axes, (milestone, _), share in zip(panels, counted, shares, strict=True):
        place = (begin, milestone.tokens, layers * experts - 0.5, -0.5)
        image = axes.imshow(share.T, extent=place, **scale)
        for layer in range(1, layers):
            axes.axhline(layer * experts - 0.5, color=INK, linewidth=0.6)
        axes.grid(visible=False)
        axes.set_title(milestone.label, fontsize=9)
        axes.set_xlabel("tokens trained")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: format_quantity(int(tokens), Unit.TOKENS)))
        begin = milestone.tokens
    every = max(1, layers // 12)
    shown = range(0, layers, every)
    panels[0].set_yticks([(layer + 0.5) * experts - 0.5 for layer in shown], [str(layer + 1) for layer in shown])
    panels[0].set_ylabel(f"layer, {experts} experts each")
    figure.colorbar(image, ax=list(panels), label="tokens over an even share", extend="max")
    figure.suptitle("Expert load over training", **TITLE)
    return figure


def task_label(row: ScoreRow) -> str:
    """`code` for the perplexity of that domain, the task's own name elsewhere."""
    name = row.task.removeprefix("held_out_") if row.suite is Suite.HELD_OUT_PERPLEXITY else row.task
    return name.replace("_", " ")


def _panel(axes: Axes, rows: Sequence[ScoreRow], name: str) -> None:
    places = range(len(rows) - 1, -1, -1)  # the first on top
    bars: dict[str, Any] = {"linestyle": "none", "capsize": 3, "elinewidth": 1.4, "markersize": 7}
    before = [
        (row.untrained, row.untrained_stderr or 0.0, y) for row, y in zip(rows, places, strict=True) if row.untrained is not None
    ]
    if before:
        values, errors, ys = zip(*before, strict=True)
        axes.errorbar(values, ys, xerr=errors, fmt="o", color=CONTROL, markerfacecolor="white", label="untrained", **bars)
    spread = [row.stderr for row in rows]
    axes.errorbar([row.value for row in rows], list(places), xerr=spread, fmt="D", color=MODEL, label=name, **bars)
    for row, y in zip(rows, places, strict=True):
        if row.chance is not None:
            axes.vlines(row.chance, y - 0.3, y + 0.3, color=INK, linewidth=1.4, linestyle=(0, (1, 1.5)), label="chance")
    better = "right" if rows[0].higher_is_better else "left"
    axes.set_xlabel(f"{NAMES[rows[0].metric]} ({better} is better)")
    axes.set_yticks(list(places), [task_label(row) for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _curve(axes: Axes, points: Sequence[CurvePoint], colour: str, label: str) -> None:
    """All points faintly, and the running median of those that are numbers: single batches are of single domains, and jump."""
    tokens, losses = [p.tokens for p in points], [p.loss for p in points]
    reach = max(1, len(points) // SMOOTHED_OVER // 2)
    near = [[loss for loss in losses[max(0, i - reach) : i + reach + 1] if math.isfinite(loss)] for i in range(len(losses))]
    smooth = [median(window) if window else math.nan for window in near]
    axes.plot(tokens, losses, color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(tokens, smooth, color=colour, linewidth=1.8, label=label)
