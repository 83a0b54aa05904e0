"""The manifest: what it proves, what it notices, and that a store can be moved."""

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.artifacts.files import FileRecord, record_files, sha256_of, write_atomically, write_json
from athanor.artifacts.manifest import MANIFEST, SEAL, DamagedManifest, Manifest, ManifestError, Provenance, Result, Upstream
from athanor.artifacts.manifest_schema import manifest_schema
from tests.artifacts.conftest import CHECKOUT, Bench

SCHEMA = CHECKOUT / "docs" / "manifest.schema.json"
VALUES = st.integers(-(2**60), 2**60) | st.text(max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def sealed(folder: Path) -> Manifest:
    """A folder of three files with its manifest."""
    for name, content in {"a.txt": b"one", "data/b.bin": b"\0" * 5000, "data/c": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    upstreams = {"documents": Upstream("fetch", "prose", "0" * 16)}
    result = Result("tokenize", "prose-0", "1" * 16, upstreams, record_files(folder, ["a.txt", "data"]), {"tokens": 7})
    provenance = Provenance("1/001", 1, 1.5, 2.5, "host", "abc", {"loss": 1.0}, {"python": "3.11"}, ("17",))
    manifest = Manifest(result, provenance)
    manifest.write(folder)
    return manifest


def test_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = sealed(tmp_path)
    assert Manifest.read(tmp_path / MANIFEST) == manifest == Manifest.read(tmp_path / SEAL)


@given(
    counters=st.dictionaries(st.text(min_size=1, max_size=10), VALUES, max_size=4),
    metrics=st.dictionaries(st.text(min_size=1, max_size=10), NUMBERS, max_size=4),
)
@settings(max_examples=20, deadline=None)
def test_any_counters_and_metrics_survive(
    tmp_path_factory: pytest.TempPathFactory, counters: dict[str, int | str], metrics: dict[str, float]
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    result = Result("fetch", "prose", "1" * 16, {}, (), counters)
    manifest = Manifest(result, Provenance("1/001", 1, 0.0, 0.0, "h", "", metrics))
    manifest.write(folder)
    assert Manifest.read(folder / MANIFEST) == manifest


def test_whole_folder_verifies_and_again_after_it_was_moved(tmp_path: Path) -> None:
    sealed(tmp_path / "store" / "fetch" / "x")
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    folder = tmp_path / "elsewhere" / "fetch" / "x"
    assert Manifest.read(folder / MANIFEST).verify(folder, deep=True) == []
    assert str(tmp_path) not in (folder / MANIFEST).read_text()


def test_files_that_are_not_named_do_not_matter(tmp_path: Path) -> None:
    manifest = sealed(tmp_path)
    (tmp_path / "rank-0.log").write_text("noise")
    assert manifest.verify(tmp_path, deep=True) == []


def test_missing_and_truncated_files_are_noticed_without_reading_them(tmp_path: Path) -> None:
    manifest = sealed(tmp_path)
    (tmp_path / "a.txt").unlink()
    os.truncate(tmp_path / "data" / "b.bin", 4999)
    assert manifest.verify(tmp_path) == [
        "a.txt is missing",
        "data/b.bin has 4999 bytes, the manifest says 5000",
    ]


def test_folder_in_the_place_of_a_file_is_a_missing_file(tmp_path: Path) -> None:
    manifest = sealed(tmp_path)
    (tmp_path / "data" / "c").unlink()
    (tmp_path / "data" / "c").mkdir()
    assert manifest.verify(tmp_path) == ["data/c is missing"]


@given(where=st.integers(0, 4999), mask=st.integers(1, 255))
@settings(max_examples=20, deadline=None)
def test_any_changed_byte_is_noticed_by_a_deep_look_only(tmp_path_factory: pytest.TempPathFactory, where: int, mask: int) -> None:
    folder = tmp_path_factory.mktemp("deep")
    manifest = sealed(folder)
    content = bytearray((folder / "data" / "b.bin").read_bytes())
    content[where] ^= mask
    (folder / "data" / "b.bin").write_bytes(content)
    assert manifest.verify(folder) == []
    (wrong,) = manifest.verify(folder, deep=True)
    assert wrong.startswith("data/b.bin has sha256 ")


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_unknown_schema_version_is_an_error_that_names_both(tmp_path: Path, version: object) -> None:
    sealed(tmp_path)
    data = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**data, "schema_version": version}))
    with pytest.raises(ManifestError, match=f"has schema_version {version}, this Athanor reads 1"):
        Manifest.read(tmp_path / MANIFEST)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"schema_version": 1}', '{"schema_version": 1, "result": {}}'])
def test_what_is_no_manifest_is_told_from_a_missing_one(tmp_path: Path, content: str) -> None:
    with pytest.raises(ManifestError, match="is missing"):
        Manifest.read(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DamagedManifest):
        Manifest.read(tmp_path / MANIFEST)


def test_records_of_folders_are_sorted_and_complete(tmp_path: Path) -> None:
    for name in ("z", "d/2", "d/1", "d/e/3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    records = record_files(tmp_path, ["z", "d", "d/1"])
    assert [record.path for record in records] == ["d/1", "d/2", "d/e/3", "z"]
    assert records[0] == FileRecord("d/1", 3, sha256_of(tmp_path / "d" / "1"))


def test_result_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the stage names .*bread as a result, but it is not there"):
        record_files(tmp_path, ["bread"])


def test_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def power_cut(*_: object) -> None:
        raise OSError("power cut")

    for instruction in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, instruction, power_cut)
            with pytest.raises(OSError, match="power cut"):
                write_json(path, {"new": 2})
        assert json.loads(path.read_text()) == {"old": 1}


def test_seal_is_written_before_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = os.replace

    def note(source: Path, target: Path) -> None:
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    sealed(tmp_path)
    assert order == [SEAL, MANIFEST]


def test_atomic_write_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "x.txt", "naïve\n")
    assert (tmp_path / "a" / "b" / "x.txt").read_text(encoding="utf-8") == "naïve\n"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x.txt"]


def test_documented_schema_is_what_the_generator_writes() -> None:
    again = "run: python -m athanor.artifacts.manifest_schema > docs/manifest.schema.json"
    assert json.loads(SCHEMA.read_text()) == manifest_schema(), again
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


def test_real_manifests_fit_the_documented_schema(bench: Bench) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for name in ("fetch/prose", "fetch/chemistry", "tokenizer/bpe"):
        bench.make(name)
        for file in (MANIFEST, SEAL):
            validator.validate(json.loads((bench.folder(name) / file).read_text()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("result", "fingerprint"), "xyz"),
        (("result", "files", 0, "path"), "/etc/passwd"),
        (("result", "files", 0, "path"), "data/../../x"),
        (("result", "files", 0, "bytes"), -1),
        (("result", "files", 0, "sha256"), "0"),
        (("result", "counters", "tokens"), 1.5),
        (("provenance", "metrics", "loss"), "low"),
        (("provenance", "surprise"), 1),
    ],
)
def test_documented_schema_refuses(tmp_path: Path, path: tuple[str | int, ...], value: object) -> None:
    sealed(tmp_path)
    data = json.loads((tmp_path / MANIFEST).read_text())
    place = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json.loads(SCHEMA.read_text()))
