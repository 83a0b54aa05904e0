"""The campaign's HTML report: Snakemake's own, with the figures of the report stage, in the campaign's folder."""

import subprocess
import sys
from pathlib import Path

from athanor.artifacts.files import write_atomically
from athanor.campaign.campaign import Campaign
from athanor.recipe.loading import project_folder

REPORT = "report.html"
OF = ".report-of"  # beside it: the fingerprint of the report's artifact, since other settings leave theirs in the same place


def is_current(campaign: Campaign) -> bool:
    """Whether the report that is there shows this campaign's artifacts as they are; all of these must be there."""
    path, of = campaign.folder / REPORT, campaign.folder / OF
    if not path.is_file() or not of.is_file() or of.read_text() != _shown(campaign):
        return False
    newest = max(campaign.store.manifest_path(artifact).stat().st_mtime for artifact in campaign.lifecycle)
    return path.stat().st_mtime >= newest


def _shown(campaign: Campaign) -> str:
    [report] = campaign.lifecycle.of("report")
    return report.fingerprint


def write_report(campaign: Campaign) -> Path | None:
    """Write the report unless it is current. None when stages are missing or Snakemake refuses."""
    path = campaign.folder / REPORT
    if campaign.missing():
        return None
    if is_current(campaign):
        return path
    (campaign.folder / OF).unlink(missing_ok=True)
    settings = [
        f"recipe={campaign.recipe_given or campaign.recipe.name}",
        f"site={campaign.site.name}",
        f"campaign={campaign.name}",
    ]
    if campaign.overrides:
        settings.append(f"set=[{','.join(campaign.overrides)}]")
    command = [sys.executable, "-m", "snakemake", "--report", str(path), "--quiet", "all", "--config", *settings]
    done = subprocess.run(command, cwd=project_folder(), capture_output=True, text=True, check=False)
    if done.returncode != 0 or not path.is_file():
        print(f"snakemake --report failed: {done.stderr.strip()[-400:]}", file=sys.stderr)
        return None
    write_atomically(campaign.folder / OF, _shown(campaign))
    return path
