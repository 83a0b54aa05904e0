"""The site's command that starts a model server, with fields that a stage fills in."""

import shlex
from string import Formatter

FIELDS = ("model", "port", "name")


def problem_with(command: str) -> str:
    """What is wrong with it; empty where nothing is."""
    try:
        fields = {name for _, name, _, _ in Formatter().parse(command) if name is not None}
        shlex.split(command)
    except ValueError as error:
        return f"cannot be read: {error}"
    if missing := {"model", "port"} - fields:
        return f"does not say {' and '.join(f'{{{name}}}' for name in sorted(missing))}, which the stage fills in"
    if unknown := sorted(fields - set(FIELDS)):
        return f"has {{{unknown[0]}}}; a stage fills in {{model}}, {{port}} and {{name}} (write {{{{ for a brace)"
    return ""
