"""Join everything a campaign measured into figures, a page and one machine-readable file."""

import json
from dataclasses import replace

from athanor.artifacts.run import Input, Outcome, StageError, StageRun
from athanor.evaluation.difficulty import NodeDifficulty, by_node, difficulty_metrics, read_difficulty
from athanor.evaluation.figures import write_figures
from athanor.evaluation.ngram import BASELINES_FILE
from athanor.evaluation.rankings import Chosen, PairLoss, Ranking, chosen_of, read_pair_losses, read_rankings
from athanor.evaluation.results import (
    RESULTS_FILE,
    ResultsError,
    Training,
    join,
    read_fine_tuning,
    read_pass_rates,
    read_selected,
    read_training,
    read_tried,
    write_results,
)
from athanor.evaluation.rounds import HandedOver, OnlineRounds, handed_over, rounds_of
from athanor.evaluation.scores import SCORES_FILE, compare_scores, read_scores
from athanor.evaluation.summary import SUMMARY_FILE, write_summary
from athanor.external.contract import METRICS_FILE
from athanor.recipe.graph import FINE_TUNED, SHUFFLED, UNTRAINED
from athanor.recipe.mixture_search import SEARCH, mixtures
from athanor.rl.answers import RATES_FILE
from athanor.rl.difficulty import DIFFICULTY_FILE
from athanor.rl.online.rounds import read_metrics
from athanor.rl.selection import SELECTION_FILE


def run(stage: StageRun) -> Outcome:
    """Figures, `summary.html` and `results.json`."""
    trained = {artifact.instance: _training(artifact) for artifact in _of(stage, "pretrain")}
    shuffled = trained.pop(SHUFFLED, None)
    scores = {artifact.instance: read_scores(artifact.folder / SCORES_FILE) for artifact in _of(stage, "evaluate")}
    before = scores.pop(UNTRAINED, [])
    baselines = {}
    for artifact in _of(stage, "baselines"):
        baselines.update(json.loads((artifact.folder / BASELINES_FILE).read_text()))
    tuned = {artifact.instance: artifact.folder for artifact in _of(stage, "sft")}
    tasks = read_fine_tuning(tuned["model"], tuned.get(SHUFFLED)) if tuned else []
    answers = [
        rates for artifact in _of(stage, "answers") for rates in read_pass_rates(artifact.instance, artifact.folder / RATES_FILE)
    ]
    selected = [read_selected(a.instance, a.folder / SELECTION_FILE) for a in _of(stage, "selection")]
    sft = stage.recipe.sft
    tried = [read_tried(name, mixture, tuned[f"{SEARCH}{name}"]) for name, mixture in mixtures(sft).items()]
    rows = [row for label in sorted(scores) for row in compare_scores(scores[label], before)]
    try:
        results = join(stage.recipe.name, list(trained.values()), shuffled, baselines, rows, tasks, answers, selected, tried)
    except ResultsError as error:
        raise StageError(str(error)) from error

    results = replace(results, rankings=_rankings(stage), chosen=_chosen(stage), pair_losses=_pair_losses(stage))
    results = replace(results, difficulty=_difficulty(stage), online=_online(stage), handed_over=_handed_over(stage))
    figures = write_figures(stage.folder, results)
    names = {f"{a.manifest.result.stage}/{a.instance}": a.fingerprint for a in stage.inputs.values()}
    write_results(stage.folder / RESULTS_FILE, results)
    write_summary(stage.folder / SUMMARY_FILE, results, names, [stage.folder / name for name in figures])
    for name in (*figures, SUMMARY_FILE, RESULTS_FILE):
        stage.spool.artifact(stage.folder / name, name)
    answered = {f"{t.task}/answers_below_{name}": margin for t in tasks for name, margin in t.margins.items()}
    margins = {f"{d.domain}/below_{name}": margin for d in results.domains for name, margin in d.margins.items()}
    by_level = dict(difficulty_metrics(results.difficulty))
    return Outcome(
        files=(*figures, SUMMARY_FILE, RESULTS_FILE),
        counters={"domains": len(results.domains), "scores": len(rows), "tokens": results.final.tokens},
        metrics={**margins, **answered, **{f"{t.name}/mixture_gain": t.mean for t in tried}, **by_level},
    )


def _difficulty(stage: StageRun) -> list[NodeDifficulty]:
    tasks = stage.recipe.sft.tasks
    return by_node([read_difficulty(tasks[a.instance].taxonomy, a.folder / DIFFICULTY_FILE) for a in _of(stage, "curation")])


def _of(stage: StageRun, name: str) -> list[Input]:
    return [artifact for artifact in stage.inputs.values() if artifact.manifest.result.stage == name]


def _rankings(stage: StageRun) -> list[Ranking]:
    """Of every training of the reward model; what needs no training once."""
    trainings = [*_of(stage, "reward_pretrain"), *_of(stage, "reward_tune")]
    rows = [row for a in trainings for row in read_rankings(f"{a.manifest.result.stage}/{a.instance}", a.folder)]
    return list(dict.fromkeys(rows))


def _chosen(stage: StageRun) -> list[Chosen]:
    scores = _of(stage, "score")
    return [row for a in scores for row in chosen_of(a.instance.removesuffix(f"-{FINE_TUNED}"), a.manifest.provenance.metrics)]


def _pair_losses(stage: StageRun) -> list[PairLoss]:
    return [row for a in _of(stage, "preference") for row in read_pair_losses(a.instance, a.folder)]


def _online(stage: StageRun) -> list[OnlineRounds]:
    own = [a for a in _of(stage, "online") if not a.manifest.provenance.trainer]
    return [rounds_of(a.instance, read_metrics(a.folder)) for a in own]


def _handed_over(stage: StageRun) -> list[HandedOver]:
    found = []
    for artifact in [*_of(stage, "pretrain"), *_of(stage, "online")]:
        if trainer := artifact.manifest.provenance.trainer:
            lines = (artifact.folder / METRICS_FILE).read_text().splitlines()
            name = f"{artifact.manifest.result.stage}/{artifact.instance}"
            found.append(handed_over(name, trainer, [json.loads(line) for line in lines]))
    return found


def _training(artifact: Input) -> Training:
    return read_training(artifact.folder, artifact.instance, int(artifact.counters["tokens"]))
