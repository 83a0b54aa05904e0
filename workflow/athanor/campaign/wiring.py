"""What the Snakefile and the rules take from the campaign: paths, resources, commands, and the driver's own duties."""

import io
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from athanor.artifacts.manifest import MANIFEST
from athanor.campaign.campaign import Campaign
from athanor.campaign.explanation import print_plan
from athanor.campaign.housekeeping import drop_old_driver_logs, seal
from athanor.campaign.in_job import in_job_launcher, problem_with
from athanor.campaign.notice import send_notice
from athanor.campaign.registry import PLAN, register
from athanor.recipe.graph import SECTIONS, STAGES, TRAINING, Artifact
from athanor.recipe.loading import parse_set
from athanor.recipe.problems import RecipeError
from athanor.recipe.schema.choices import RolloutEngine, Route
from athanor.recipe.secrets import SecretsError, site_secrets
from athanor.recipe.server_command import problem_with as problem_with_server
from athanor.recipe.server_command import problem_with_reload
from athanor.recipe.site import Site, StageResources, resource_entries

TRACKING_SECONDS = 30.0  # what the end of a run waits for MLflow; the rest comes with the next start
_MB = 10**6
BAD_NODES = "bad-nodes"  # below the store: a node that failed one campaign's job is excluded from all
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class Wiring:
    """The campaign as Snakemake sees it: the graph turns a rule's wildcard `fingerprint` into an artifact."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self._by_path = {artifact.path: artifact for artifact in campaign.lifecycle}
        self._behind = _stages_behind(campaign.lifecycle)
        self._store = campaign.store.root

    @classmethod
    def from_config(cls, config: Mapping[str, Any], default_recipe: str) -> "Wiring":
        """From `snakemake --config recipe=… site=… set='[…]' campaign=…`; a bad recipe ends with its whole report."""
        try:
            known = {"recipe", "site", "set", "campaign"}
            if unknown := sorted(set(config) - known):
                raise SystemExit(f"--config {unknown[0]}=…: there is no such setting; a recipe's key is changed by set=key=value")
            campaign = Campaign.open(
                str(config.get("recipe") or default_recipe),
                str(config.get("site") or ""),
                parse_set(config.get("set")),
                str(config.get("campaign") or ""),
            )
        except RecipeError as error:
            raise SystemExit(str(error)) from error
        return cls(campaign)

    def ranks(self, stage: str) -> int:
        """Ranks of one job of a stage: 1 where it does not train."""
        trained = self.campaign.recipe.trainings().get(SECTIONS.get(stage, stage))
        return trained.parallel.ranks if trained else 1

    def targets(self) -> list[str]:
        """The manifests of every artifact of the campaign."""
        return [str(self.campaign.store.manifest_path(artifact)) for artifact in self.campaign.lifecycle]

    def manifest(self, stage: str) -> str:
        """The output of a stage's rule."""
        return f"{self._store}/{stage}/{{fingerprint}}/{MANIFEST}"

    def beside(self, stage: str, name: str) -> str:
        """A file beside the manifest."""
        return f"{self._store}/{stage}/{{fingerprint}}/{name}"

    def log(self, stage: str) -> str:
        """Rank 0's log."""
        return f"{self._store}/{stage}/{{fingerprint}}/stage.log"

    def inputs(self, stage: str) -> Callable[[Any], list[str]]:
        """An input function: the manifests of what the artifact is made from."""

        def manifests(wildcards: Any) -> list[str]:
            artifact = self._artifact(stage, wildcards)
            return [str(self.campaign.store.manifest_path(upstream)) for upstream in artifact.upstreams.values()]

        return manifests

    def priority(self, stage: str) -> Callable[[Any], int]:
        """How many stages, one behind the other, wait for an artifact: on a full machine the longest way goes first."""
        return lambda wildcards: self._behind[self._artifact(stage, wildcards).path]

    def command(self, stage: str) -> str:
        """The shell command of a stage, with the site's launch prefix and interpreter before it."""
        prefix, python = self.interpreter(stage)
        restarts, ranks = self._in_job_restarts(stage), self.ranks(stage)
        words = [
            *([_literal(prefix)] if prefix else []),
            _literal(shlex.quote(python)),
            *([in_job_launcher(self._nodes(ranks), ranks, restarts)] if restarts else []),
            "-m athanor stage",
            stage,
            "--recipe",
            f"{shlex.quote(str(self._store))}/{stage}/{{wildcards.fingerprint}}/{PLAN}",
            "--site",
            shlex.quote(self.campaign.site.name),
            "--manifest {output.manifest:q}",
        ]
        return " ".join(words)

    def interpreter(self, stage: str) -> tuple[str, str]:
        """The site's launch prefix for a stage, and the interpreter behind it."""
        wanted = self._resources(stage)
        return wanted.launch_prefix, wanted.python or sys.executable

    def resources(self, stage: str) -> dict[str, Any]:
        """What a stage's job asks for, in the executor's words."""
        wanted, site, ranks = self._resources(stage), self.campaign.site, self.ranks(stage)
        nodes = self._nodes(ranks)
        tasks = nodes if self._in_job_restarts(stage) else ranks
        setup = [*site.setup, *_exports(site)]
        asked: dict[str, Any] = {
            "nodes": nodes,
            "tasks": tasks,
            "cpus_per_task": wanted.cpus_per_task * (ranks // tasks),
            "mem_mb": -(-wanted.memory // _MB),
            "runtime": wanted.runtime,
            "gpus_per_node": wanted.gpus_per_node,
            "slurm_partition": wanted.partition,
            "slurm_account": wanted.account,
            "qos": wanted.qos,
            "constraint": wanted.constraint,
            "slurm_extra": wanted.extra,
            "slurm_setup": "; ".join(setup),
            "bad_nodes": str(self._store / BAD_NODES),
        }
        asked = {name: value for name, value in asked.items() if value}
        return {
            **asked,
            # Other stages may be silent for long, such as while a tokenizer is trained.
            "hang_seconds": 60 * site.hang_minutes if stage in TRAINING else 0,
            "journal": lambda wildcards: f"{self._store}/{stage}/{wildcards.fingerprint}",
            "journal_spec": lambda wildcards: f"{stage}/{wildcards.fingerprint}",
        }

    def announce_plan(self) -> None:
        """For a dry run: what would run and why."""
        print_plan(self.campaign, sys.stderr)

    def start(self) -> None:
        """The driver begins: register the campaign, watch it, and track it."""
        from athanor.campaign.tracking import start_writer
        from athanor.campaign.watch import Watch

        try:
            site_secrets(self.campaign.site)  # every job reads them for itself; better refused before the queue than behind it
        except SecretsError as error:
            raise SystemExit(f"site {self.campaign.site.name}: {error}") from error
        trained = (stage for stage in TRAINING if self.campaign.lifecycle.of(stage))
        for stage in filter(self._in_job_restarts, trained):
            ranks = self.ranks(stage)
            if problem := problem_with(self._nodes(ranks), ranks, *self.interpreter(stage)):
                raise SystemExit(f"site {self.campaign.site.name}: resources.{stage}.in_job_restarts: {problem}")
        self._require_server()
        register(self.campaign)
        drop_old_driver_logs(Path(".snakemake") / "log")
        self._watch = Watch(self.campaign)
        self._watch.start()
        self._writer = start_writer(self.campaign)

    def _require_server(self) -> None:
        """A recipe that asks models through a server needs a site that can start one, or knows where it is."""
        site, recipe = self.campaign.site, self.campaign.recipe
        if recipe.learns_online and Route.JUDGE in recipe.online.routes.values() and not site.judge_url:
            raise SystemExit(f"site {site.name}: online.routes has judge and there is no judge_url; set it, or another route")
        if self.campaign.recipe.rollouts.engine is not RolloutEngine.SERVER:
            return
        if not site.server_command:
            raise SystemExit(
                f"site {site.name}: rollouts.engine=server needs server_command; set it, or rollouts.engine=in_process"
            )
        if problem := problem_with_server(site.server_command):
            raise SystemExit(f"site {site.name}: server_command={site.server_command!r} {problem}")
        for number, request in enumerate(site.server_reload):
            if problem := problem_with_reload(request):
                raise SystemExit(f"site {site.name}: server_reload[{number}]={request!r} {problem}")

    def finish(self) -> None:
        """All stages are done."""
        from athanor.campaign.summary import print_summary

        self._end()
        seal(self.campaign.store, self.campaign.lifecycle)
        send_notice(self.campaign, "done", _text(print_summary, self.campaign))
        if os.environ.get("ATHANOR_SUMMARY") != "later":
            print_summary(self.campaign)

    def fail(self) -> None:
        """The driver ends with an error: say in two lines what happened and what to type next."""
        from athanor.campaign.watch import print_failures

        self._end()
        print_failures(self.campaign)
        send_notice(self.campaign, "stopped", _text(print_failures, self.campaign))

    def _end(self) -> None:
        self._watch.stop()
        print(self._writer.stop(TRACKING_SECONDS), file=sys.stderr)

    def _artifact(self, stage: str, wildcards: Any) -> Artifact:
        return self._by_path[f"{stage}/{wildcards.fingerprint}"]

    def _nodes(self, ranks: int) -> int:
        return -(-ranks // self.campaign.site.ranks_per_node)

    def _in_job_restarts(self, stage: str) -> int:
        """How often NVRx restarts ranks inside a job of this stage; 0 where each rank is a task of its own."""
        return self._resources(stage).in_job_restarts if stage in TRAINING else 0

    def _resources(self, stage: str) -> StageResources:
        """The stage's entries of the site file, the more particular over the others, over one core and 2 GB."""
        assert stage in STAGES, stage
        site, merged = self.campaign.site, StageResources(cpus_per_task=1, memory=2_000 * _MB)
        for name in resource_entries(stage):
            for key, value in vars(site.resources.get(name, StageResources())).items():
                if value:
                    setattr(merged, key, value)
        return merged


def _stages_behind(graph: Iterable[Artifact]) -> dict[str, int]:
    """The longest chain of artifacts that are made from each, by its path; `graph` in the order they can be made."""
    behind: dict[str, int] = {}
    for artifact in reversed([*graph]):
        longest = behind.setdefault(artifact.path, 0)
        for upstream in artifact.upstreams.values():
            behind[upstream.path] = max(behind.get(upstream.path, 0), longest + 1)
    return behind


def _text(show: Callable[[Campaign, TextIO], None], campaign: Campaign) -> str:
    out = io.StringIO()
    show(campaign, out)
    return out.getvalue()


def _exports(site: Site) -> list[str]:
    """Shell lines that set what every process of a job sees; `environment` comes last and may overrule the interface."""
    interface = dict.fromkeys(INTERFACE_VARIABLES, site.network_interface) if site.network_interface else {}
    return [f"export {name}={shlex.quote(value)}" for name, value in {**interface, **site.environment}.items()]


def _literal(text: str) -> str:
    """`text` with its braces doubled: Snakemake formats the command."""
    return text.replace("{", "{{").replace("}", "}}")
