"""Fetching: real pip with a local index, real dpkg-deb, and a cache that survives races and damage."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.artifacts.run import StageError
from athanor.data.formats.record import Record
from athanor.data.sources import open_source, pip_wheel, resolve_source
from athanor.data.sources.cache import ABANDONED_SECONDS, DownloadCache, Wanted
from athanor.data.sources.matching import matches, select
from athanor.recipe.schema.choices import DocumentFormat, SourceKind
from athanor.recipe.schema.recipe import Source

MakeSource = Callable[..., Source]
MakeWheel = Callable[..., Path]
LINES = b'{"text": "one"}\n{"text": "two"}\n'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> DownloadCache:
    return DownloadCache(tmp_path / "cache")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, instead of any network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def read(source: Source, cache: DownloadCache, tmp_path: Path) -> list[Record]:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return list(open_source(source, cache, scratch, tmp_path).records)


def pip_source(make_source: MakeSource, **keys: str) -> Source:
    return make_source(**{"kind": SourceKind.PIP, "package": "Some-Corpus", "version": "1.2", "path": "corpus/data", **keys})


def test_pip_wheel_is_downloaded_checked_and_read(
    index: Path, cache: DownloadCache, make_wheel: MakeWheel, make_source: MakeSource, tmp_path: Path
) -> None:
    wheel = make_wheel("some_corpus", "1.2", {"corpus/data/a.jsonl": LINES, "corpus/other.jsonl": b"nonsense"}, index)
    source = pip_source(make_source, sha256=sha256(wheel.read_bytes()))
    opened = open_source(source, cache, tmp_path, tmp_path)
    assert (opened.version, opened.sha256) == ("1.2", source.sha256)
    assert [record.id for record in opened.records] == ["corpus/data/a.jsonl:1", "corpus/data/a.jsonl:2"]
    wheel.unlink()
    assert len(read(source, cache, tmp_path)) == 2  # the second time it comes from the cache


def test_pip_wheel_with_another_checksum_names_both_and_keeps_nothing(
    index: Path, cache: DownloadCache, make_wheel: MakeWheel, make_source: MakeSource, tmp_path: Path
) -> None:
    wheel = make_wheel("some_corpus", "1.2", {"corpus/data/a.jsonl": LINES}, index)
    with pytest.raises(StageError) as caught:
        read(pip_source(make_source, sha256="0" * 64), cache, tmp_path)
    for part in (sha256(wheel.read_bytes()), "0" * 64, "athanor recipe lock", "Some-Corpus==1.2"):
        assert part in str(caught.value)
    assert list((cache.folder / "pip" / "some-corpus").iterdir()) == []


def test_pip_damaged_file_in_the_cache_is_downloaded_again(
    index: Path, cache: DownloadCache, make_wheel: MakeWheel, make_source: MakeSource, tmp_path: Path
) -> None:
    wheel = make_wheel("some_corpus", "1.2", {"corpus/data/a.jsonl": LINES}, index)
    shelf = cache.folder / "pip" / "some-corpus"
    shelf.mkdir(parents=True)
    (shelf / wheel.name).write_bytes(wheel.read_bytes()[:100])
    assert len(read(pip_source(make_source, sha256=sha256(wheel.read_bytes())), cache, tmp_path)) == 2


def test_pip_missing_package_says_what_pip_said_and_the_way_out(
    index: Path, cache: DownloadCache, make_source: MakeSource, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"(?s)No matching distribution found.*put the wheel of Some-Corpus==1.2 into"):
        read(pip_source(make_source), cache, tmp_path)


def test_pip_wheel_put_into_the_cache_by_hand_needs_no_index(
    index: Path, cache: DownloadCache, make_wheel: MakeWheel, make_source: MakeSource, tmp_path: Path
) -> None:
    make_wheel("some_corpus", "1.2", {"corpus/data/a.jsonl": LINES}, cache.folder / "pip" / "some-corpus")
    assert len(read(pip_source(make_source), cache, tmp_path)) == 2


def test_pip_path_without_files_names_some_that_are_there(
    index: Path, cache: DownloadCache, make_wheel: MakeWheel, make_source: MakeSource, tmp_path: Path
) -> None:
    make_wheel("some_corpus", "1.2", {"corpus/data/a.jsonl": LINES}, index)
    with pytest.raises(StageError, match=r"no file 'corpus/b.jsonl'; it has corpus/data/a.jsonl"):
        read(pip_source(make_source, path="corpus/b.jsonl"), cache, tmp_path)


def test_wheel_with_a_name_outside_its_folder_is_refused(make_wheel: MakeWheel, tmp_path: Path) -> None:
    wheel = make_wheel("evil", "1", {"../evil.jsonl": LINES})
    with pytest.raises(StageError, match="outside its folder"):
        pip_wheel.unpack(wheel, "*/evil.jsonl", tmp_path / "scratch")


def test_resolve_floating_pip_source_takes_the_newest_not_the_cached(
    index: Path, cache: DownloadCache, make_wheel: MakeWheel, make_source: MakeSource, tmp_path: Path
) -> None:
    make_wheel("some_corpus", "1.2", {"a": b""}, cache.folder / "pip" / "some-corpus")
    newest = make_wheel("some_corpus", "1.10", {"a": b""}, index)
    found = resolve_source(pip_source(make_source, version=""), cache, tmp_path)
    assert found == ("1.10", sha256(newest.read_bytes()))


def test_apt_package_files_are_taken_out_without_installing(
    cache: DownloadCache, make_deb: Callable[..., Path], make_source: MakeSource, tmp_path: Path
) -> None:
    files = {"usr/share/big/OBO/a.jsonl": LINES, "usr/share/big/other": b"x" * 100_000}
    deb = make_deb("big-data", "2:1.0-1", files, cache.folder / "apt" / "big-data")
    deb.rename(deb.with_name("big-data_2%3a1.0-1_all.deb"))  # as apt names a version with an epoch
    source = make_source(kind=SourceKind.APT, package="big-data", version="2:1.0", path="usr/share/big/OBO")
    opened = open_source(source, cache, tmp_path / "scratch", tmp_path)
    assert opened.version == "2:1.0-1"
    assert [record.id for record in opened.records] == [f"usr/share/big/OBO/a.jsonl:{n}" for n in (1, 2)]
    assert not (tmp_path / "scratch/usr/share/big/other").exists()


def test_apt_damaged_package_is_named(
    cache: DownloadCache, make_source: MakeSource, make_deb: Callable[..., Path], tmp_path: Path
) -> None:
    deb = make_deb("d", "1", {"usr/a.jsonl": LINES}, cache.folder / "apt" / "d")
    deb.write_bytes(deb.read_bytes()[:400])
    with pytest.raises(StageError, match=r"d_1_all\.deb.*delete it"):
        read(make_source(kind=SourceKind.APT, package="d", version="1"), cache, tmp_path)


def test_apt_two_versions_in_the_cache_ask_which(
    cache: DownloadCache, make_deb: Callable[..., Path], make_source: MakeSource, tmp_path: Path
) -> None:
    shelf = cache.folder / "apt" / "d"
    wanted = make_deb("d", "1.1", {"a.jsonl": LINES}, shelf)
    make_deb("d", "1.2", {"a.jsonl": LINES}, shelf)
    source = make_source(kind=SourceKind.APT, package="d", version="1", path="a.jsonl")
    with pytest.raises(StageError, match=r"holds d_1\.1_all\.deb, d_1\.2_all\.deb; say which"):
        read(source, cache, tmp_path)
    source.sha256 = sha256(wanted.read_bytes())
    assert len(read(source, cache, tmp_path)) == 2


def test_apt_download_is_asked_for_the_version_prefix(
    cache: DownloadCache,
    make_deb: Callable[..., Path],
    make_source: MakeSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deb = make_deb("d", "1.1", {"a.jsonl": LINES}, tmp_path / "archive")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apt-get").write_text(f'#!/bin/sh\n[ "$*" = "download --quiet d=1*" ] && cp {deb} .\n')
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    source = make_source(kind=SourceKind.APT, package="d", version="1", path="a.jsonl")
    assert resolve_source(source, cache, tmp_path) == ("1.1", sha256(deb.read_bytes()))


def test_apt_without_the_tool_names_the_folder_to_fill(
    cache: DownloadCache, make_source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match=r"no apt-get.*put d_VERSION_ARCH\.deb into .*apt/d"):
        read(make_source(kind=SourceKind.APT, package="d"), cache, tmp_path)


def test_local_glob_is_read_in_place_and_pinned(cache: DownloadCache, make_source: MakeSource, tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a/1.jsonl", "a/skip.txt"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(LINES)
    source = make_source(path="corpus/**/*.jsonl")
    version, source.sha256 = resolve_source(source, cache, tmp_path)
    assert version == ""
    assert [record.id for record in read(source, cache, tmp_path)] == [
        "a/1.jsonl:1",
        "a/1.jsonl:2",
        "b/2.jsonl:1",
        "b/2.jsonl:2",
    ]
    (tmp_path / "corpus/b/2.jsonl").write_bytes(b'{"text": "changed"}\n')
    with pytest.raises(StageError, match=f"the recipe says {source.sha256}.*bring back the old ones"):
        read(source, cache, tmp_path)


def test_local_path_that_is_not_there_says_where_it_looked(cache: DownloadCache, make_source: MakeSource, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=f"{tmp_path}/nowhere does not exist"):
        read(make_source(path="nowhere/*.txt"), cache, tmp_path)


def test_hugging_face_rows_of_a_local_dataset(
    cache: DownloadCache, make_source: MakeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": f"t{n}", "n": n}) + "\n" for n in range(3)))
    source = make_source(kind=SourceKind.HUGGINGFACE, package=str(folder), format=DocumentFormat.ROWS)
    assert [(r.id, r.fields["text"]) for r in read(source, cache, tmp_path)] == [
        ("train:0", "t0"),
        ("train:1", "t1"),
        ("train:2", "t2"),
    ]
    source.path = "default/nosuchsplit"
    with pytest.raises(StageError, match="nosuchsplit"):
        read(source, cache, tmp_path)
    source.format = DocumentFormat.JSONL
    with pytest.raises(StageError, match="format: rows"):
        read(source, cache, tmp_path)


def test_cache_two_stages_at_once_both_get_the_whole_file(cache: DownloadCache) -> None:
    wanted = Wanted("p==1", "pip/p", lambda name: "1" if name.endswith(".whl") else None, "", floats=False)
    together = threading.Barrier(2, timeout=30)
    results: list[bytes] = []

    def download(folder: Path) -> None:
        (folder / "p-1.whl").write_bytes(b"half")
        together.wait()
        (folder / "p-1.whl").write_bytes(b"whole")

    def ask() -> None:
        results.append(cache.obtain(wanted, download).path.read_bytes())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"whole", b"whole"]
    assert [path.name for path in (cache.folder / "pip/p").iterdir()] == ["p-1.whl"]


def test_cache_download_that_was_killed_is_started_anew_and_swept_later(cache: DownloadCache) -> None:
    shelf = cache.folder / "pip/p"
    for name, age in ((".partial-old", ABANDONED_SECONDS + 60), (".partial-young", 0)):
        (shelf / name).mkdir(parents=True)
        (shelf / name / "p-1.whl").write_bytes(b"half")
        stamp = (shelf / name).stat().st_mtime - age
        os.utime(shelf / name, (stamp, stamp))
    wanted = Wanted("p==1", "pip/p", lambda name: "1" if name.endswith(".whl") else None, "", floats=False)

    def download(folder: Path) -> None:
        (folder / "p-1.whl").write_bytes(b"whole")

    package = cache.obtain(wanted, download)
    assert package.path.read_bytes() == b"whole"
    assert sorted(path.name for path in shelf.iterdir()) == [".partial-young", "p-1.whl"]


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("./usr/share/a.obo", "usr/share", True),
        ("usr/share2/a.obo", "usr/share", False),
        ("pkg/a/b.py", "pkg/**/*.py", True),
        ("pkg/b.py", "pkg/**/*.py", True),
        ("pkg/a/b.py", "pkg/*.py", False),
        ("pkg/b.pyc", "pkg/*.py", False),
        ("d/gcide.dict.dz", "d/gcide.*", True),
        ("d/a1.x", "d/a[0-9].x", True),
        ("d/ab.x", "d/a[!a-f].x", False),
        ("anything", "", True),
        ("a+b (c).tsv", "a+b (c).tsv", True),
    ],
)
def test_matches_file_folder_or_glob(name: str, path: str, expected: bool) -> None:
    assert matches(name, path) is expected


def test_select_is_sorted_whatever_the_archive_order() -> None:
    assert select(["b/2", "a/1", "c"], "*/*", "p") == ["a/1", "b/2"]


@pytest.mark.slow
def test_pip_wheel_from_the_real_index(cache: DownloadCache, make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source(
        kind=SourceKind.PIP,
        package="networkx",
        version="3.6.1",
        sha256="d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762",
        path="networkx/**/*.py",
        format=DocumentFormat.CODE,
    )
    assert len(read(source, cache, tmp_path)) == 580
