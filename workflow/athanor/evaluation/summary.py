"""`summary.html`: the report as one self-contained page, tables first, figures embedded."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from athanor.evaluation.difficulty import NodeDifficulty
from athanor.evaluation.figures import task_label
from athanor.evaluation.rankings import Chosen, PairLoss, Ranking
from athanor.evaluation.results import CampaignResults, DomainLoss, PassRates, Selected, TaskLoss, Tried
from athanor.evaluation.rounds import HandedOver, OnlineRounds, from_to
from athanor.evaluation.scores import ScoreRow
from athanor.recipe.schema.choices import Difficulty

SUMMARY_FILE = "summary.html"
CHARACTERS_OF_A_FINGERPRINT = 12

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem }
p.lead { color: #4b5563; margin-top: 0 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #e5e7eb; white-space: nowrap }
th { font-weight: 600; color: #4b5563; white-space: normal; vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
td:nth-child(2) { white-space: normal }
td.model { font-weight: 600; color: #b5451b }
figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto }
"""


def write_summary(path: Path, results: CampaignResults, inputs: Mapping[str, str], figures: Sequence[Path]) -> None:
    """`inputs`: artifact name → fingerprint of everything the report was made of. `figures`: SVG files to embed."""
    final = results.final
    drawings = "".join(f"<figure>{_svg(figure)}</figure>" for figure in figures)
    milestones = [
        [escape(m.label), f"{m.tokens:,}", *_cells(m.validation.get(d.domain) for d in results.domains)]
        for m in results.milestones
    ]
    sources = [[escape(name), fingerprint[:CHARACTERS_OF_A_FINGERPRINT]] for name, fingerprint in sorted(inputs.items())]
    body = f"""<h1>{escape(results.name)}</h1>
<p class="lead">{final.tokens:,} tokens trained, {len(results.milestones)} milestones, {len(results.domains)} domains.</p>
<h2>Held-out loss by domain</h2>
{_domain_table(results.domains)}
<h2>Scores</h2>
{_score_table(results.scores)}
{_fine_tuning(results.tasks)}
{_tried(results.tried)}{_difficulty(results.difficulty)}
{_answers(results.answers)}
{_selected(results.selected)}
{_rankings(results.rankings)}
{_chosen(results.chosen)}
{_pair_losses(results.pair_losses)}
{_online(results.online)}
{_handed_over(results.handed_over)}
<h2>Milestones: held-out loss, nats per token</h2>
{_table(["milestone", "tokens", *(escape(d.domain) for d in results.domains)], milestones)}
<h2>Figures</h2>
{drawings}
<h2>Made of</h2>
{_table(["artifact", "fingerprint"], sources)}"""
    title = f"<title>{escape(results.name)}: report</title>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{title}<style>{STYLE}</style>'
    path.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n', encoding="utf-8")


def _domain_table(domains: Sequence[DomainLoss]) -> str:
    head = ["domain", "model, nats/token", "bits/byte", "unigram", "bigram", "tokens shuffled", "below bigram by"]
    rows = [
        [
            escape(d.domain),
            *_cells((d.model, d.bits_per_byte, d.unigram, d.bigram, d.shuffled)),
            f"{d.margins['bigram']:+.3f}",
        ]
        for d in domains
    ]
    return _table(head, rows, model_column=1)


def _fine_tuning(tasks: Sequence[TaskLoss]) -> str:
    if not tasks:
        return ""
    head = ["task", "response tokens", "model, nats/token", "before", "others' responses", "below before by"]
    rows = [[escape(t.task), f"{t.tokens:,}", *_cells((t.model, t.base, t.shuffled)), f"{t.margins['base']:+.3f}"] for t in tasks]
    return f"<h2>Fine-tuning: loss of held-out responses</h2>\n{_table(head, rows, model_column=2)}"


def _answers(rates: Sequence[PassRates]) -> str:
    if not rates:
        return ""
    head = ["task", "model", "questions", "likeliest answer right", "drawn answers right", "always one answer", "cut or looping"]
    rows = [
        [
            escape(r.task),
            escape(r.model),
            f"{r.questions:,}",
            f"{r.greedy:.3f} ± {r.greedy_stderr:.3f}",
            f"{r.sampled:.3f} ± {r.sampled_stderr:.3f}",
            f"{r.constant:.3f}",
            f"{r.cut:.3f}",
        ]
        for r in sorted(rates, key=lambda r: (r.task, r.model))
    ]
    return f"<h2>Answers to held-out questions</h2>\n{_table(head, rows, model_column=3)}"


def _tried(mixtures: Sequence[Tried]) -> str:
    if not mixtures:
        return ""
    tasks = sorted(mixtures[0].gains)
    head = ["mixture", "made of", *map(escape, tasks), "mean"]
    rows = [
        [
            escape(t.name),
            escape(", ".join(f"{task} {share:.0%}" for task, share in t.mixture.items())),
            *(f"{t.gains[task]:+.3f}" for task in tasks),
            f"{t.mean:+.3f}",
        ]
        for t in mixtures
    ]
    title = "Mixture search: by how much a short training lowers the loss of held-out responses, nats/token"
    return f"<h2>{title}</h2>\n{_table(head, rows, model_column=len(head) - 1)}"


