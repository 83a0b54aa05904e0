"""The graph and the rules of the reward model's trainings: on triples, on ranks of answers, and what it then scores."""

from collections.abc import Iterator, Mapping
from typing import Any

from athanor.recipe.graph import ALONE, Artifact, Graph
from athanor.recipe.law import parameters
from athanor.recipe.preference import illegal_module_training
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import OptimizerName, Router
from athanor.recipe.schema.post_training import RewardTraining
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.sections import ranks_section, score_section, training_section

PRETRAIN, TUNE = "reward.pretrain", "reward.tune"
PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")  # what decides the result, beside who keeps the rule
MOST_WEIGHTS = 16_000_000_000  # of a backbone: every rank builds it whole in float32, 64 GB of host memory


def train_reward_model(r: Recipe, graph: Graph, triples: Artifact | None, rollouts: Mapping[str, Artifact]) -> Artifact | None:
    """The reward model behind the recipe's trainings, which ranks the answers `rollouts` (by name); None without fine-tuning.

    Its backbone is a folder of its own, or the model that made the triples out of texts. A folder has a tokenizer of its own,
    and the trainings read the triples as texts then, by the tokenizer of the model that made them.
    """
    trainings = r.reward_trainings()
    if triples is None or not trainings:
        return None
    backbone, texts = triples.upstreams["model"], {}
    if r.reward.backbone:
        texts = {"speaker": backbone}
        backbone = graph.add("backbone", "reward", {"reward.backbone_sha256": r.reward.backbone_sha256}, {})
    starts = {"model": backbone}
    if PRETRAIN in trainings:
        section = _section(r, trainings[PRETRAIN], PRETRAIN)
        upstreams = {"start": backbone, "triples": triples, **texts}
        starts["model"] = graph.add("reward_pretrain", "model", section, upstreams, _packages(trainings[PRETRAIN]))
    if TUNE not in trainings or not rollouts:
        return None
    if r.reward.without_pretraining:
        starts[ALONE] = backbone
    ranks = graph.add("ranks", "answers", ranks_section(r), dict(rollouts))
    section = _section(r, trainings[TUNE], TUNE)
    tuned = {}
    for label, start in starts.items():
        upstreams = {"start": start, "triples": triples, "ranks": ranks, **texts}
        tuned[label] = graph.add("reward_tune", label, section, upstreams, _packages(trainings[TUNE]))
    return tuned["model"]


def score_answers(r: Recipe, graph: Graph, judge: Artifact, rolled: Artifact) -> Artifact:
    """What the reward model `judge` makes of one model's answers."""
    return graph.add("score", rolled.instance, score_section(r), {"model": judge, "rollouts": rolled})


def _section(r: Recipe, settings: RewardTraining, name: str) -> dict[str, Any]:
    return training_section(r, settings, name, settings.token_budget)


def _packages(settings: RewardTraining) -> tuple[str, ...]:
    return PACKAGES if settings.optimizer.name is OptimizerName.ADAMW else (*PACKAGES, "pytorch-optimizer")


def illegal_reward_training(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with the reward model's trainings beyond what any training may have."""
    w, trainings = r.reward, r.reward_trainings()
    weight = "offline.weights.reward"
    if r.offline.weights.reward and TUNE not in trainings:
        yield Problem(weight, r.offline.weights.reward, f"there is no reward model; give {TUNE}.token_budget, or use 0")
    if w.without_pretraining and len(trainings) < len((PRETRAIN, TUNE)):
        advice = f"the control needs {PRETRAIN}.token_budget and {TUNE}.token_budget above 0; use false"
        yield Problem("reward.without_pretraining", True, advice)
    if trainings and not w.prefixes:
        advice = "a reward model is measured on triples of the roster; give some, or no token_budget to the reward model"
        yield Problem("reward.prefixes", w.prefixes, advice)
    if TUNE in trainings and not r.learns_offline:
        advice = "ranks are made of the answers that offline RL asks for; give offline.mixture and offline.prompts, or use 0"
        yield Problem(f"{TUNE}.token_budget", trainings[TUNE].token_budget, advice)
    if (w.backbone or w.backbone_sha256) and not trainings:
        advice = "no reward model is trained; give reward.pretrain or reward.tune a token_budget, or leave it out"
        yield Problem("reward.backbone", w.backbone, advice)
    if trainings and not w.backbone and r.model.router is Router.LOSS_FREE:
        advice = "its Hugging Face form (Glm4Moe) has no head for scores; use softmax, or name a reward.backbone"
        yield Problem("model.router", r.model.router.value, advice)
    if trainings and not w.backbone and (advice := too_large(parameters(r.model))):
        yield Problem("model.num_layers", r.model.num_layers, advice)
    for section, settings in trainings.items():
        if settings.mixture:
            yield Problem(f"{section}.mixture", list(settings.mixture), "triples and ranks come without sources; leave it out")
        yield from illegal_module_training(settings, settings.zero, section)


def too_large(weights: int) -> str:
    """Why a backbone of so many weights cannot be trained; empty where it can."""
    if weights <= MOST_WEIGHTS:
        return ""
    return (
        f"the reward model's backbone has {weights / 1e9:.3g}B weights, and every rank builds all of them in float32; name a "
        f"reward.backbone of at most {MOST_WEIGHTS / 1e9:.3g}B, or give no token_budget in reward"
    )
