"""The site's secrets file and scratch folder: what is read and made, and what is refused without showing a value."""

from pathlib import Path

import pytest

from athanor.recipe.scratch import ScratchError, make_scratch
from athanor.recipe.secrets import SecretsError, read_secrets, secrets_path, site_secrets
from athanor.recipe.site import Site
from tests.recipe.projects import Project


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secrets"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_lines_are_names_and_values(tmp_path: Path) -> None:
    text = "# tokens\n\nHF_TOKEN=hf_a=b#c\n  OTHER = 'two words' \nEMPTY=\nQUOTE=\"\n"
    assert read_secrets(write(tmp_path, text)) == {"HF_TOKEN": "hf_a=b#c", "OTHER": "two words", "EMPTY": "", "QUOTE": '"'}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_file_that_others_have_access_to_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, "A=hush\n", mode)
    with pytest.raises(SecretsError, match=rf"its mode is {mode:04o}.*chmod 600 {path}") as caught:
        read_secrets(path)
    assert "hush" not in str(caught.value)


def test_missing_file_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match=f"there is no such file; install -m 600 /dev/null {tmp_path}/absent"):
        read_secrets(tmp_path / "absent")


@pytest.mark.parametrize("line", ["hush", "export A=hush", "2A=hush", "=hush", "A-B=hush"])
def test_line_that_is_no_name_and_value_is_named_by_its_number_alone(tmp_path: Path, line: str) -> None:
    with pytest.raises(SecretsError, match="line 2 is not NAME=VALUE") as caught:
        read_secrets(write(tmp_path, f"GOOD=1\n{line}\n"))
    assert "hush" not in str(caught.value)


def test_folder_and_binary_file_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(SecretsError, match="cannot be read"):
        read_secrets(tmp_path)
    path = write(tmp_path, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SecretsError, match="cannot be read"):
        read_secrets(path)


def test_path_starts_at_the_project_or_at_the_users_home(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert secrets_path(Site(secrets="secrets")) == project.root / "secrets"
    assert secrets_path(Site(secrets="~/secrets")) == Path("/home/ada/secrets")
    assert secrets_path(Site(secrets="/etc/secrets")) == Path("/etc/secrets")
    assert site_secrets(Site()) == {}


def test_scratch_folder_is_made_with_the_jobs_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("USER", "ada")
    assert make_scratch(f"{tmp_path}/a/$USER/${{SLURM_JOB_ID}}") == tmp_path / "a" / "ada" / "42"
    assert (tmp_path / "a" / "ada" / "42").is_dir()
    assert make_scratch(f"{tmp_path}/a/$USER") == tmp_path / "a" / "ada"


def test_scratch_folder_with_an_unknown_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ScratchError, match="name only variables that a job has"):
        make_scratch(f"{tmp_path}/$NOWHERE")
    assert list(tmp_path.iterdir()) == []


def test_scratch_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ScratchError, match="cannot be made"):
        make_scratch(f"{tmp_path}/file/x")
