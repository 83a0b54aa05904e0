"""The mean of weights: exact, in the type they have, of one model alone, and resumed file by file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.models.averaging import AveragingError, average_folders


def folder(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    path.mkdir()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(f'{{"of": "{path.name}"}}')
    return path


def quiet(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_weighs_all_folders_the_same_and_is_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = [{"a": torch.randn(4, 3).to(dtype), "b": (1e6 * torch.randn(5)).to(dtype)} for _ in range(3)]
    folders = [folder(tmp_path / str(number), some) for number, some in enumerate(weights)]
    names = average_folders(folders, tmp_path / "mean", quiet)
    assert names == ["config.json", "model.safetensors"]
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    for name in ("a", "b"):
        expected = torch.stack([some[name].double() for some in weights]).mean(0).to(dtype)
        assert mean[name].dtype is dtype
        torch.testing.assert_close(mean[name], expected, rtol=1e-7 if dtype is torch.float32 else 0, atol=0)
    assert (tmp_path / "mean" / "config.json").read_text() == '{"of": "2"}'


def test_file_that_is_whole_is_kept_and_none_is_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [folder(tmp_path / name, {"a": torch.full((2,), value)}) for name, value in (("one", 1.0), ("two", 3.0))]

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("athanor.models.averaging.os.replace", killed)
        average_folders(folders, tmp_path / "mean", quiet)
    assert not (tmp_path / "mean" / "model.safetensors").exists()
    names = average_folders(folders, tmp_path / "mean", quiet)
    assert load_file(tmp_path / "mean" / "model.safetensors")["a"].tolist() == [2.0, 2.0]
    assert names == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"b": torch.ones(2)}, "differ in a, b: they are not of one model"),
        ({"a": torch.ones(3)}, r"a has shapes \[\(2,\), \(3,\)\]"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(tmp_path: Path, other: dict[str, torch.Tensor], said: str) -> None:
    folders = [folder(tmp_path / "one", {"a": torch.ones(2)}), folder(tmp_path / "two", other)]
    with pytest.raises(AveragingError, match=said):
        average_folders(folders, tmp_path / "mean", quiet)
    assert not (tmp_path / "mean" / "model.safetensors").exists()
