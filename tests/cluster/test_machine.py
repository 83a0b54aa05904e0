"""What the login node's own checks find: caches in HOME, SQLite's locks, munge, and the whole report without Slurm."""

from pathlib import Path

import pytest

from athanor.campaign import checkup
from athanor.cli import main
from athanor.cluster.authentication import check_accounting, check_munge
from athanor.cluster.caches import check_caches, size_of
from athanor.cluster.commands import Answer, ask
from athanor.cluster.database import check_database, lock_trouble, sqlite_path
from athanor.cluster.doctor import Subject, check_machine, check_secrets, examine_site
from athanor.cluster.findings import Level, error, has_error, ok, summary, warning
from athanor.cluster.inventory import parse_settings
from athanor.cluster.storage import Mount
from athanor.recipe.site import Site
from tests.recipe.projects import Project, make_project

from .recorded import CONFIG, NO_ACCOUNTING, Recorded, inventory, slurm

NFS, DISK = Mount("nfs:/p", "/p", "nfs4"), Mount("/dev/sda1", "/", "ext4")


def fill(folder: Path, megabytes: int) -> None:
    folder.mkdir(parents=True)
    (folder / "blob").write_bytes(b"x" * 10**6 * megabytes)


def test_large_cache_in_home_is_named_with_the_variable_that_moves_it(tmp_path: Path) -> None:
    fill(tmp_path / ".cache" / "huggingface" / "hub", 110)
    fill(tmp_path / ".cache" / "pip", 1)
    (found,) = check_caches(tmp_path, {}, Path("/project/caches"), on_cluster=True)
    folder = tmp_path / ".cache" / "huggingface"
    assert (found.level, found.found) == (Level.WARNING, f"0.1 GB in {folder}")
    assert found.advice == f"export HF_HOME=/project/caches/huggingface in your shell's start-up file, then rm -r {folder}"
    (moved,) = check_caches(tmp_path, {"HF_HOME": "/project/hf"}, Path("/project/caches"), on_cluster=True)
    assert moved.advice == f"rm -r {folder}"
    (laptop,) = check_caches(tmp_path, {}, Path("/project/caches"), on_cluster=False)
    assert laptop.level is Level.OK


def test_cache_that_is_a_link_out_of_home_is_fine(tmp_path: Path) -> None:
    fill(tmp_path / "project" / "hf", 110)
    (tmp_path / "home" / ".cache").mkdir(parents=True)
    (tmp_path / "home" / ".cache" / "huggingface").symlink_to(tmp_path / "project" / "hf")
    (found,) = check_caches(tmp_path / "home", {}, Path("/project"), on_cluster=True)
    assert found.level is Level.OK


def test_counting_a_cache_stops_in_time(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1)
    assert size_of(tmp_path)[1] is True
    assert size_of(tmp_path, seconds=-1.0)[1] is False


