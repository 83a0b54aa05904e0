"""What the stages of a recipe ask of the cluster, checked against what it has and what sbatch says to it."""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from snakemake_interface_common.exceptions import WorkflowError

from athanor.cluster.commands import Ask
from athanor.cluster.findings import Finding, error, has_error, ok, warning
from athanor.cluster.inventory import Inventory, Partition
from athanor.cluster.jobs import StageJob, batch_script
from athanor.recipe.graph import SECTIONS, TRAINING
from snakemake_executor_plugin_submitit.resources import Request

_TEST_NAME = "athanor-doctor"
_AGAIN_SECONDS = 2.0
_NOT_ASKED_FOR = ("--output", "--open-mode", "--signal", "--comment", "--job-name", "--requeue")


def check_job(job: StageJob, inventory: Inventory, ranks_per_node: int, ask: Ask) -> list[Finding]:
    """Everything about one job; sbatch is asked about what has no fault in itself."""
    try:
        request = job.request()
    except WorkflowError as wrong:
        return [error(f"{job.name}: {wrong}", f"change ranks_per_node, or {_section(job)}.parallel.ranks of the recipe")]
    findings = [*check_partition(job, inventory), *check_account(job, inventory)]
    partition = inventory.partition(job.partition)
    if partition is not None and partition.available == "up":
        fitting = check_nodes(job, request, partition) or check_ranks(job, request, ranks_per_node, partition)
        findings += [*check_limit(job, request, partition), *fitting]
    return findings if has_error(findings) else [*findings, check_accepted(job, ask)]


def check_partition(job: StageJob, inventory: Inventory) -> list[Finding]:
    """Whether the job's partition exists and takes jobs."""
    key, partition = job.keys["partition"], inventory.partition(job.partition)
    if partition is None:
        found = f"partition {job.partition!r} does not exist here" if job.partition else "the cluster has no default partition"
        return [error(f"{job.name}: {found}", f"set {key} to {_choice(inventory.partitions)}")]
    others = [p.name for p in inventory.partitions.values() if p.available == "up" and p is not partition]
    way_out = f"set {key} to {_choice(others)}"
    if partition.available != "up":
        return [error(f"{job.name}: partition {partition.name} is {partition.available}", way_out)]
    if not partition.usable_nodes:
        found = f"{job.name}: all {partition.nodes} nodes of partition {partition.name} are down or drained now"
        return [warning(found, f"jobs will wait; sinfo -R says why; {way_out}")]
    return []


def check_limit(job: StageJob, request: Request, partition: Partition) -> list[Finding]:
    """Whether the partition lets a job run for as long as the job asks."""
    limit, asked = partition.limit_minutes, request.runtime_minutes
    if limit is None or asked <= limit:
        return []
    found = f"{job.name}: a walltime of {asked} minutes is over the {limit} that partition {partition.name} allows"
    return [error(found, f"set {job.keys['runtime']} to at most {limit}min; long stages are requeued")]


def check_nodes(job: StageJob, request: Request, partition: Partition) -> list[Finding]:
    """Whether the partition has nodes that are large enough, and enough of them."""
    asked = {
        "gpus_per_node": (request.gpus_per_node, "GPUs a node", lambda kind: kind.gpus),
        "cpus_per_task": (request.tasks_per_node * request.cpus_per_task, "cores a node", lambda kind: kind.cpus),
        "memory": (request.mem_mb, "MB a node", lambda kind: kind.memory_mb),
    }
    findings = []
    for key, (wanted, what, of) in asked.items():
        most = max(map(of, partition.kinds), default=0)
        if wanted > most:
            advice = f"set {job.keys[key]} to at most {_largest(key, most, request)}"
            findings.append(
                error(f"{job.name}: asks for {wanted} {what}, those of partition {partition.name} have {most}", advice)
            )
    if findings:
        return findings
    fitting = sum(kind.count for kind in partition.kinds if all(wanted <= of(kind) for wanted, _, of in asked.values()))
    if fitting < request.nodes:
        found = f"{job.name}: asks for {request.nodes} nodes, partition {partition.name} has {fitting} that are large enough"
        findings.append(error(found, f"set {job.keys['partition']} to another, or train on fewer ranks"))
    return findings


