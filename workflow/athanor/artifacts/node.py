"""What a stage's process takes from its site before it starts: secrets, and the folder for temporary files."""

import os
import tempfile

from athanor.artifacts.run import StageError
from athanor.recipe.scratch import ScratchError, make_scratch
from athanor.recipe.secrets import SecretsError, site_secrets
from athanor.recipe.site import Site


def settle(site: Site) -> None:
    """Take the site's secrets into this process's environment, and its scratch folder for TMPDIR. Raises StageError."""
    try:
        os.environ.update(site_secrets(site))
        if site.scratch:
            os.environ["TMPDIR"] = str(make_scratch(site.scratch))
            tempfile.tempdir = None  # asked for before, it would stay what it was
    except (SecretsError, ScratchError) as error:
        raise StageError(f"site {site.name}: {error}") from error
