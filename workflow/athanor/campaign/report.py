"""The campaign's HTML report: Snakemake's own, with the figures of the report stage, in the campaign's folder."""

import subprocess
import sys
from pathlib import Path

from athanor.campaign.campaign import Campaign
from athanor.recipe.loading import project_folder

REPORT = "report.html"


def write_report(campaign: Campaign) -> Path | None:
    """Write the report unless it is newer than every manifest. None when stages are missing or Snakemake refuses."""
    path = campaign.folder / REPORT
    if campaign.missing():
        return None
    newest = max(campaign.store.manifest_path(artifact).stat().st_mtime for artifact in campaign.lifecycle)
    if path.is_file() and path.stat().st_mtime >= newest:
        return path
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
    return path
