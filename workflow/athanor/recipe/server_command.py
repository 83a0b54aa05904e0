"""The site's command that starts a model server, with fields that a stage fills in."""

from athanor.recipe.command_template import problem_with_template

FIELDS = ("model", "port", "name")


def problem_with(command: str) -> str:
    """What is wrong with it; empty where nothing is."""
    return problem_with_template(command, FIELDS, {"model", "port"})
