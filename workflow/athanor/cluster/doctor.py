"""Every check of a site against its cluster and this machine, in an order that a person would ask."""

import getpass
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from athanor.cluster import caches, database, storage
from athanor.cluster.authentication import check_accounting, check_munge
from athanor.cluster.commands import Ask
from athanor.cluster.findings import Finding, error, has_error, ok
from athanor.cluster.inventory import ClusterSilent, take_inventory
from athanor.cluster.jobs import StageJob, merge
from athanor.cluster.node_findings import judge_interpreter
from athanor.cluster.node_report import start_interpreter
from athanor.cluster.probe import look_inside, question_for
from athanor.cluster.requests import check_job
from athanor.recipe.secrets import SecretsError, secrets_path, site_secrets
from athanor.recipe.site import Site

MOUNTS = Path("/proc/mounts")


@dataclass(frozen=True)
class Subject:
    """What is examined."""

    site: Site
    store: Path
    database: str
    """MLflow's tracking URI."""
    jobs: tuple[StageJob, ...]
    """Those of all recipes."""


def examine_site(subject: Subject, ask: Ask, on_cluster: bool, look_at_nodes: bool, wait_seconds: float) -> Iterator[Finding]:
    """Every finding, as it is made."""
    yield from check_machine(subject, ask, on_cluster)
    if on_cluster:
        yield from check_cluster(subject, ask, look_at_nodes, wait_seconds)
        return
    yield ok("no Slurm here: jobs run on this machine, and what only a cluster has is not checked")
    if look_at_nodes:
        yield from check_interpreters(subject)


def check_machine(subject: Subject, ask: Ask, on_cluster: bool) -> Iterator[Finding]:
    """The store's file system, HOME, and the secrets file, as this machine sees them."""
    site, store, home = subject.site, subject.store, Path.home()
    mounts = MOUNTS.read_text()
    mount = storage.mount_of(store, mounts)
    writable = storage.check_store(store)
    yield from writable
    yield from storage.check_place(store, home, on_cluster)
    yield from storage.check_space(store, mount)
    yield from storage.check_quota(store, mount, ask)
    yield from storage.check_sharing(store, _umask())
    database_file = database.sqlite_path(subject.database)
    if not has_error(writable) or database_file is None or not database_file.is_relative_to(store):
        yield from database.check_database(subject.database, storage.mount_of(database_file or store, mounts))
    yield from caches.check_caches(home, {**os.environ, **site.environment}, store.parent / "caches", on_cluster)
    yield from check_secrets(site)


def check_secrets(site: Site) -> list[Finding]:
    """Whether the site's secrets file is there, closed to others, and readable."""
    if not site.secrets:
        return []
    try:
        names = site_secrets(site)
    except SecretsError as wrong:
        return [error(str(wrong), f"or take secrets out of config/sites/{site.name}.yaml")]
    return [ok(f"{secrets_path(site)} is yours alone and has {', '.join(names) or 'no names yet'}")]


def check_cluster(subject: Subject, ask: Ask, look_at_nodes: bool, wait_seconds: float) -> Iterator[Finding]:
    """Slurm, what the stages ask of it, and the nodes they would run on."""
    try:
        inventory = take_inventory(ask, getpass.getuser())
    except ClusterSilent as silence:
        yield error(f"Slurm does not answer: {silence}", "scontrol ping says whether its controller is up; try again later")
        return
    yield from check_munge(inventory.settings, ask)
    yield from check_accounting(inventory)
    good = []
    for job in merge(subject.jobs):
        findings = check_job(job, inventory, subject.site.ranks_per_node, ask)
        good += [] if has_error(findings) else [job]
        yield from findings
    if look_at_nodes and good and not has_error(storage.check_store(subject.store)):
        yield from look_inside(good, subject.site, subject.store, ask, wait_seconds)


def check_interpreters(subject: Subject) -> Iterator[Finding]:
    """Where there is no cluster: whether the stages' interpreters start here and import what the stages need."""
    for job in merge([StageJob(j.stages, {}, j.prefix, j.python, j.keys, j.packages) for j in subject.jobs]):
        found = start_interpreter(question_for(job, subject.site))
        yield from judge_interpreter(f"here ({job.name})", job, found)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
