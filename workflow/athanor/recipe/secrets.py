"""The site's secrets: NAME=VALUE lines in a file that only its owner can read. Nothing here shows a value.

A job reads the file itself, on its node, into the environment of the stage's own process. So a secret stands in no
batch script, no log, no list of processes and no tracking record, as it would with `environment` or `setup`.
"""

import os
import re
import socket
import stat
from pathlib import Path

from athanor.recipe.loading import project_folder
from athanor.recipe.site import Site

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretsError(Exception):
    """The secrets file cannot be used: what is wrong with it, and the command that mends it."""


def site_secrets(site: Site) -> dict[str, str]:
    """The site's secrets by name; empty where it names no file. Raises SecretsError."""
    return read_secrets(secrets_path(site)) if site.secrets else {}


def secrets_path(site: Site) -> Path:
    """The file that `secrets` names: `~` is the user's own folder, a relative path starts at the project folder."""
    return project_folder() / Path(site.secrets).expanduser()


def read_secrets(path: Path) -> dict[str, str]:
    """The names and values in `path`; empty lines and lines that begin with `#` don't count. Raises SecretsError."""
    where = f"secrets={str(path)!r} on {socket.gethostname()}"
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS:
                raise SecretsError(
                    f"{where}: its mode is {stat.S_IMODE(mode):04o}, group or others have access; chmod 600 {path}"
                )
            return _parse(file.read(), where)
    except FileNotFoundError:
        raise SecretsError(
            f"{where}: there is no such file; install -m 600 /dev/null {path}, then write NAME=VALUE lines"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise SecretsError(f"{where}: cannot be read ({reason}); it must be a text file of the user who runs the jobs") from None


def _parse(text: str, where: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals or not _NAME.fullmatch(name):  # the line may be a secret: it is not shown
            raise SecretsError(f"{where}: line {number} is not NAME=VALUE; write HF_TOKEN=…, one a line, without `export`")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[name] = value[1:-1] if quoted else value
    return found
