"""A report joins what was measured, draws it in the same bytes each time, and keeps strangers' text out of its markup."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from athanor.artifacts.files import write_json
from athanor.evaluation.difficulty import NodeDifficulty, by_node, difficulty_metrics
from athanor.evaluation.figures import (
    EXPERTS_FIGURE,
    LOSS_FIGURE,
    ONLINE_FIGURE,
    SCORES_FIGURE,
    VALIDATION_FIGURE,
    draw_loss,
    write_figures,
)
from athanor.evaluation.rankings import chosen_of, read_pair_losses, read_rankings
from athanor.evaluation.results import (
    CampaignResults,
    CurvePoint,
    PassRates,
    ResultsError,
    Selected,
    TaskLoss,
    Training,
    Tried,
    join,
    read_training,
    write_results,
)
from athanor.evaluation.rounds import from_to, handed_over, rounds_of
from athanor.evaluation.scores import Score, compare_scores
from athanor.evaluation.summary import write_summary
from athanor.recipe.schema.choices import Suite

DOMAINS = {"code": 4.2, "molecules": 2.3}
BASELINES = {domain: {"unigram": loss + 2, "bigram": loss + 0.25, "tokens": 1000} for domain, loss in DOMAINS.items()}


def training(label: str, begin: int, end: int, above: float = 0.0) -> Training:
    curve = [CurvePoint(tokens, 4 + above + math.exp(-tokens / 1e5), 1e-3) for tokens in range(begin + 2048, end, 2048)]
    losses = {domain: loss + above for domain, loss in DOMAINS.items()}
    return Training(label, end, curve, losses, {domain: loss / 2 for domain, loss in losses.items()})


def scores(bits: float, accuracy: float) -> list[Score]:
    return [
        Score(Suite.HELD_OUT_PERPLEXITY, "held_out_code", "bits_per_byte", bits, 0.05, None, False, 60),
        Score(Suite.MMLU_DEV, "mmlu_dev", "acc", accuracy, 0.03, 0.25, True, 281),
    ]


@pytest.fixture
def results() -> CampaignResults:
    milestones = [training("400K", 200_000, 400_000), training("200K", 0, 200_000, above=0.5)]
    rows = compare_scores(scores(2.0, 0.3), scores(4.0, 0.24))
    return join("tiny", milestones, training("shuffled", 0, 400_000, above=1.5), BASELINES, rows)


def test_join_orders_milestones_and_measures_the_last_against_the_baselines(results: CampaignResults) -> None:
    assert [milestone.label for milestone in results.milestones] == ["200K", "400K"]
    code, molecules = results.domains
    assert (code.domain, molecules.domain) == ("code", "molecules")
    assert code.margins == pytest.approx({"unigram": 2.0, "bigram": 0.25, "shuffled": 1.5})


def test_join_without_the_control_leaves_it_out() -> None:
    joined = join("tiny", [training("400K", 0, 400_000)], None, BASELINES, [])
    assert all("shuffled" not in domain.margins for domain in joined.domains)


def test_join_missing_baseline_is_an_error() -> None:
    with pytest.raises(ResultsError, match="baselines lack the domains molecules"):
        join("tiny", [training("400K", 0, 400_000)], None, {"code": BASELINES["code"]}, [])


def test_join_without_training_is_an_error() -> None:
    with pytest.raises(ResultsError, match="no pretrain artifact"):
        join("tiny", [], None, BASELINES, [])


def test_read_training_reads_what_pretraining_writes(tmp_path: Path) -> None:
    points = [{"step": 10, "tokens": 20480, "loss": 6.5, "lr": 1e-3, "grad_norm": 1.0}]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    validation = {"code": {"nats_per_token": 4.2, "tokens": 1000, "bits_per_byte": 2.0}}
    (tmp_path / "validation.json").write_text(json.dumps(validation))
    found = read_training(tmp_path, "400K", 400_000)
    assert found == Training("400K", 400_000, [CurvePoint(20480, 6.5, 1e-3)], {"code": 4.2}, {"code": 2.0})


def test_step_without_a_loss_is_a_gap_that_the_median_passes_over(results: CampaignResults, tmp_path: Path) -> None:
    losses = [9.0, 8.0, math.nan, 6.0, 5.0] * 20  # 100 steps: a median of five
    lines = [json.dumps({"step": k, "tokens": k, "loss": x if x == x else None, "lr": 1.0}) for k, x in enumerate(losses)]
    (tmp_path / "curve.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "validation.json").write_text("{}")
    curve = read_training(tmp_path, "400K", 400_000).curve
    assert [point.loss for point in curve] == pytest.approx(losses, nan_ok=True)
    drawn = draw_loss(replace(results, milestones=[replace(results.final, curve=curve)], shuffled=None))
    every, smooth = (list(line.get_ydata()) for line in drawn.axes[0].lines[:2])
    assert every == pytest.approx(losses, nan_ok=True)
    assert smooth[50:55] == [7.0] * 5, "between 6 and 8, the middle of four"


def test_figures_are_svg_with_the_same_bytes_each_time(results: CampaignResults, tmp_path: Path) -> None:
    names = write_figures(tmp_path / "a", results)
    assert set(names) == {LOSS_FIGURE, VALIDATION_FIGURE, SCORES_FIGURE}
    assert names == write_figures(tmp_path / "b", results)
    for name in names:
        drawn = (tmp_path / "a" / name).read_bytes()
        assert drawn == (tmp_path / "b" / name).read_bytes()
        assert ElementTree.fromstring(drawn).tag.endswith("svg")


def test_figures_of_a_campaign_without_control_or_scores_are_drawn(tmp_path: Path) -> None:
    bare = join("tiny", [replace(training("1", 0, 4096), curve=[])], None, BASELINES, [])
    for name in write_figures(tmp_path, bare):
        ElementTree.parse(tmp_path / name)


def test_results_hold_losses_margins_and_scores(results: CampaignResults, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", results)
    found = json.loads((tmp_path / "results.json").read_text())
    assert [domain["domain"] for domain in found["domains"]] == ["code", "molecules"]
    assert found["domains"][0]["margins"]["bigram"] == pytest.approx(0.25)
    assert found["scores"][0]["gain_in_stderrs"] == pytest.approx(2 / math.hypot(0.05, 0.05))
    assert [milestone["tokens"] for milestone in found["milestones"]] == [200_000, 400_000]


def test_summary_is_self_contained_and_escapes_names(results: CampaignResults, tmp_path: Path) -> None:
    names = write_figures(tmp_path, results)
    named = replace(results, name="<script>alert(1)</script>")
    write_summary(tmp_path / "summary.html", named, {"pretrain/400K": "0123456789abcdef"}, [tmp_path / name for name in names])
    page = (tmp_path / "summary.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") == 3
    assert "src=" not in page
    assert "<?xml" not in page
    assert "0123456789ab" in page
    assert "+0.250" in page


def test_difficulty_is_counted_by_every_node_of_the_taxonomy(results: CampaignResults, tmp_path: Path) -> None:
    sums = NodeDifficulty(("mathematics", "arithmetic", "sums"), 100, 60, 20, 10, 10, 5, 2, 40, 20, pass_rate=0.2)
    lists = NodeDifficulty(("mathematics", "logic", "filters"), 300, 300, 0, 0, 0, 0, 0, 0, 0, pass_rate=0.0)
    nodes = by_node([sums, lists])
    assert [node.node[-1] for node in nodes] == ["mathematics", "arithmetic", "sums", "logic", "filters"]
    both = nodes[0]
    assert (both.labelled, both.unsolved, both.hard, both.repeats, both.rephrased) == (400, 360, 20, 40, 20)
    assert both.pass_rate == pytest.approx(0.05) and nodes[1].pass_rate == nodes[2].pass_rate == 0.2
    metrics = dict(difficulty_metrics(nodes))
    assert metrics["difficulty/mathematics/unsolved"] == 0.9 and metrics["difficulty/mathematics/arithmetic/sums/hard"] == 0.2
    write_results(tmp_path / "labelled.json", replace(results, difficulty=nodes))
    assert json.loads((tmp_path / "labelled.json").read_text())["difficulty"][0]["node"] == ["mathematics"]
    write_summary(tmp_path / "summary.html", replace(results, difficulty=nodes), {}, [])
    assert "mathematics / arithmetic / sums" in (tmp_path / "summary.html").read_text()


def test_report_of_a_campaign_without_labels_is_as_it_was(results: CampaignResults, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", results)
    assert "difficulty" not in json.loads((tmp_path / "results.json").read_text())


def test_expert_load_is_drawn_where_it_was_counted(results: CampaignResults, tmp_path: Path) -> None:
    load = np.random.default_rng(0).integers(0, 100, (64, 2, 4))
    load[:, 1, 2] = 0  # a dead expert
    counted = replace(results, milestones=[results.milestones[0], replace(results.final, expert_load=load)])
    assert EXPERTS_FIGURE in write_figures(tmp_path / "a", counted)
    assert write_figures(tmp_path / "b", counted)
    drawn = [(tmp_path / name / EXPERTS_FIGURE).read_bytes() for name in ("a", "b")]
    assert drawn[0] == drawn[1]


def test_fine_tuning_is_told_beside_what_it_must_beat(results: CampaignResults, tmp_path: Path) -> None:
    tasks = [TaskLoss("names", 900, 1.5, 3.0, 1.6), TaskLoss("sums", 50, 2.0, 2.5, None)]
    answers = [
        PassRates("base", "names", 32, 4, 0.0, 0.0, 0.1, 0.02, 0.5, 0.0625),
        PassRates("sft", "names", 32, 4, 0.5, 0.09, 0.25, 0.05, 0.0, 0.0625),
    ]
    tuned = replace(results, tasks=tasks, answers=answers, selected=[Selected("names", 192, 40, 100, 2, 50, 12, 0.0625)])
    tuned = replace(tuned, tried=[Tried("all", {"names": 0.25, "sums": 0.75}, {"names": 1.0, "sums": 0.5})])
    names = write_figures(tmp_path, tuned)
    assert "figures/fine_tuning.svg" in names
    write_results(tmp_path / "results.json", tuned)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["tasks"][0]["margins"] == pytest.approx({"base": 1.5, "shuffled": 0.1})
    assert "shuffled" not in found["tasks"][1]["margins"]
    assert [row["greedy"] for row in found["answers"]] == [0.0, 0.5]
    write_summary(tmp_path / "summary.html", tuned, {}, [tmp_path / name for name in names])
    page = (tmp_path / "summary.html").read_text()
    told = ("Fine-tuning: loss of held-out responses", "0.500 ± 0.090", "0.062", "questions whose best answers")
    assert [text for text in (*told, "names 25%, sums 75%", "+0.750") if text not in page] == []
    assert "Fine-tuning" not in _page(tmp_path / "bare", results)


def test_what_pairs_taught_is_read_and_told(results: CampaignResults, tmp_path: Path) -> None:
    told = {"rate": 0.75, "low": 0.7, "high": 0.8, "triples": 60}
    bigrams = {"rate": 0.5, "low": 0.45, "high": 0.55, "triples": 60}
    ranked = {"unseen_policies": told, "ranks_aside": {**told, "rate": 0.625}, "untrained": {"bigrams": bigrams}}
    write_json(tmp_path / "accuracy.json", ranked)
    for name, loss in (("validation_start", math.log(2)), ("validation", 0.25)):
        write_json(tmp_path / f"{name}.json", {"sums": {"nats_per_token": loss, "tokens": 9, "bits_per_byte": None}})
    rankings = read_rankings("reward_tune/model", tmp_path)
    chosen = chosen_of("sums", {"right/chosen": 0.375, "right/any": 0.125, "right/possible": 0.5})
    assert chosen_of("sums", {}) == []
    paired = replace(results, rankings=rankings, chosen=chosen, pair_losses=read_pair_losses("model", tmp_path))
    write_results(tmp_path / "results.json", paired)
    found = json.loads((tmp_path / "results.json").read_text())
    assert {(row["ranker"], row["of"]): row["rate"] for row in found["rankings"]} == {
        ("reward_tune/model", "unseen_policies"): 0.75,
        ("reward_tune/model", "ranks_aside"): 0.625,
        ("bigrams", "unseen_policies"): 0.5,
    }
    assert found["chosen"] == [{"task": "sums", "chosen": 0.375, "any": 0.125, "possible": 0.5}]
    assert found["pair_losses"] == [{"model": "model", "task": "sums", "pairs": 9, "before": math.log(2), "behind": 0.25}]
    page = _page(tmp_path, paired)
    assert [text for text in ("0.700 to 0.800", "bigrams", "0.375", "0.693", "0.250") if text not in page] == []
    assert "Reward model" not in _page(tmp_path / "bare", results) and "Preference" not in _page(tmp_path / "bare", results)


def _page(folder: Path, results: CampaignResults) -> str:
    names = write_figures(folder, results)
    write_summary(folder / "summary.html", results, {}, [folder / name for name in names])
    return (folder / "summary.html").read_text()


def test_online_rounds_are_told_from_beginning_to_end_and_drawn(results: CampaignResults, tmp_path: Path) -> None:
    metrics = [{"pass_rate": 0.25 + n / 32, "entropy": 1.0 - n / 16, "answer_tokens": 8.0} for n in range(8)]
    model, control = rounds_of("model", metrics), rounds_of("shuffled", [{"entropy": 0.5}])
    assert from_to(model.pass_rate) == (0.265625, 0.453125) and model.rounds == 8
    assert from_to(control.pass_rate) == (None, None) and from_to(control.entropy) == (0.5, 0.5)
    learnt = replace(results, online=[model, control])
    write_results(tmp_path / "results.json", learnt)
    assert [row["model"] for row in json.loads((tmp_path / "results.json").read_text())["online"]] == ["model", "shuffled"]
    page = _page(tmp_path, learnt)
    assert "0.266 → 0.453" in page and "0.969 → 0.594" in page and "0.500 → 0.500" in page
    assert "Online RL" not in _page(tmp_path / "bare", results)
    assert ONLINE_FIGURE in write_figures(tmp_path, learnt) and ONLINE_FIGURE not in write_figures(tmp_path / "bare", results)


def test_model_of_another_trainer_is_told_as_such(results: CampaignResults, tmp_path: Path) -> None:
    lines = [{"step": n, "tokens": 100 * n, "reward": n / 8, **({"loss": 1.0} if n < 3 else {})} for n in range(1, 9)]
    one = handed_over(
        "model", {"command": "train <this> {handover}", "version": "crucible 1.2"}, [*lines, {**lines[-1], "kl": math.nan}]
    )
    assert (one.steps, one.tokens, one.measured["loss"][2:4]) == (8, 800, [None, None])
    learnt = replace(results, handed_over=[one])
    page = _page(tmp_path, learnt)
    assert "Handed over to an external trainer" in page and "train &lt;this&gt; {handover}" in page and "crucible 1.2" in page
    assert "0.188 → 1.000" in page and "8 steps, 800 tokens" in page and "nan" not in page
    assert "external trainer" not in _page(tmp_path / "bare", results)
    write_results(tmp_path / "results.json", learnt)
    [told] = json.loads((tmp_path / "results.json").read_text())["handed_over"]
    assert told["version"] == "crucible 1.2" and told["measured"]["kl"] == [None] * 9
    assert ONLINE_FIGURE not in write_figures(tmp_path, learnt), "it has no rounds of ours"
