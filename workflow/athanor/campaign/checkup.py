"""The commands for a new cluster. `athanor doctor` examines the jobs that recipes would become at a site, exactly as the
rules would ask for them; `athanor site init` drafts the site's file.
"""

import getpass
import os
import sys
from collections.abc import Sequence

from athanor.campaign.campaign import Campaign
from athanor.campaign.wiring import Wiring
from athanor.cluster import draft
from athanor.cluster.commands import ask
from athanor.cluster.doctor import Subject, examine_site
from athanor.cluster.findings import has_error, summary
from athanor.cluster.inventory import ClusterSilent, take_inventory
from athanor.cluster.jobs import StageJob
from athanor.recipe.loading import project_folder
from athanor.recipe.site import Site, StageResources, chosen_site, resource_entries
from athanor.tracking.destination import Destination
from snakemake_executor_plugin_submitit.settings import Cluster, resolve_cluster

_NOT_ASKED_OF_SLURM = ("journal", "journal_spec", "bad_nodes", "hang_seconds")


def doctor(recipes: Sequence[str], site: str, quick: bool, wait_seconds: float) -> int:
    """Print a line a finding as they come, then how many there were. Returns the exit code. Raises RecipeError."""
    subject = subject_of(recipes, site)
    print(f"site {subject.site.name}, recipe {', '.join(recipes)}", flush=True)
    findings = []
    for finding in examine_site(subject, ask, _has_slurm(), not quick, wait_seconds):
        print(finding, flush=True)
        findings.append(finding)
    print(summary(findings))
    return 1 if has_error(findings) else 0


def site_init(name: str) -> int:
    """Draft a site file and say what to do with it. Returns the exit code."""
    if not _has_slurm():
        print("error: no Slurm here; config/sites/laptop.yaml is for one machine without a cluster", file=sys.stderr)
        return 1
    user = getpass.getuser()
    try:
        inventory = take_inventory(ask, user)
        name = name or inventory.settings.get("ClusterName", "cluster")
        text = draft.draft(inventory, draft.default_account(ask, user), draft.project_space(os.environ))
        path = draft.write_draft(project_folder() / "config" / "sites", name, text)
    except FileExistsError as error:
        print(f"error: {error.filename} is there already; athanor site init OTHERNAME drafts another", file=sys.stderr)
        return 1
    except (ClusterSilent, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}\nread its lines with DECIDE, then: athanor doctor --site {name}")
    return 0


def _has_slurm() -> bool:
    return resolve_cluster("auto") is Cluster.SLURM


def subject_of(recipes: Sequence[str], site: str) -> Subject:
    """Everything that the recipes need at the site. Raises RecipeError."""
    name = chosen_site(site)
    campaigns = [Campaign.open(recipe, name) for recipe in recipes]
    first = campaigns[0]
    uri = Destination(first.store.root, first.site.tracking_uri).uri
    jobs = tuple(job for campaign in campaigns for job in stage_jobs(Wiring(campaign)))
    return Subject(first.site, first.store.root, uri, jobs)


def stage_jobs(wiring: Wiring) -> list[StageJob]:
    """The job of every stage that the recipe's graph uses."""
    jobs = {}
    for artifact in wiring.campaign.lifecycle:
        stage = artifact.stage
        resources = {k: v for k, v in wiring.resources(stage).items() if k not in _NOT_ASKED_OF_SLURM}
        prefix, python = wiring.interpreter(stage)
        jobs[stage] = StageJob((stage,), resources, prefix, python, keys_of(wiring.campaign.site, stage), artifact.packages)
    return list(jobs.values())


def keys_of(site: Site, stage: str) -> dict[str, str]:
    """Which key of the site file each resource of a stage comes from, or belongs in: `default`, where no entry has it."""
    keys = {}
    for name in resource_entries(stage):
        for key, value in vars(site.resources.get(name, StageResources())).items():
            if value or key not in keys:
                keys[key] = f"resources.{name}.{key}"
    return keys
