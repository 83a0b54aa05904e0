"""The site's command that starts a model server, and the requests by which one reads other weights; stages fill in fields."""

import json

from athanor.recipe.command_template import problem_with_template

FIELDS = ("model", "port", "name")
OF_RELOAD = ("model",)


def problem_with(command: str) -> str:
    """What is wrong with it; empty where nothing is."""
    return problem_with_template(command, FIELDS, {"model", "port"})


def problem_with_reload(request: str) -> str:
    """What is wrong with a request `PATH` or `PATH JSON`; empty where nothing is."""
    if problem := problem_with_template(request, OF_RELOAD, (), shell=False):
        return problem
    path, body = reload_request(request, "/a/folder")
    if not path.startswith("/"):
        return "does not begin with the path of a request, such as /update_weights_from_disk"
    try:
        json.loads(body)
    except ValueError as error:
        return f"has no JSON behind its path: {error}"
    return ""


def reload_request(request: str, model: str) -> tuple[str, str]:
    """Its path and its body, for the folder `model`."""
    path, _, body = request.format(model=model).partition(" ")
    return path, body.strip() or "{}"
