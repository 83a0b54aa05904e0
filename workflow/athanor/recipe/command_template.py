"""A command with fields that a stage fills in: whether it can be read, and has the fields that it needs and no others."""

import shlex
from collections.abc import Collection, Sequence
from string import Formatter


def problem_with_template(command: str, known: Sequence[str], needed: Collection[str], *, shell: bool = True) -> str:
    """What is wrong with `command`, whose fields are `known`, those `needed` among them; empty where nothing is.

    `shell`: its words are told apart as a shell does.
    """
    try:
        fields = {name for _, name, _, _ in Formatter().parse(command) if name is not None}
        if shell:
            shlex.split(command)
    except ValueError as error:
        return f"cannot be read: {error}"
    if missing := set(needed) - fields:
        return f"does not say {' and '.join(f'{{{name}}}' for name in sorted(missing))}, which the stage fills in"
    if unknown := sorted(fields - set(known)):
        *others, last = (f"{{{name}}}" for name in known)
        filled = f"{', '.join(others)} and {last}" if others else last
        return f"has {{{unknown[0]}}}; a stage fills in {filled} (write {{{{ for a brace)"
    return ""
