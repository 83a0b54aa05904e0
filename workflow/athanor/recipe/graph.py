"""Stages, the artifacts they make, and the graph that artifacts are in: who each is, and what it is made of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from athanor.recipe.environments import pins
from athanor.recipe.fingerprint import fingerprint, plain
from athanor.recipe.schema.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """A kind of artifact: raise `version` when its code would now give another result."""

    name: str
    version: int
    packages: tuple[str, ...]  # those whose version decides the result


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("fetch", 1, ()),
        Stage("tokenizer", 1, ("tokenizers",)),
        Stage("tokenize", 1, ("tokenizers",)),
        Stage("initialize", 1, ("torch", "megatron-core")),
        Stage("pretrain", 1, ("torch", "megatron-core", "transformer-engine")),
        Stage("baselines", 1, ("numpy",)),
        Stage("conversations", 1, ()),
        Stage("pack", 1, ("tokenizers", "transformers")),
        Stage("sft", 1, ("torch", "megatron-core", "transformer-engine")),
        Stage("labels", 1, ("torch", "transformers")),
        Stage("curation", 1, ()),
        Stage("export", 1, ("torch", "safetensors", "transformers")),
        Stage("average", 1, ("torch", "safetensors")),
        Stage("answers", 2, ("torch", "transformers")),
        Stage("rollouts", 1, ("torch", "transformers")),
        Stage("selection", 1, ()),
        Stage("offline", 1, ("torch", "megatron-core", "transformer-engine")),
        Stage("pairs", 1, ()),
        Stage("preference", 1, ("torch", "deepspeed", "transformers", "trl")),
        Stage("trajectories", 1, ("torch", "transformers", "tokenizers", "numpy")),
        Stage("triples", 1, ("torch", "transformers", "tokenizers", "numpy")),
        Stage("ranks", 1, ()),
        Stage("backbone", 1, ()),
        Stage("reward_pretrain", 1, ("torch", "deepspeed", "transformers", "tokenizers", "numpy")),
        Stage("reward_tune", 1, ("torch", "deepspeed", "transformers", "tokenizers", "numpy")),
        Stage("score", 1, ("torch", "transformers", "tokenizers")),
        Stage("problems", 1, ("reasoning-gym",)),
        Stage("pool", 2, ("torch", "transformers", "reasoning-gym")),
        Stage("online", 4, ("torch", "deepspeed", "transformers", "reasoning-gym")),
        Stage("evaluate", 1, ("torch", "transformers", "lm-eval")),
        Stage("report", 6, ("matplotlib",)),
    )
}

SECTIONS = {"reward_pretrain": "reward.pretrain", "reward_tune": "reward.tune"}  # of stages that are not called by them
TRAINING = ("pretrain", "sft", "offline", "preference", "online", *SECTIONS)  # stages of many ranks, which mark every step
HELD_OUT = "held_out"
UNTRAINED = "untrained"
AVERAGE = "average"
SHUFFLED = "shuffled"
FINE_TUNED, OFFLINE, PREFERENCE, ONLINE = "sft", "offline", "preference", "online"
PROBLEMS = "problems"  # in a mixture: those of the task registry
SECOND = "second"  # the fine-tuned model whose pass rates count beside the first one's
ALONE = "alone"  # the reward model that is fine-tuned without having been trained on triples
MORE = "more"  # the control that goes on with the conversations of fine-tuning
ADAPTED = "adapted"  # what an adapter is beside, where training goes on from an earlier point of the same
CHECKPOINT = "checkpoint"  # of a model that is given in its exported form, too
GIVEN = "given"  # the start of a training in the form that another trainer reads
EXCHANGED = "exchanged"  # the control that prefers the wrong answer in half of the pairs


@dataclass(frozen=True, eq=False)
class Artifact:
    """One node of the graph. `section` holds the recipe keys (dotted) that decide its result."""

    stage: str
    instance: str
    section: Mapping[str, Any]
    upstreams: Mapping[str, "Artifact"]
    packages: Mapping[str, str]
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", fingerprint(self.identity()))

    @property
    def name(self) -> str:
        """`pretrain/400K`: how people call it."""
        return f"{self.stage}/{self.instance}"

    @property
    def path(self) -> str:
        """`pretrain/0123456789abcdef`: its folder below the store."""
        return f"{self.stage}/{self.fingerprint}"

    def identity(self) -> dict[str, Any]:
        """What the fingerprint is taken of."""
        return {
            "stage": self.stage,
            "version": STAGES[self.stage].version,
            "section": {k: plain(v, k) for k, v in self.section.items()},
            "packages": dict(self.packages),
            "upstreams": {name: upstream.fingerprint for name, upstream in self.upstreams.items()},
        }


class Graph:
    """Artifacts of a recipe, in the order they can be made."""

    def __init__(self, recipe: Recipe, project: Path) -> None:
        self.recipe, self.project = recipe, project
        self._artifacts: dict[str, Artifact] = {}

    def add(
        self,
        stage: str,
        instance: str,
        section: Mapping[str, Any],
        upstreams: Mapping[str, Artifact],
        packages_instead: tuple[str, ...] = (),
    ) -> Artifact:
        """Put one more artifact in the graph. `packages_instead` decide its result where the stage's own do not."""
        packages = pins(self.project, self.recipe.environment, packages_instead or STAGES[stage].packages)
        artifact = Artifact(stage, instance, section, upstreams, packages)
        self._artifacts[artifact.name] = artifact
        return artifact

    def __iter__(self) -> Iterator[Artifact]:
        return iter(self._artifacts.values())

    def __getitem__(self, name: str) -> Artifact:
        return self._artifacts[name]

    def __contains__(self, name: str) -> bool:
        return name in self._artifacts

    def of(self, stage: str) -> list[Artifact]:
        """The artifacts of one stage."""
        return [artifact for artifact in self if artifact.stage == stage]

    def by_path(self, path: str) -> Artifact:
        """The artifact stored at `STAGE/FINGERPRINT`; KeyError when the recipe has none there."""
        return next((a for a in self if a.path == path), None) or _raise(KeyError(path))


def _raise(error: Exception) -> Any:
    raise error
