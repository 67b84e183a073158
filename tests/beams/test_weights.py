"""Weights on disk: what comes back, and every file that is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import large_networks  # noqa: F401  (makes resnet18 known)
import numpy as np
import pytest
import torch
from safetensors.torch import save as as_bytes

from dfxm_dask.beams.network import weights
from dfxm_dask.beams.network.networks import compact, count_parameters, network
from dfxm_dask.beams.network.weights import digest, facts, load, save, shipped
from dfxm_dask.errors import InputError

OPTIONS = {"widths": [4, 8], "kernels": [4, 3], "strides": [4, 2]}
TOLD: dict[str, Any] = {
    "architecture": {"name": "compact", "options": OPTIONS},
    "training": {"seed": 1},
    "scores": {"accuracy": 0.5},
    "temperature": 1.25,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save(tmp_path / "small.safetensors", compact(**OPTIONS), **TOLD)


def change(path: Path, **facts: Any) -> None:
    told = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**told, **facts}))


def test_load__gives_what_was_saved(saved: Path) -> None:
    torch.manual_seed(0)
    original = compact(**OPTIONS)
    net, known = load(saved, patch=64, channels=1, architecture="compact")
    for name, value in original.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)
    assert known["temperature"] == 1.25
    assert known["scores"] == {"accuracy": 0.5}
    assert known["classes"] == ["weak", "strong"]
    assert known["parameters"] == count_parameters(original)
    assert not net.training
    assert sorted(p.name for p in saved.parent.iterdir()) == ["small.json", "small.safetensors"]


def test_load__keeps_batch_statistics(tmp_path: Path) -> None:
    net = network("resnet18")
    with torch.no_grad():
        net.train()(torch.randn(4, 1, 64, 64))
    told = {**TOLD, "architecture": {"name": "resnet18"}}
    found = load(save(tmp_path / "deep.safetensors", net, **told))[0]
    patch = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(found(patch), net.eval()(patch))


def test_load__reads_once_per_process_and_digest(saved: Path, tmp_path: Path) -> None:
    first = load(saved)[0]
    assert load(saved)[0] is first
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(saved.read_bytes())
    copied.with_suffix(".json").write_bytes(saved.with_suffix(".json").read_bytes())
    assert digest(copied) == digest(saved)
    assert load(copied)[0] is first
    change(copied, temperature=2.0)
    assert digest(copied) != digest(saved)
    assert load(copied)[1]["temperature"] == 2.0
    save(saved, compact(**OPTIONS), **TOLD)
    assert load(saved)[0] is not first


class Attack:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".PT", ".bin", ".ckpt"])
def test_load__refuses_pickles_by_name(tmp_path: Path, suffix: str) -> None:
    path, trap = tmp_path / f"net{suffix}", tmp_path / "trap"
    path.write_bytes(pickle.dumps(Attack(trap)))
    with pytest.raises(InputError, match="are a pickle, which can execute arbitrary code"):
        load(path)
    assert not trap.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_load__refuses_pickles_by_content(saved: Path, tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    saved.write_bytes(pickle.dumps(Attack(trap), protocol=protocol))
    with pytest.raises(InputError, match="pickle with another suffix"):
        load(saved)
    torch.save({"a": torch.zeros(2)}, saved)
    with pytest.raises(InputError, match="pickle with another suffix"):
        load(saved)
    assert not trap.exists()


def test_load__refuses_damaged_and_foreign_files(saved: Path) -> None:
    content, told = saved.read_bytes(), saved.with_suffix(".json").read_text()
    header = struct.unpack("<Q", content[:8])[0]
    for cut in (0, 7):
        saved.write_bytes(content[:cut])
        with pytest.raises(InputError, match=f"have {cut} bytes, too few for safetensors"):
            load(saved)
    saved.write_bytes(content[:50])
    with pytest.raises(InputError, match="have a header that cannot be read"):
        load(saved)
    for other in (content[:-1], content + b"\0", content[: 8 + header]):
        saved.write_bytes(other)
        with pytest.raises(InputError, match=f"have {len(other)} bytes instead of {len(content)}"):
            load(saved)
    saved.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="are not a safetensors file"):
        load(saved)
    changed = bytearray(content)
    changed[-1] ^= 1
    saved.write_bytes(changed)
    with pytest.raises(InputError, match=r"are not those that small\.json describes; copy both files again"):
        load(saved)
    saved.write_bytes(content)
    for wrong, found in (
        ("{", "are not JSON"),
        ('{"format": "other"}', "are of format 'other'"),
        ("[]", "format 'list'"),
    ):
        saved.with_suffix(".json").write_text(wrong)
        with pytest.raises(InputError, match=found):
            load(saved)
    saved.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"small\.json is not beside them"):
        load(saved)
    saved.unlink()
    with pytest.raises(InputError, match="the file does not exist"):
        load(saved)
    saved.write_bytes(content)
    saved.with_suffix(".json").write_text(told)
    assert load(saved)[1]["temperature"] == 1.25


def test_load__refuses_files_too_large_to_be_weights(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGEST", 100)
    with pytest.raises(InputError, match="give weights of at most 1 GiB"):
        load(saved)
    monkeypatch.undo()
    monkeypatch.setattr(weights, "LARGEST_HEADER", 100)
    with pytest.raises(InputError, match=r"small.json: have \d+ bytes"):
        load(saved)


def test_load__refuses_what_does_not_fit(saved: Path) -> None:
    with pytest.raises(InputError, match="for patch 74: are for 64; choose or train others"):
        load(saved, patch=74)
    with pytest.raises(InputError, match="for channels 3: are for 1"):
        load(saved, channels=3)
    with pytest.raises(InputError, match="for architecture published: are for compact"):
        load(saved, architecture="published")
    wider = {"name": "compact", "options": {**OPTIONS, "widths": [4, 16]}}
    change(saved, architecture=wider)
    with pytest.raises(InputError, match=r"do not belong to .*16.*features\.3\.weight"):
        load(saved)
    change(saved, architecture={"name": "transformer"})
    with pytest.raises(InputError, match="network 'transformer': is unknown"):
        load(saved)
    change(saved, architecture=TOLD["architecture"], channels=2)
    with pytest.raises(InputError, match="have 1 channels instead of 2"):
        load(saved)
    change(saved, channels=1, classes=["strong", "weak"])
    with pytest.raises(InputError, match=r"have the classes \['strong', 'weak'\]"):
        load(saved)
    for wrong in ({"temperature": 0}, {"temperature": "1"}, {"architecture": "compact"}):
        change(saved, classes=["weak", "strong"], **wrong)
        with pytest.raises(InputError, match="have temperature"):
            load(saved)
    told = json.loads(saved.with_suffix(".json").read_text())
    saved.with_suffix(".json").write_text(json.dumps({k: v for k, v in told.items() if k not in ("scores", "sha256")}))
    with pytest.raises(InputError, match="lack scores, sha256"):
        facts(saved)


def test_load__refuses_numbers_that_are_not_finite(saved: Path) -> None:
    tensors = {name: value.clone() for name, value in load(saved)[0].state_dict().items()}
    tensors["score.bias"][0] = np.nan
    content = as_bytes(tensors)
    saved.write_bytes(content)
    change(saved, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(InputError, match="contain numbers that are not finite"):
        load(saved)


def test_save__refuses_what_cannot_be_loaded_again(tmp_path: Path) -> None:
    net, path = compact(**OPTIONS), tmp_path / "small.safetensors"
    with pytest.raises(InputError, match=r"end in '\.pt'; name the file with \.safetensors"):
        save(tmp_path / "small.pt", net, **TOLD)
    for temperature in (0.0, np.nan, -1.0):
        with pytest.raises(InputError, match="temperature: is"):
            save(path, net, **{**TOLD, "temperature": temperature})
    with pytest.raises(InputError, match="do not belong to"):
        save(path, net, **{**TOLD, "architecture": {"name": "published"}})
    with pytest.raises(InputError, match="values that JSON cannot represent"):
        save(path, net, **{**TOLD, "scores": {"accuracy": np.float32(1)}})
    with pytest.raises(InputError, match="values that JSON cannot represent"):
        save(path, net, **{**TOLD, "scores": {"accuracy": np.nan}})
    with torch.no_grad():
        net.score.bias.fill_(np.inf)
    with pytest.raises(InputError, match="contain numbers that are not finite"):
        save(path, net, **TOLD)
    assert list(tmp_path.iterdir()) == []


def test_shipped__is_small_and_says_where_it_comes_from() -> None:
    path = shipped()
    assert sum(p.stat().st_size for p in path.parent.iterdir()) < 4e6
    net, known = load(path, patch=64, channels=1, architecture="compact")
    assert count_parameters(net) == known["parameters"] < 20_000
    for beam in ("smeared", "sharp"):
        hard = known["scores"][f"hard, {beam}"]
        assert hard["accuracy"] >= 0.98
        assert hard["calibration_error"] <= 0.02
        assert hard["accuracy"] > hard["brightness_accuracy"]
    assert not set(known["training"]["layers"]) & set(known["training"]["held_out_layers"])
    with pytest.raises(InputError, match=r"shipped weights 'compat': are unknown \(did you mean 'compact'\?\)"):
        shipped("compat")
