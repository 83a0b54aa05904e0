"""The Hugging Face forms of checkpoints in the graph, each once, whoever asks for it."""

from athanor.recipe.fingerprint import flatten
from athanor.recipe.graph import Artifact, Graph
from athanor.recipe.sections import model_section


def export_of(graph: Graph, label: str, checkpoint: Artifact, tokenizer: Artifact) -> Artifact:
    """The artifact `export/LABEL` of a checkpoint of running text."""
    if (name := f"export/{label}") in graph:
        return graph[name]
    section = {**model_section(graph.recipe), **flatten(graph.recipe.export, "export")}
    return graph.add("export", label, section, {"checkpoint": checkpoint, "tokenizer": tokenizer})
