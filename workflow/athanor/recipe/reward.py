"""The graph of the reward model's texts: what each model of the roster writes, and the triples made of that; and its rules."""

from collections.abc import Iterator, Mapping

from athanor.recipe.exports import export_of
from athanor.recipe.fingerprint import flatten
from athanor.recipe.graph import FINE_TUNED, SHUFFLED, Artifact, Graph
from athanor.recipe.problems import Problem
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.sections import engine_section
from athanor.recipe.units import Unit, format_quantity
from athanor.recipe.virtual_tokens import virtual_tokens

TEXTS = (  # keys of `reward` that say what is written and which texts are used
    "prefixes", "test_prefixes", "test_models", "shortest_prefix", "longest_prefix", "temperatures", "top_p", "top_k",
    "max_new_tokens", "shortest_text", "shared",
)  # fmt: skip
OF_TRIPLES = ("reward.shortest_text", "reward.shared")  # keys that say which texts are used, not what is written
LEAST_MODELS = 2  # on either side of the split: a negative comes from another model


def write_triples(
    r: Recipe, graph: Graph, tokenizer: Artifact, milestones: Mapping[str, Artifact], documents: Mapping[str, Artifact]
) -> Artifact | None:
    """Trajectories of every model and the triples made of them; None where the recipe wants none.

    `milestones` by label; those not exported yet are exported. `documents` by source.
    """
    if not r.reward.prefixes:
        return None
    for label, checkpoint in milestones.items():
        export_of(graph, label, checkpoint, tokenizer)
    labels = roster(r)
    models = {label: graph[f"export/{label}"] for label in labels}
    texts = {f"reward.{name}": getattr(r.reward, name) for name in TEXTS}
    section = {"seed": r.seed, **texts, **flatten(r.pretrain.mixture, "pretrain.mixture"), "roster": labels, **engine_section(r)}
    written = {
        f"trajectories-{label}": graph.add(
            "trajectories",
            label,
            {key: value for key, value in section.items() if key not in OF_TRIPLES},
            {"model": model, **documents},
        )
        for label, model in models.items()
    }
    return graph.add("triples", "polar", section, {"model": models[list(milestones)[-1]], **written, **documents})


def illegal_reward(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with `reward`."""
    w, where = r.reward, "reward"
    if not w.prefixes:
        return
    if w.shortest_prefix > w.longest_prefix:
        yield Problem(f"{where}.shortest_prefix", w.shortest_prefix, f"above {where}.longest_prefix={w.longest_prefix}")
    if w.shortest_text > w.max_new_tokens:
        advice = f"no text is as long, {where}.max_new_tokens={w.max_new_tokens} at most; lower it"
        yield Problem(f"{where}.shortest_text", w.shortest_text, advice)
    if w.longest_prefix + w.max_new_tokens + (tokens := virtual_tokens(r)) > (room := r.model.max_sequence_length):
        beside = f"{where}.longest_prefix={w.longest_prefix}" + (f" and {tokens} virtual tokens" if tokens else "")
        advice = f"with {beside} more than model.max_sequence_length={room}; lower one of them"
        yield Problem(f"{where}.max_new_tokens", w.max_new_tokens, advice)
    if not w.temperatures or len(set(w.temperatures)) < len(w.temperatures):
        yield Problem(f"{where}.temperatures", w.temperatures, "at least one, each once")
    if (models := len(roster(r))) < LEAST_MODELS + w.test_models:
        advice = (
            f"the roster has {models} models ({', '.join(roster(r))}) and training needs {LEAST_MODELS} more than the test; "
            "add pretrain.milestone_tokens, or sft.tasks with sft.shuffled_control"
        )
        yield Problem(f"{where}.test_models", w.test_models, advice)


def roster(r: Recipe) -> list[str]:
    """The labels of the models that will be exported, but for the untrained one."""
    ends = [*r.pretrain.milestone_tokens, r.pretrain.token_budget]
    tuned = [FINE_TUNED] if r.sft.tasks else []
    control = [f"sft-{SHUFFLED}"] if r.sft.tasks and r.sft.shuffled_control and r.sft.answers.prompts else []
    return [*(format_quantity(end, Unit.TOKENS) for end in ends), *tuned, *control]