def _largest(key: str, most: int, request: Request) -> str:
    if key == "memory":
        return f"{most // 1000}GB"
    return str(most // request.tasks_per_node if key == "cpus_per_task" else most)


def check_ranks(job: StageJob, request: Request, ranks_per_node: int, partition: Partition) -> list[Finding]:
    """Whether every rank of a GPU stage has a GPU of its own, every GPU a rank, and training any GPU at all."""
    gpus, ranks, there = request.gpus_per_node, request.tasks_per_node, partition.gpus_per_node
    key, trains = job.keys["gpus_per_node"], not set(TRAINING).isdisjoint(job.stages)
    if not gpus:
        forgotten = f"{job.name}: asks for no GPU, though nodes of partition {partition.name} have {there}"
        return [warning(forgotten, f"set {key} to {there}")] if there and trains else []
    if ranks > gpus:
        advice = f"set ranks_per_node to {gpus}, or {key} to {ranks}: NCCL needs one a rank"
        return [error(f"{job.name}: {ranks} ranks a node share {gpus} GPUs", advice)]
    if ranks < gpus:
        what = "ranks_per_node" if ranks == ranks_per_node else f"{_section(job)}.parallel.ranks of the recipe"
        found = f"{job.name}: {ranks} ranks leave {gpus - ranks} of {gpus} GPUs of every node idle"
        return [warning(found, f"set {key} to {ranks}, or {what} to a multiple of {gpus}")]
    if ranks_per_node > there and trains:
        found = f"{job.name}: ranks_per_node is {ranks_per_node}, but nodes of partition {partition.name} have {there} GPUs"
        return [warning(found, f"set ranks_per_node to {there}: recipes with more ranks would find too few GPUs")]
    return []


def _section(job: StageJob) -> str:
    """Of the recipe, that says how many ranks the job's stages have."""
    return SECTIONS.get(job.stages[0], job.stages[0])


def check_account(job: StageJob, inventory: Inventory) -> list[Finding]:
    """Whether the user may charge the job's account, with its quality of service."""
    account, qos = (str(job.resources.get(name, "")) for name in ("slurm_account", "qos"))
    if inventory.associations is None:
        return []
    partition = inventory.partition(job.partition)
    mine = [a for a in inventory.associations if a.partition in ("", partition.name if partition else "")]
    fitting = [a for a in mine if account in ("", a.account)]
    findings = []
    if account and not fitting:
        say = error if "associations" in inventory.enforced else warning
        way_out = f"set {job.keys['account']} to {_choice(a.account for a in mine)}"
        findings.append(say(f"{job.name}: account {account!r} is none of yours", way_out))
    offered = frozenset[str]().union(*(a.qos for a in fitting or mine))
    if qos and qos not in offered:
        say = error if "qos" in inventory.enforced else warning
        whose = f"account {account}" if account and fitting else "your accounts"
        way_out = f"set {job.keys['qos']} to {_choice(sorted(offered))}"
        findings.append(say(f"{job.name}: qos {qos!r} is not offered to {whose}", way_out))
    return findings


def _choice(names: Iterable[str]) -> str:
    """`one of a, b`, or `a`; what to do where there is nothing to choose from."""
    several = list(dict.fromkeys(names))
    if not several:
        return "one that the administrators give you: there is none yet"
    return several[0] if len(several) == 1 else f"one of {', '.join(several)}"


def check_accepted(job: StageJob, ask: Ask) -> Finding:
    """What `sbatch --test-only` says to the very request that the stage would make."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "request.sh"
        script.write_text(batch_script(job, Path(folder), _TEST_NAME, "true"))
        question = ["sbatch", "--test-only", str(script)]
        answer = ask(question)
        if answer.code:  # a busy controller refuses what it takes a moment later
            time.sleep(_AGAIN_SECONDS)
            answer = ask(question)
        options = [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    said = answer.last_words.removeprefix("sbatch: ").removeprefix("error: ")
    if answer.code:
        shown = " ".join(word for word in options if not word.startswith(_NOT_ASKED_FOR))
        where = sorted({key.rpartition(".")[0] for key in job.keys.values()})
        return error(f"{job.name}: sbatch refuses the job: {said}", f"mend {' or '.join(where)}; it was asked for {shown}")
    _, _, start = said.partition(" to start at ")
    return ok(f"{job.name}: sbatch takes the job" + (f", which would start at {start}" if start else ""))
