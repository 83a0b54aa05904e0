"""The graph behind pretraining: conversations, models that learn from them, and what these answer."""

from athanor.recipe.fingerprint import flatten
from athanor.recipe.graph import FINE_TUNED, SHUFFLED, Artifact, Graph
from athanor.recipe.schema import Recipe, Responses
from athanor.recipe.sections import conversations_section, model_section, training_section


def fine_tune(r: Recipe, graph: Graph, tokenizer: Artifact, base: Artifact, base_model: Artifact) -> dict[str, Artifact]:
    """Conversations, packed, and the model that was trained on them from `base`; its control has others' responses. All are asked
    what was held out; `base_model` is the export of `base`."""
    packs: dict[Responses, dict[str, Artifact]] = {}
    kinds = [Responses.OWN, Responses.SHUFFLED] if r.sft.shuffled_control else [Responses.OWN]
    made = {name: graph.add("conversations", name, conversations_section(r, name), {}) for name in r.sft.mixture}
    for kind in kinds:
        for name in r.sft.mixture:
            label = name if kind is Responses.OWN else f"{name}-{SHUFFLED}"
            section = {"sft.sequence_length": r.sft.sequence_length, "responses": kind}
            section |= {} if kind is Responses.OWN else {"seed": r.seed}
            upstreams = {"conversations": made[name], "tokenizer": tokenizer}
            packs.setdefault(kind, {})[name] = graph.add("pack", label, section, upstreams)
    trained = {}
    for kind, conversations in packs.items():
        section = training_section(r, r.sft, "sft", r.sft.token_budget)
        label = "model" if kind is Responses.OWN else SHUFFLED
        held_out = {f"held_out-{name}": pack for name, pack in packs[Responses.OWN].items()} if kind is not Responses.OWN else {}
        trained[f"sft-{label}"] = graph.add("sft", label, section, {"start": base, **conversations, **held_out})
    models = {"base": base_model}
    for name, artifact in trained.items():
        if name != "sft-model" and not r.sft.answers.prompts:
            continue  # the control is exported to be asked
        label = FINE_TUNED if name == "sft-model" else name
        section = {**model_section(r), **flatten(r.export, "export"), "chat": True}
        models[label] = graph.add("export", label, section, {"checkpoint": artifact, "tokenizer": tokenizer})
    asked = {"seed": r.seed, **flatten(r.sft.answers, "sft.answers"), "sft.tasks": sorted(r.sft.mixture)}
    if not r.sft.answers.prompts:
        return trained
    answers = {
        f"answers-{label}": graph.add("answers", label, asked, {"model": model, **made}) for label, model in models.items()
    }
    return {**trained, **answers}
