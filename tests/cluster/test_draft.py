"""The drafted site file: a valid site, with what Slurm said, and never over another file."""

from pathlib import Path

import pytest

from athanor.campaign import checkup
from athanor.cli import main
from athanor.cluster.draft import default_account, draft, project_space, write_draft
from athanor.cluster.inventory import Inventory
from athanor.recipe.loading import load_site
from athanor.recipe.site import Site, StageResources
from tests.recipe.projects import Project, make_project

from .recorded import SINFO, USER, Recorded, inventory, slurm

STORE = ("/project/mygroup/athanor", "project space")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The small project in force."""
    made = make_project(tmp_path / "project")
    monkeypatch.setenv("ATHANOR_PROJECT", str(made.root))
    return made


def site_of(project: Project, found: Inventory, account: str = "mygroup") -> Site:
    """The drafted site as the loader reads it."""
    project.write("drafted", draft(found, account, STORE), "sites")
    return load_site("drafted")


def test_draft_is_a_valid_site_with_what_slurm_said(project: Project) -> None:
    site = site_of(project, inventory())
    assert (site.store, site.ranks_per_node) == ("/project/mygroup/athanor", 8)
    assert site.resources == {
        "default": StageResources(cpus_per_task=4, memory=16 * 10**9, runtime=240, partition="cpu", account="mygroup"),
        "pretrain": StageResources(
            cpus_per_task=12, memory=979 * 10**9, runtime=1440, gpus_per_node=8, partition="gpu", account="mygroup"
        ),
    }


def test_draft_says_where_values_come_from_and_what_to_decide(project: Project) -> None:
    text = draft(inventory(), "mygroup", STORE)
    assert "partition: gpu # 4 nodes of 96 cores, 1031 GB, 8 GPUs h100; at most 48h" in text
    assert "account: mygroup # your default account, by sacctmgr" in text
    assert "# partition debug: 1 nodes of 64 cores, 524 GB, 4 GPUs a100; at most 30min" in text
    assert "closed" not in text
    for key in ("store: ", "# scratch: ", "# network_interface: ", "# secrets: "):
        line, *_ = [n for n, line in enumerate(text.splitlines()) if line.startswith(key)]
        assert "DECIDE" in "".join(text.splitlines()[line - 1 : line + 1])


def test_cluster_without_accounting_gets_no_account(project: Project) -> None:
    assert {entry.account for entry in site_of(project, inventory(), "").resources.values()} == {""}


def test_cluster_without_gpus_trains_on_cores(project: Project) -> None:
    sinfo = "".join(line + "\n" for line in SINFO.splitlines() if "gpu:" not in line)
    site = site_of(project, inventory(slurm(sinfo=sinfo)))
    pretrain = site.resources["pretrain"]
    assert (pretrain.partition, pretrain.gpus_per_node, site.ranks_per_node, pretrain.cpus_per_task) == ("cpu", 0, 8, 8)


def test_cluster_with_gpu_partitions_only_prepares_data_there(project: Project) -> None:
    site = site_of(project, inventory(slurm(sinfo="main*|up|infinite|2|64|524288|gpu:h100:8|idle\n")))
    assert {entry.partition for entry in site.resources.values()} == {"main"}
    assert site.resources["default"].gpus_per_node == 0


def test_names_that_yaml_would_misread_stay_text(project: Project) -> None:
    found = inventory(slurm(sinfo="on*|up|infinite|2|64|524288|gpu:8|idle\n1.10|up|infinite|9|64|1000|(null)|idle\n"))
    site = site_of(project, found, "0123")
    assert (site.resources["pretrain"].partition, site.resources["default"].partition) == ("on", "1.10")
    assert site.resources["default"].account == "0123"


def test_cluster_without_a_partition_is_refused() -> None:
    with pytest.raises(ValueError, match="no partition of the cluster is up"):
        draft(inventory(slurm(sinfo="cpu*|down|infinite|2|64|524288|(null)|idle\n")), "", STORE)


def test_project_space_is_the_one_the_site_names(tmp_path: Path) -> None:
    assert project_space({"WORK": str(tmp_path), "SCRATCH": "/"})[0] == f"{tmp_path}/athanor"
    assert project_space({"PROJECT": "/no/such/folder"})[0] == "store"
    assert project_space({"PROJECT": "my project"})[0] == "store"


def test_default_account_is_sacctmgrs() -> None:
    assert default_account(slurm(), USER) == "mygroup"
    assert default_account(Recorded({}), USER) == ""


def test_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = write_draft(tmp_path / "sites", "x", "store: a\n")
    with pytest.raises(FileExistsError):
        write_draft(tmp_path / "sites", "x", "store: b\n")
    assert path.read_text() == "store: a\n"


def test_site_init_writes_the_file_and_says_what_comes_next(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "_has_slurm", lambda: True)
    monkeypatch.setattr(checkup, "ask", slurm())
    assert main(["site", "init"]) == 0
    path = project.root / "config" / "sites" / "mini.yaml"
    said = capsys.readouterr().out
    assert str(path) in said and "athanor doctor --site mini" in said
    assert load_site("mini").ranks_per_node == 8
    before = path.read_text()
    assert main(["site", "init", "mini"]) == 1
    assert path.read_text() == before and "is there already" in capsys.readouterr().err


def test_site_init_without_slurm_points_to_the_laptop(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "_has_slurm", lambda: False)
    assert main(["site", "init", "x"]) == 1
    assert "laptop.yaml" in capsys.readouterr().err
    assert not (project.root / "config" / "sites" / "x.yaml").exists()
