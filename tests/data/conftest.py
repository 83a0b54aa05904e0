"""Small real parts for the tests of the data room: wheels, Debian packages, sources and stages."""

import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from athanor.artifacts.manifest import Manifest, Provenance, Result
from athanor.artifacts.run import Input, Outcome, StageRun
from athanor.recipe.schema.choices import DocumentFormat, SourceKind
from athanor.recipe.schema.recipe import Data, Recipe, Source, Tokenizer
from athanor.recipe.schema.training import Pretrain

MakeWheel = Callable[..., Path]


@pytest.fixture
def make_wheel(tmp_path: Path) -> MakeWheel:
    """Builds an installable wheel with the given files."""

    def make(name: str, version: str, files: Mapping[str, bytes], folder: Path | None = None) -> Path:
        folder = folder or tmp_path / "index"
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        contents = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, content in {**contents, f"{info}/RECORD": record.encode()}.items():
                archive.writestr(zipfile.ZipInfo(path), content)
        return wheel

    return make


@pytest.fixture
def make_deb(tmp_path: Path) -> Callable[..., Path]:
    """Builds a Debian package with the given files."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb to build a Debian package with: apt-get install dpkg runs this")

    def make(name: str, version: str, files: Mapping[str, bytes], folder: Path) -> Path:
        tree = tmp_path / f"deb-{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: t\n"
        (tree / "DEBIAN" / "control").write_text(control)
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        folder.mkdir(parents=True, exist_ok=True)
        deb = folder / f"{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, deb], check=True, capture_output=True)
        return deb

    return make


def make_source(**keys: Any) -> Source:
    """A local source of JSON lines, changed by `keys`."""
    return Source(**{"kind": SourceKind.LOCAL, "format": DocumentFormat.JSONL, "licence": "CC0-1.0", "domain": "d", **keys})


@pytest.fixture(name="make_source")
def _make_source() -> Callable[..., Source]:
    return make_source


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """A recipe of the given sources, all of equal weight, with a small tokenizer."""

    def make(sources: Mapping[str, Source], **tokenizer: Any) -> Recipe:
        return Recipe(
            name="test",
            data=Data(held_out_fraction=0.1, split_seed=3, sources=dict(sources)),
            tokenizer=Tokenizer(**{"vocab_size": 400, "sample_bytes": 50_000, **tokenizer}),
            pretrain=Pretrain(mixture=dict.fromkeys(sources, 1.0)),
        )

    return make


def input_of(stage: StageRun, outcome: Outcome) -> Input:
    """What a later stage is given of a finished one."""
    result = Result(
        stage=stage.stage,
        instance=stage.instance,
        fingerprint=stage.fingerprint,
        upstreams={},
        files=(),
        counters=dict(outcome.counters),
    )
    provenance = Provenance(
        tracking_id="", attempts=1, started=0.0, seconds=0.0, host="", git_commit="", metrics={}, versions={}, jobs=()
    )
    return Input(stage.folder, Manifest(result, provenance))


@pytest.fixture(name="input_of")
def _input_of() -> Callable[[StageRun, Outcome], Input]:
    return input_of
