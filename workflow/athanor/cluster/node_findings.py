"""What the report of a compute node means for the stages that would run there."""

from collections.abc import Iterator

from athanor.cluster.findings import Finding, error, ok, warning
from athanor.cluster.jobs import StageJob
from athanor.cluster.node_report import Interpreter, NodeReport
from athanor.recipe.site import Site

_CLOCK_WARNING_SECONDS, _CLOCK_ERROR_SECONDS = 5.0, 60.0  # munge refuses credentials of another 300 s
_LOW_SCRATCH_BYTES = 10 * 10**9


def judge_report(job: StageJob, report: NodeReport, site: Site) -> list[Finding]:
    """Every finding about one node."""
    where = f"{report.host} ({job.name})"
    return [
        *_place(where, report),
        *judge_interpreter(where, job, report.interpreter),
        *(_gpus(where, report) if job.request().gpus_per_node else []),
        *_scratch(where, report, site),
        *_interface(where, report, site),
        *([error(f"{where}: {report.secrets_trouble}", "the file must be on a file system that nodes share")]
          if report.secrets_trouble else []),
        *_stacks(where, report),
    ]  # fmt: skip


def judge_clock(host: str, least: float, most: float) -> Finding:
    """What it means that the node's clock is between `least` and `most` seconds ahead of ours (negative: behind)."""
    off = least if least > 0 else min(most, 0.0)
    if abs(off) <= _CLOCK_WARNING_SECONDS:
        return ok(f"{host}: no difference between its clock and this machine's (measured to {most - least:.1f} s)")
    say = error if abs(off) > _CLOCK_ERROR_SECONDS else warning
    advice = "tell the administrators: chrony or ntpd must run on every node; munge refuses differences of 300 s"
    return say(f"{host}: its clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's", advice)


def _place(where: str, report: NodeReport) -> Iterator[Finding]:
    yield ok(f"{where}: sees the store and can write to it")
    if not report.has_workdir:
        yield error(f"{where}: does not have the folder that snakemake runs in", "keep the checkout on a shared file system")


def judge_interpreter(where: str, job: StageJob, found: Interpreter) -> Iterator[Finding]:
    """Whether the stages' interpreter starts, imports what they need, and has the pinned versions."""
    python = f"{job.prefix} {job.python}".strip()
    way_out = f"mend {job.keys['python']} or {job.keys['launch_prefix']}, or make install in the checkout"
    if found.trouble:
        yield error(f"{where}: {python} does not start: {found.trouble}", way_out)
        return
    for stage, wrong in found.wrong.items():
        yield error(f"{where}: {python} cannot import stage {stage}: {wrong}", way_out)
    different = {p: v for p, v in found.versions.items() if v != job.packages[p]}
    for package, version in different.items():
        yield error(f"{where}: {python} has {package} {version}, the recipe's environment pins {job.packages[package]}", way_out)
    if not found.wrong and not different:
        yield ok(f"{where}: {python} imports what its stages need, in the pinned versions")
    if found.walls:
        advice = "problems whose verifier runs what a model wrote are left out there"
        yield warning(f"{where}: no sandbox: {found.walls}", advice)


def _gpus(where: str, report: NodeReport) -> Iterator[Finding]:
    seen = report.interpreter.gpus
    if report.nvidia_smi:
        yield warning(f"{where}: no GPU to be seen: {report.nvidia_smi}", "choose another partition if it has NVIDIA GPUs")
    else:
        name, _, driver = report.gpus[0].partition(", ") if report.gpus else ("GPU", "", "")
        yield ok(f"{where}: {len(report.gpus)} × {name}, driver {driver}; the probe asked for one")
        if seen == 0:
            advice = "give apptainer --nv, and a build of torch for this driver"
            yield error(f"{where}: nvidia-smi sees {len(report.gpus)} GPUs, but torch none", advice)


def _scratch(where: str, report: NodeReport, site: Site) -> Iterator[Finding]:
    what = f"{where}: {'scratch' if site.scratch else 'the folder for temporary files'} {report.scratch}"
    way_out = "set scratch to a folder on the node's own disk that you may write to"
    if report.scratch_trouble and site.scratch:
        yield error(f"{where}: {report.scratch_trouble}", way_out)
    elif report.scratch_trouble:
        yield error(f"{what} cannot be used: {report.scratch_trouble}", way_out)
    elif report.scratch_free < _LOW_SCRATCH_BYTES:
        yield warning(f"{what} has {report.scratch_free / 1e9:.1f} GB free", way_out)
    else:
        yield ok(f"{what} has {report.scratch_free / 1e9:.0f} GB free")


def _interface(where: str, report: NodeReport, site: Site) -> Iterator[Finding]:
    wanted = [name for name in site.network_interface.split(",") if name]
    missing = [name for name in wanted if name not in report.interfaces]
    if missing:
        advice = f"set network_interface to one of {', '.join(report.interfaces)}"
        yield error(f"{where}: has no network interface {', '.join(missing)}", advice)
    elif wanted:
        yield ok(f"{where}: has network interface {site.network_interface}")


def _stacks(where: str, report: NodeReport) -> Iterator[Finding]:
    if report.stacks == "py-spy":
        yield ok(f"{where}: py-spy can show where a stage hangs")
    else:
        advice = "a stage that hangs writes its stacks itself, if it still can; ask the administrators for ptrace_scope 0"
        yield warning(f"{where}: {report.stacks}", "make install brings it" if "installed" in report.stacks else advice)