def _difficulty(nodes: Sequence[NodeDifficulty]) -> str:
    if not nodes:
        return ""
    head = [
        "field / subject / skill",
        "questions",
        "pass rate",
        *Difficulty,
        "left out",
        "kept by the floor",
        "repeats",
        "reworded",
    ]
    rows = [
        [
            escape(" / ".join(n.node)),
            f"{n.labelled:,}",
            f"{n.pass_rate:.3f}",
            *(f"{n.share(level):.0%}" for level in Difficulty),
            *(f"{count:,}" for count in (n.dropped, n.kept_by_floor, n.repeats, n.rephrased)),
        ]
        for n in nodes
    ]
    return f"\n<h2>Fine-tuning: difficulty of training questions</h2>\n{_table(head, rows, model_column=2)}"


def _selected(tasks: Sequence[Selected]) -> str:
    if not tasks:
        return ""
    head = [
        "task",
        "questions",
        "learnt from",
        "of these too hard",
        "without a right answer",
        "too easy",
        "too hard",
        "pass rate",
    ]
    rows = [
        [
            escape(t.task),
            *(f"{n:,}" for n in (t.questions, t.kept, t.kept_by_floor, t.unanswered, t.easy, t.hard)),
            f"{t.pass_rate:.3f}",
        ]
        for t in tasks
    ]
    return f"<h2>Offline RL: questions whose best answers were learnt</h2>\n{_table(head, rows, model_column=2)}"


def _online(models: Sequence[OnlineRounds]) -> str:
    if not models:
        return ""

    head = ["model", "rounds", "drawn answers right", "entropy, nats/token", "groups learnt from", "tokens an answer"]
    rows = [
        [escape(m.model), f"{m.rounds:,}", *map(_moved, (m.pass_rate, m.entropy, m.learnt_share, m.answer_tokens))]
        for m in models
    ]
    table = _table(head, rows, model_column=2)
    return f"<h2>Online RL: training prompts, first quarter of the rounds → last</h2>\n{table}"


def _moved(values: Sequence[float | None]) -> str:
    begin, end = from_to(values)
    return "" if begin is None or end is None else f"{begin:.3f} → {end:.3f}"


def _handed_over(models: Sequence[HandedOver]) -> str:
    """Measurements are the other trainer's own, under its own names."""
    parts = []
    for one in models:
        told = f"{one.steps:,} steps, {one.tokens:,} tokens,"
        by = f"by <code>{escape(one.trainer)}</code> {escape(one.version)}"
        rows = [[escape(name), _moved(values)] for name, values in one.measured.items()]
        table = _table(["its own measurement", "first quarter → last"], rows, model_column=1) if rows else ""
        parts.append(f"<h2>Handed over to an external trainer: {escape(one.model)}</h2>\n<p>{told} {by}</p>\n{table}")
    return "\n".join(parts)


def _rankings(rows: Sequence[Ranking]) -> str:
    if not rows:
        return ""
    cells = [
        [escape(r.ranker), escape(r.of.replace("_", " ")), f"{r.triples:,}", f"{r.rate:.3f}", f"{r.low:.3f} to {r.high:.3f}"]
        for r in sorted(rows, key=lambda r: (r.of, -r.rate))
    ]
    table = _table(["by", "of", "triples", "ranked right", "95 % interval"], cells, model_column=3)
    return f"<h2>Reward model: what it has not learnt from</h2>\n{table}"


def _chosen(rows: Sequence[Chosen]) -> str:
    if not rows:
        return ""
    cells = [[escape(r.task), *_cells((r.chosen, r.any, r.possible))] for r in rows]
    table = _table(["task", "its choice is right", "any answer", "a right one where there is one"], cells, model_column=1)
    return f"<h2>Reward model: the best of several answers</h2>\n{table}"


def _pair_losses(rows: Sequence[PairLoss]) -> str:
    if not rows:
        return ""
    cells = [[escape(r.model), escape(r.task), f"{r.pairs:,}", *_cells((r.before, r.behind))] for r in rows]
    table = _table(["model", "task", "pairs", "loss before", "behind"], cells, model_column=4)
    return f"<h2>Preference learning: pairs that were not learnt from</h2>\n{table}"


def _score_table(rows: Sequence[ScoreRow]) -> str:
    if not rows:
        return "<p>No suite was evaluated.</p>"
    head = ["task", "metric", "n", "model", "untrained", "chance", "gain", "in standard errors"]
    cells = [
        [
            escape(task_label(row)),
            escape(row.metric),
            f"{row.n:,}",
            f"{_number(row.value)} ± {_number(row.stderr)}",
            "" if row.untrained is None else f"{_number(row.untrained)} ± {_number(row.untrained_stderr or 0.0)}",
            *_cells((row.chance,)),
            "" if row.gain is None else f"{_number(row.gain, sign='+')}",
            "" if row.gain_in_stderrs is None else f"{row.gain_in_stderrs:+.1f}",
        ]
        for row in rows
    ]
    return _table(head, cells, model_column=3)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], model_column: int = -1) -> str:
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    lines = (
        "".join(f'<td class="model">{cell}</td>' if i == model_column else f"<td>{cell}</td>" for i, cell in enumerate(row))
        for row in rows
    )
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cells(values: Iterable[float | None]) -> list[str]:
    return ["" if value is None else _number(value) for value in values]


def _number(value: float, sign: str = "") -> str:
    """Three decimals; powers of ten where that would be a row of digits (the perplexity of an untrained model)."""
    return f"{value:{sign}.3f}" if abs(value) < 1e4 else f"{value:{sign}.2e}"


def _svg(path: Path) -> str:
    """The drawing without the XML prologue, which HTML does not allow."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
