"""Another trainer instead of Athanor's own."""

from dataclasses import dataclass
from typing import Any

from athanor.recipe.schema.keys import key


@dataclass
class External:
    """Another trainer for what this section trains; controls stay with Athanor's (docs/handing-over.md).

    Its own packages are no part of the identity, but a lock file among `files` is.
    """

    command: str = key(
        "",
        "runs it, without a shell, in the project's folder and once a rank; {handover} is the file that says what is to be "
        "learnt. Empty: Athanor's own trainer",
    )
    files: list[str] = key([], "its scripts and settings, relative to the project: what they hold is identity")
    version: str = key("", "a command whose first line of output is recorded with the result (not identity)")
    settings: dict[str, Any] = key({}, "handed over as they are", nested=True)