def test_locks_work_here(tmp_path: Path) -> None:
    assert lock_trouble(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_hold_a_database_is_said_so(tmp_path: Path) -> None:
    assert "No such file" in lock_trouble(tmp_path / "absent")


def test_database_on_a_network_file_system_is_a_warning_with_the_way_out(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    (fine,) = check_database(uri, DISK)
    (found,) = check_database(uri, NFS)
    assert (fine.level, found.level) == (Level.OK, Level.WARNING)
    assert "tracking_uri" in found.advice
    assert check_database("https://mlflow.example", NFS) == []
    assert sqlite_path(uri) == tmp_path / "mlflow" / "mlflow.db"


def test_munge_is_asked_at_the_clusters_own_socket() -> None:
    ask = slurm()
    assert [f.level for f in check_munge(parse_settings(CONFIG), ask)] == [Level.OK]
    assert ask.asked == ["sh -c munge -n -S /run/mini/munge.sock </dev/null | unmunge -S /run/mini/munge.sock"]


def test_munge_that_fails_is_an_error_and_one_that_is_absent_is_not() -> None:
    broken = Answer(15, "", "unmunge: Error: Expired credential\n")
    (found,) = check_munge(parse_settings(CONFIG), Recorded({"sh": broken}))
    assert (found.level, found.found) == (Level.ERROR, "munge does not work: unmunge: Error: Expired credential")
    assert not has_error(check_munge(parse_settings(CONFIG), Recorded({"sh": Answer(127)})))
    assert not has_error(check_munge({"AuthType": "auth/slurm"}, Recorded({})))


def test_accounts_of_the_user() -> None:
    assert [str(f) for f in check_accounting(inventory())] == ["ok       you may charge mygroup, special"]
    (nobody,) = check_accounting(inventory(slurm(associations="")))
    assert nobody.level is Level.ERROR
    (none,) = check_accounting(inventory(slurm(NO_ACCOUNTING)))
    assert none.level is Level.OK


def test_command_that_is_missing_answers_all_the_same() -> None:
    assert ask(["no-such-command-anywhere"]) == Answer(127, "", "no-such-command-anywhere is not installed")


def test_job_that_this_process_runs_in_is_hidden_from_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_NTASKS_PER_NODE", "4"), ("SLURM_CONF", "/x/slurm.conf")):
        monkeypatch.setenv(name, value)
    seen = ask(["sh", "-c", "env | grep ^SLURM"]).out.split()
    assert seen == ["SLURM_CONF=/x/slurm.conf"]


def test_findings_are_counted_by_level() -> None:
    found = [ok("a"), error("b", "c"), error("d", "e"), warning("f", "g")]
    assert summary(found) == "2 errors, 1 warning, 1 fine"
    assert str(found[1]) == "error    b; c"


def test_machine_without_slurm_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    store = tmp_path / "store"
    found = list(check_machine(Subject(Site(name="s"), store, f"sqlite:///{store}/mlflow/mlflow.db", ()), ask, False))
    assert not has_error(found)
    assert not store.exists()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The small project in force, in a HOME of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    made = make_project(tmp_path / "project")
    monkeypatch.setenv("ATHANOR_PROJECT", str(made.root))
    return made


def test_doctor_without_slurm_says_so_in_one_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "_has_slurm", lambda: False)
    assert main(["doctor", "--quick", "--recipe", "base"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "Slurm" in line] == [
        "ok       no Slurm here: jobs run on this machine, and what only a cluster has is not checked"
    ]
    assert said.splitlines()[-1].startswith("0 errors, 0 warnings")


def test_doctor_where_an_interpreter_is_missing_names_its_key(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "_has_slurm", lambda: False)
    project.write("laptop", {"resources": {"default": {"python": "/no/such/python"}}}, "sites")
    assert main(["doctor", "--recipe", "base"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    assert "/no/such/python does not start" in line and "mend resources.default.python" in line


def test_doctor_examines_several_recipes_and_refuses_a_bad_one(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "_has_slurm", lambda: False)
    project.write("wide", {"extends": "base", "pretrain": {"parallel": {"ranks": 4}}})
    jobs = checkup.subject_of(["base", "wide"], "laptop").jobs
    assert sorted({job.request().ranks for job in jobs}) == [1, 4]
    assert main(["doctor", "--recipe", "base", "wdie"]) == 1
    assert "did you mean wide?" in capsys.readouterr().err
    assert main(["doctor", "--recipe", "base", "--wait", "soon"]) == 2


def test_silent_slurm_is_one_error_and_the_machine_is_still_checked(tmp_path: Path) -> None:
    silent = Recorded({"sinfo": Answer(1, "", "Unable to contact slurm controller\n"), "scontrol": Answer(1)})
    found = list(examine_site(Subject(Site(name="s"), tmp_path, "http://mlflow", ()), silent, True, True, 1.0))
    assert [f.found for f in found if f.level is Level.ERROR] == ["Slurm does not answer: Unable to contact slurm controller"]
    assert any(f"store {tmp_path} is there" in f.found for f in found)


def test_secrets_file_is_checked_without_showing_a_value(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("HF_TOKEN=hush\n")
    path.chmod(0o640)
    (found,) = check_secrets(Site(name="s", secrets=str(path)))
    assert (found.level, "chmod 600" in found.found, "hush" in str(found)) == (Level.ERROR, True, False)
    path.chmod(0o600)
    assert [str(f) for f in check_secrets(Site(secrets=str(path)))] == [f"ok       {path} is yours alone and has HF_TOKEN"]
    assert check_secrets(Site()) == []
