"""The graph behind pretraining: conversations, models that learn from them, what these answer, and what is learnt from that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from athanor.recipe.fingerprint import flatten
from athanor.recipe.graph import (
    ADAPTED,
    AVERAGE,
    EXCHANGED,
    FINE_TUNED,
    HELD_OUT,
    MORE,
    OFFLINE,
    ONLINE,
    PREFERENCE,
    PROBLEMS,
    SECOND,
    SHUFFLED,
    STAGES,
    Artifact,
    Graph,
)
from athanor.recipe.labels import labelled_tasks
from athanor.recipe.mixture_search import SEARCH, mixtures, settings_of
from athanor.recipe.online import learn_online, online_tasks
from athanor.recipe.reward_training import score_answers
from athanor.recipe.schema.choices import Backend, OptimizerName, PeftKind, Responses
from athanor.recipe.schema.post_training import Offline, Sft
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.sections import (
    answers_section,
    backend_section,
    conversations_section,
    curation_section,
    labels_section,
    model_section,
    pack_section,
    pairs_section,
    preference_section,
    rollouts_section,
    selection_section,
    training_section,
)
from athanor.recipe.units import Unit, format_quantity

OF_DEEPSPEED = ("torch", "deepspeed", "transformers")  # what decides the result of a training in the Hugging Face form
OFFLINE_MODELS = ("model", Responses.DRAWN.value, MORE)  # the others are points of the first
KEPT_BY = {  # rules that torch does not keep itself
    OptimizerName.LION: ("pytorch-optimizer",),
    OptimizerName.ADAN: ("pytorch-optimizer",),
    OptimizerName.SOPHIA: ("sophia-opt",),
    OptimizerName.LOMO: ("pytorch-optimizer",),
    OptimizerName.ADALOMO: ("pytorch-optimizer",),
}


Judge = Callable[[Mapping[str, Artifact]], Artifact | None]  # answers of models, by name → the reward model, where there is one


def post_train(
    r: Recipe, graph: Graph, tokenizer: Artifact, base: Artifact, base_model: Artifact, judge: Judge
) -> dict[str, Artifact]:
    """Everything behind the last milestone `base`, whose export is `base_model`. Returns what the report reads.

    `judge` lays out the reward model, once everything is there that speaks and answers.
    """
    return _PostTraining(r, graph, tokenizer, judge).lay_out(base, base_model)


@dataclass
class _PostTraining:
    r: Recipe
    graph: Graph
    tokenizer: Artifact
    judge: Judge

    def lay_out(self, base: Artifact, base_model: Artifact) -> dict[str, Artifact]:
        """Fine-tuning and its control, offline RL and its controls; all models are asked what was held out."""
        r = self.r
        made = {
            name: self.graph.add("conversations", name, conversations_section(r, name), {})
            for name in dict.fromkeys([*r.sft.mixture, *(r.offline.mixture if r.learns_offline else ()), *online_tasks(r)])
        }
        own = {name: self._pack(name, Responses.OWN, conversations) for name, conversations in made.items()}
        start = base_model if r.sft.backend is Backend.DEEPSPEED else base
        tried = self._search(start, own)
        curated = self._curate(tried, made)
        learnt_from = made | curated if r.sft.labels.curates else made
        packs = {name: self._pack(name, Responses.CURATED, c) for name, c in curated.items()} if r.sft.labels.curates else {}
        packs = {name: packs.get(name, own[name]) for name in r.sft.mixture}
        tuned = self._fine_tune(start, packs, own, learnt_from)
        trained = {f"sft-{label}": artifact for label, artifact in tuned.items()} | tried
        trained |= {f"curation-{task}": artifact for task, artifact in curated.items()}
        models = {"base": base_model, FINE_TUNED: self._export(FINE_TUNED, tuned["model"])}
        if SECOND in tuned:
            models[f"sft-{SECOND}"] = self._export(f"sft-{SECOND}", tuned[SECOND])
        if SHUFFLED in tuned and r.sft.answers.prompts:  # the control is exported to be asked
            models[f"sft-{SHUFFLED}"] = self._export(f"sft-{SHUFFLED}", tuned[SHUFFLED])
        rolled = self._roll_out([models[label] for label in (FINE_TUNED, f"sft-{SECOND}") if label in models], made)
        judge = self.judge(rolled)
        if r.learns_offline:
            learnt, selections = self._learn_offline(tuned["model"], rolled, judge, packs, own, made)
            points = [learnt.pop(label) for label in list(learnt) if label not in OFFLINE_MODELS]
            trained |= {f"offline-{label}": artifact for label, artifact in learnt.items()} | selections
            for label, artifact in learnt.items():
                if label == "model" or r.sft.answers.prompts:
                    name = OFFLINE if label == "model" else f"{OFFLINE}-{label}"
                    models[name] = self._export(name, artifact)
            if r.offline.average:
                last = [*(self._export(f"{OFFLINE}-{point.instance}", point) for point in points), models[OFFLINE]]
                averaged = {model.instance: model for model in last[-r.offline.average :]}
                models[AVERAGE] = self.graph.add(AVERAGE, OFFLINE, {}, averaged)
        if r.learns_preferences:
            preferring, pairs = self._prefer(models[OFFLINE], models[FINE_TUNED], made)
            trained |= {f"preference-{label}": artifact for label, artifact in preferring.items()} | pairs
            for label, artifact in preferring.items():
                if label == "model" or r.sft.answers.prompts:
                    name = PREFERENCE if label == "model" else f"{PREFERENCE}-{label}"
                    models[name] = self._export(name, artifact)
        problems = None
        if r.learns_online:
            starts = {FINE_TUNED: tuned["model"], **({OFFLINE: trained[f"{OFFLINE}-model"]} if r.learns_offline else {})}
            problems, learnt = learn_online(r, self.graph, models, starts, made, judge)
            trained |= {f"{ONLINE}-{label}": artifact for label, artifact in learnt.items()}
            for label, artifact in learnt.items():
                if label == "model" or r.sft.answers.prompts:
                    name = ONLINE if label == "model" else f"{ONLINE}-{label}"
                    models[name] = self._export(name, artifact)
            if r.online.average:
                mean = self.graph.add(AVERAGE, ONLINE, {}, {"model": learnt["model"]})
                models[f"{ONLINE}-{AVERAGE}"] = self._export(f"{ONLINE}-{AVERAGE}", mean)
        asked = {label: model for label, model in models.items() if label != f"sft-{SECOND}"}
        return trained | (self._ask(asked, made, problems) if r.sft.answers.prompts else {})

    def _pack(self, name: str, kind: Responses, conversations: Artifact) -> Artifact:
        label = name if kind is Responses.OWN else f"{name}-{kind}"
        upstreams = {"conversations": conversations, "tokenizer": self.tokenizer}
        return self.graph.add("pack", label, pack_section(self.r, kind), upstreams)

    def _fine_tune(
        self,
        start: Artifact,
        packs: Mapping[str, Artifact],
        own: Mapping[str, Artifact],
        learnt_from: Mapping[str, Artifact],
    ) -> dict[str, Artifact]:
        """The models of `packs`, made of `learnt_from`; where a pack was curated, its task's `own` is what is held out."""
        r = self.r
        upstreams = {"start": start, **packs, **_held_out({name: own[name] for name in packs if packs[name] is not own[name]})}
        tuned = {"model": self._train("model", r.sft, upstreams)}
        if r.learns_offline and r.offline.second_model:
            tuned[SECOND] = self._train(SECOND, r.sft, upstreams, order=SECOND)
        if r.sft.shuffled_control:
            others = {name: self._pack(name, Responses.SHUFFLED, learnt_from[name]) for name in packs}
            held_out = _held_out({name: own[name] for name in packs})
            tuned[SHUFFLED] = self._train(SHUFFLED, r.sft, {"start": start, **others, **held_out})
        return tuned

    def _curate(self, tried: Mapping[str, Artifact], made: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """What is to be learnt of every task that is labelled, by how difficult its questions are to a model of the search."""
        r, curated = self.r, dict[str, Artifact]()
        for task in labelled_tasks(r):
            label = f"{SEARCH}{r.sft.labels.by}"
            model = self._export(f"sft-{label}", tried[f"sft-{label}"])
            upstreams = {"model": model, "conversations": made[task]}
            asked = self.graph.add("labels", task, labels_section(r), upstreams)
            upstreams = {"conversations": made[task], "labels": asked}
            curated[task] = self.graph.add("curation", task, curation_section(r), upstreams)
        return curated

    def _train(self, label: str, settings: Sft, upstreams: Mapping[str, Artifact], **more: str) -> Artifact:
        section = {**training_section(self.r, settings, "sft", settings.token_budget), **more}
        section |= backend_section(settings.backend, settings.peft, "sft")
        return self.graph.add("sft", label, section, upstreams, _packages(settings.backend, settings))

    def _search(self, start: Artifact, own: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """A short fine-tuning of every mixture that is tried."""
        r, tried = self.r, {}
        held_out = _held_out({name: own[name] for name in r.sft.mixture})
        for name, mixture in mixtures(r.sft).items():
            settings, packs = settings_of(r.sft, name), {task: own[task] for task in mixture}
            tried[f"sft-{SEARCH}{name}"] = self._train(f"{SEARCH}{name}", settings, {"start": start, **packs, **held_out})
        return tried

    def _roll_out(self, policies: list[Artifact], made: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """The answers of every policy to every task, by `rollouts-TASK-POLICY`; none without offline RL."""
        r = self.r
        return {
            f"rollouts-{task}-{policy.instance}": self.graph.add(
                "rollouts",
                f"{task}-{policy.instance}",
                rollouts_section(r),
                {"model": policy, "conversations": made[task]},
            )
            for task in (r.offline.mixture if r.learns_offline else ())
            for policy in policies
        }

    def _select(self, task: str, rolled: Mapping[str, Artifact], judge: Artifact | None, asked: Artifact) -> Artifact:
        """What a task's answers teach; they are scored by the reward model where there is one, whatever that counts."""
        r, prefix = self.r, f"rollouts-{task}-"
        answers = {name.removeprefix(prefix): artifact for name, artifact in rolled.items() if name.startswith(prefix)}
        upstreams = {"conversations": asked, **{f"rollouts-{policy}": artifact for policy, artifact in answers.items()}}
        if judge is not None:
            scores = score_answers(r, self.graph, judge, answers[FINE_TUNED])
            if r.offline.weights.reward:
                upstreams["scores"] = scores
        return self.graph.add("selection", task, selection_section(r), upstreams)

    def _learn_offline(
        self,
        start: Artifact,
        rolled: Mapping[str, Artifact],
        judge: Artifact | None,
        packs_of_sft: Mapping[str, Artifact],
        own: Mapping[str, Artifact],
        made: Mapping[str, Artifact],
    ) -> tuple[dict[str, Artifact], dict[str, Artifact]]:
        """The models that learn from answers, the model's earlier points among them, and the selections these are chosen by."""
        r = self.r
        selections = {f"selection-{task}": self._select(task, rolled, judge, made[task]) for task in r.offline.mixture}
        held_out = _held_out({name: own[name] for name in r.sft.mixture})
        adapts = r.sft.backend is Backend.DEEPSPEED and r.offline.peft.kind is not PeftKind.NONE
        learnt = {}
        for label, kind in (("model", Responses.BEST), (Responses.DRAWN.value, Responses.DRAWN)):
            if label == "model" or r.offline.controls:
                packs = {task: self._pack(task, kind, selections[f"selection-{task}"]) for task in r.offline.mixture}
                points = r.offline.milestone_tokens if label == "model" else []
                before = start
                for end in [*points, r.offline.token_budget]:
                    name = label if end == r.offline.token_budget else format_quantity(end, Unit.TOKENS)
                    upstreams = {"start": before, **packs, **held_out}
                    if adapts and before is not start:
                        upstreams[ADAPTED] = start  # an earlier point's own folder has its adapter merged already
                    learnt[name] = before = self._train_offline(name, r.offline, end, upstreams)
        if r.offline.controls:
            settings = replace(r.offline, mixture=r.sft.mixture)
            upstreams = {"start": start, **packs_of_sft, **held_out}
            learnt[MORE] = self._train_offline(MORE, settings, r.offline.token_budget, upstreams)
        return learnt, selections

    def _train_offline(self, label: str, settings: Offline, end: int, upstreams: Mapping[str, Artifact]) -> Artifact:
        backend = self.r.sft.backend
        section = training_section(self.r, settings, "offline", end) | backend_section(backend, settings.peft, "offline")
        return self.graph.add("offline", label, section, upstreams, _packages(backend, settings))

    def _prefer(
        self, start: Artifact, policy: Artifact, made: Mapping[str, Artifact]
    ) -> tuple[dict[str, Artifact], dict[str, Artifact]]:
        """The models that learn from pairs of `policy`'s answers, and the pairs."""
        r, pairs = self.r, dict[str, Artifact]()
        for task in r.offline.mixture:
            rolled = self.graph[f"rollouts/{task}-{policy.instance}"]
            pairs[f"pairs-{task}"] = self.graph.add(
                "pairs", task, pairs_section(r), {"conversations": made[task], "rollouts": rolled}
            )
        learnt, section = dict[str, Artifact](), preference_section(r)
        packages = _packages_of(r.preference.optimizer.name, STAGES["preference"].packages)
        for label in ("model", *([EXCHANGED] if r.preference.control else [])):
            more = {} if label == "model" else {"responses": label}
            learnt[label] = self.graph.add("preference", label, {**section, **more}, {"start": start, **pairs}, packages)
        return learnt, pairs

    def _export(self, label: str, checkpoint: Artifact) -> Artifact:
        section = {**model_section(self.r), **flatten(self.r.export, "export"), "chat": True}
        return self.graph.add("export", label, section, {"checkpoint": checkpoint, "tokenizer": self.tokenizer})

    def _ask(
        self, models: Mapping[str, Artifact], made: Mapping[str, Artifact], problems: Artifact | None
    ) -> dict[str, Artifact]:
        r = self.r
        questions = {name: made[name] for name in r.sft.mixture} | ({PROBLEMS: problems} if problems else {})
        return {
            f"answers-{label}": self.graph.add("answers", label, answers_section(r), {"model": model, **questions})
            for label, model in models.items()
        }


def _packages(backend: Backend, settings: Sft | Offline) -> tuple[str, ...]:
    """Those that decide the result instead of Megatron's; none where it trains."""
    if backend is Backend.MEGATRON:
        return ()
    kind = settings.peft.kind
    adapters = () if kind is PeftKind.NONE else ("peft", "bitsandbytes") if kind is PeftKind.QLORA else ("peft",)
    return (*_packages_of(settings.optimizer.name, OF_DEEPSPEED), *adapters)


def _packages_of(rule: OptimizerName, packages: tuple[str, ...]) -> tuple[str, ...]:
    """With the one that keeps the rule, where that is another."""
    return (*packages, *KEPT_BY.get(rule, ()))


def _held_out(packs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """As what they are to a training that learns from others."""
    return {f"{HELD_OUT}-{name}": pack for name, pack in packs.items()}
