"""Where a store's tracking goes: the MLflow address, the writer's files, and the campaign an artifact's runs join.

STORE/mlflow/mlflow.db, artifacts/       the default database
STORE/tracking/CAMPAIGN/                 writer.json (lock), state-KEY.json, artifacts.json, stop, writer.log
STORE/STAGE/FINGERPRINT/tracking/KEY.campaign   the campaign that saw the artifact first: its runs belong there
"""

import hashlib
import re
from pathlib import Path

from athanor.tracking.lock import create_exclusively
from athanor.tracking.spool import FOLDER

OWN_KEY = "store"


class Destination:
    """One store and one MLflow. An empty `uri` is a sqlite database in the store."""

    def __init__(self, store: Path, uri: str = "") -> None:
        self.store, self._given = store.absolute(), uri

    @property
    def uri(self) -> str:
        """MLflow's tracking URI."""
        return self._given or f"sqlite:///{self.store}/mlflow/mlflow.db"

    @property
    def shown(self) -> str:
        """The URI without user and password."""
        return without_password(self.uri)

    @property
    def key(self) -> str:
        """A name for this MLflow that survives a moved store and shows no password."""
        return hashlib.sha256(self._given.encode()).hexdigest()[:8] if self._given else OWN_KEY

    @property
    def artifact_root(self) -> Path | None:
        """Where a database without a server keeps artifacts; None where a server decides."""
        has_server = self.uri.startswith(("http:", "https:", "databricks"))
        return None if has_server else self.store / "mlflow" / "artifacts"

    def prepare(self) -> None:
        """Make the folder of the default database."""
        if not self._given:
            (self.store / "mlflow").mkdir(parents=True, exist_ok=True)

    def folder(self, campaign: str) -> Path:
        """The writer's own files."""
        return self.store / "tracking" / campaign

    def lock_path(self, campaign: str) -> Path:
        """The single-writer lock."""
        return self.folder(campaign) / "writer.json"

    def state_path(self, campaign: str) -> Path:
        """What the writer remembers."""
        return self.folder(campaign) / f"state-{self.key}.json"

    def claim(self, artifact: str, campaign: str) -> str:
        """The campaign the runs of `artifact` (store-relative folder) belong to; `campaign` if nobody asked before."""
        path = self._claim_path(artifact)
        if not path.exists():
            create_exclusively(path, campaign)
        return path.read_text()

    def owner(self, artifact: str, campaign: str) -> str:
        """As `claim`, but claims nothing."""
        path = self._claim_path(artifact)
        return path.read_text() if path.exists() else campaign

    def _claim_path(self, artifact: str) -> Path:
        return self.store / artifact / FOLDER / f"{self.key}.campaign"


def without_password(text: str) -> str:
    """`text` with `user:password@` taken out of the addresses in it."""
    return re.sub(r"//[^/@\s]*@", "//", text)
