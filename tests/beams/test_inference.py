"""Engines against each other and against the network called by hand; the path of a GPU run on the processor; weights
that are read once and never stale."""

from __future__ import annotations

import copy
import hashlib
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from large_networks import resnet18, vgg16
from scipy.special import expit, logit

from dfxm_dask.beams.network import engines, inference, weights
from dfxm_dask.beams.network.engines import answers, batch_of, chosen, engine_of, on_device
from dfxm_dask.beams.network.inference import log_odds, predict, predict_counts
from dfxm_dask.beams.network.networks import STRONG, WEAK, compact, network, published
from dfxm_dask.beams.network.onnx_model import onnx_model
from dfxm_dask.beams.network.weights import load, save, shipped
from dfxm_dask.beams.patches import gather_patches, log_counts, log_table, standardise
from dfxm_dask.errors import InputError

BOTH = ["torch", "onnxruntime"]


def frames(count: int = 3, shape: tuple[int, int] = (150, 210), seed: int = 0) -> np.ndarray:
    """Counts with bright stripes of another direction in each frame; no multiple of 64 pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [1 + np.sin((y * np.cos(k) + x * np.sin(k)) / (2 + k)) for k in range(count)]
    return rng.poisson([100 + 300 * w for w in waves]).astype(np.uint16)


def net_of(name: str) -> torch.nn.Module:
    """A network whose answers differ from patch to patch."""
    if name == "compact":
        return load(shipped())[0]
    torch.manual_seed(3)
    net = published(64)
    with torch.no_grad():
        net[-1].weight.mul_(60)
    return net


def by_hand(net: torch.nn.Module, patches: np.ndarray) -> np.ndarray:
    """Log-odds by the module itself, in double precision."""
    with torch.inference_mode():
        logits = copy.deepcopy(net).eval().double()(torch.from_numpy(patches).double()).numpy()
    return logits[:, WEAK] - logits[:, STRONG]


def seen(counts: np.ndarray) -> np.ndarray:
    """What the network sees of raw frames: (patch, 1, y, x)."""
    return np.concatenate([gather_patches(standardise(log_counts(f, 100.0))) for f in counts])[:, None]


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("name", ["compact", "published"])
def test_answers__are_those_of_the_network_by_hand(engine: str, name: str) -> None:
    net, patches = net_of(name), seen(frames())
    wanted = by_hand(net, patches)
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(answers(net, engine)(patches), wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["compact", "published"])
def test_engines__agree_on_every_patch(name: str) -> None:
    net, patches = net_of(name), seen(frames(4))
    one, other = (answers(net, engine)(patches) for engine in BOTH)
    assert one.dtype == other.dtype == np.float32
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-5)


def test_answers__of_other_shapes_of_the_compact_network() -> None:
    torch.manual_seed(1)
    for options in (
        {"widths": (8, 12), "kernels": (5, 5), "strides": (2, 2)},
        {"widths": (4,), "kernels": (3,), "strides": (1,)},
        {"channels": 3},
    ):
        net = compact(**options)  # type: ignore[arg-type]
        patches = np.random.default_rng(0).normal(size=(5, options.get("channels", 1), 32, 32)).astype(np.float32)  # type: ignore[arg-type]
        wanted = by_hand(net, patches)
        for engine in BOTH:
            np.testing.assert_allclose(answers(net, engine)(patches), wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("name", ["compact", "published"])
def test_predict__does_not_depend_on_the_grouping_of_frames(engine: Any, name: str) -> None:
    net, counts = net_of(name), frames(3, (150, 700))  # 33 patches are more than one batch
    together = predict_counts(net, counts, dark=100.0, engine=engine)
    assert np.isfinite(together).all()
    for k, frame in enumerate(counts):
        np.testing.assert_array_equal(predict_counts(net, frame, dark=100.0, engine=engine), together[k])
    two = predict_counts(net, counts[1:], dark=100.0, engine=engine)
    np.testing.assert_array_equal(two, together[1:])
    standard = np.stack([standardise(log_counts(f, 100.0)) for f in counts])
    whole = predict(net, standard, engine=engine)
    np.testing.assert_array_equal(predict(net, standard[2], engine=engine), whole[2])
    np.testing.assert_allclose(whole, together, atol=1e-4)


def test_predict__leaves_the_network_as_it_was() -> None:
    net = compact().train()
    predict(net, np.zeros((64, 64), np.float32))
    log_odds(net, lambda part: np.zeros((part.stop - part.start, 1, 64, 64), np.float32), 3)
    assert net.training
    assert not any(part.inplace for part in net.modules() if isinstance(part, torch.nn.ReLU))


def test_predict__never_answers_with_weights_of_before() -> None:
    net, counts = net_of("compact"), frames(1)
    changed = compact()
    changed.load_state_dict(net.state_dict())
    for engine in BOTH:
        before = predict_counts(changed, counts, dark=100.0, temperature=20.0, engine=engine)  # type: ignore[arg-type]
        with torch.no_grad():
            changed.score.bias.data[WEAK] += 1.0  # not even torch counts such a change
        after = predict_counts(changed, counts, dark=100.0, temperature=20.0, engine=engine)  # type: ignore[arg-type]
        np.testing.assert_allclose(logit(after) - logit(before), 1 / 20, atol=1e-4)


def test_session__is_made_once_for_the_same_weights() -> None:
    engines._session.cache_clear()
    for _ in range(3):
        predict_counts(load(shipped())[0], frames(1), dark=100.0, engine="onnxruntime")
    assert engines._session.cache_info().misses == 1


def test_chosen__is_told_and_the_same_every_time() -> None:
    for net in (compact(), published()):
        assert chosen(net, device="cpu") == ("onnxruntime", "cpu")
        assert chosen(net, "torch", "cpu") == ("torch", "cpu")
        assert (
            engine_of(net, device="cpu") == f"onnxruntime {importlib.import_module('onnxruntime').__version__} on cpu"
        )
    assert chosen(resnet18(), device="cpu") == ("torch", "cpu")
    assert engine_of(resnet18(), device="cpu") == f"torch {torch.__version__} on cpu"
    assert batch_of(compact(), "torch") > batch_of(published(), "torch")


def test_chosen__is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    net, counts = net_of("compact"), frames(1)
    options: dict[str, Any] = {"dark": 100.0, "temperature": 20.0}
    wanted = {e: predict_counts(net, counts, **options, engine=e) for e in BOTH}
    assert not np.array_equal(wanted["torch"], wanted["onnxruntime"])  # they differ in the last bits
    np.testing.assert_array_equal(predict_counts(net, counts, **options, device="cpu"), wanted["onnxruntime"])
    monkeypatch.setattr(engines, "_installed", lambda: False)
    assert chosen(net, device="cpu") == ("torch", "cpu")
    np.testing.assert_array_equal(predict_counts(net, counts, **options, device="cpu"), wanted["torch"])
    with pytest.raises(InputError, match=r"engine onnxruntime: is not installed; install dfxm_dask\[fast\]"):
        predict_counts(net, counts, **options, engine="onnxruntime")


def test_engines__refuse_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    frame = np.zeros((64, 64), np.float32)
    for options, words in (
        ({"engine": "onnx"}, r"engine 'onnx': is unknown.*use one of auto, torch, onnxruntime"),
        ({"engine": "onnxruntime", "device": "cuda"}, "engine onnxruntime on cuda: runs on a processor only"),
        ({"device": "cuda"}, "device cuda: torch detects no GPU here; use cpu or auto"),
        ({"batch": 0}, "batch of patches: is 0; give at least 1"),
    ):
        for call in (predict, lambda net, seen, **o: predict_counts(net, seen, dark=0.0, **o)):
            with pytest.raises(InputError, match=words):
                call(compact(), frame, **options)  # type: ignore[operator]


def test_onnx_model__refuses_layers_that_it_has_no_words_for() -> None:
    with torch.device("meta"):
        others = [resnet18(), vgg16()]
    odd = network("published")
    odd[0].dilation = (2, 2)
    unusual = network("published")
    next(part for part in unusual if isinstance(part, torch.nn.MaxPool2d)).ceil_mode = True
    for net in (*others, odd, unusual, torch.nn.Sequential(torch.nn.ReLU())):
        with pytest.raises(InputError, match="does not support all layers of this network; use engine torch"):
            onnx_model(net)


def test_onnx_model__is_the_same_for_the_same_weights() -> None:
    torch.manual_seed(0)
    one, other = published(), published()
    assert onnx_model(one) == onnx_model(one)
    assert onnx_model(one) != onnx_model(other)


@pytest.mark.parametrize("name", ["compact", "published"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
def test_on_device__is_the_path_of_the_processor(name: str, dtype: type) -> None:
    net, counts = net_of(name), (frames(2) // (1 if dtype is np.uint16 else 4)).astype(dtype)
    if dtype is np.uint16:
        counts[0, :3, :5] = 65535  # above what fits into 16 bits with a sign
    lit = np.random.default_rng(1).random(counts.shape[1:]) < 0.7
    there = on_device(net, "cpu", 64, lit, precision=torch.float32)
    table = log_table(20.0, dtype)
    p = predict_counts(net, counts, dark=20.0, lit=lit, engine="torch", temperature=20.0)
    for frame, wanted in zip(counts, p, strict=True):
        found = there(frame, table)
        np.testing.assert_allclose(found, 20 * logit(wanted.astype(np.float64)).ravel(), atol=1e-4)
    standard = standardise(log_counts(counts[0], 20.0), lit)
    np.testing.assert_allclose(there(standard, None), there(counts[0], table), atol=1e-4)


def test_on_device__of_small_and_dark_frames() -> None:
    net = net_of("compact")
    for counts in (frames(1, (20, 50))[0], frames(1, (9, 100))[0], np.full((64, 64), 7, np.uint16)):
        found = on_device(net, "cpu", 64, precision=torch.float32)(counts, log_table(5.0, np.uint16))
        wanted = predict_counts(net, counts, dark=5.0, engine="torch", temperature=20.0).astype(np.float64)
        np.testing.assert_allclose(found, 20 * logit(wanted).ravel(), atol=1e-4)
    unlit = on_device(net, "cpu", 64, np.zeros((64, 64), bool), torch.float32)
    assert np.isfinite(unlit(np.full((64, 64), 7, np.uint16), log_table(5.0, np.uint16))).all()


def test_on_device__in_half_precision_stays_close() -> None:
    net, counts = net_of("compact"), frames(2)
    wanted = predict_counts(net, counts, dark=100.0, engine="torch")
    there = on_device(net, "cpu", 64)  # half precision, as on a GPU
    found = np.stack([expit(there(f, log_table(100.0, np.uint16))) for f in counts]).reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, atol=0.01)
    assert not np.array_equal(found, wanted)


def test_predict__takes_the_path_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    net, counts = net_of("compact"), frames(2)
    monkeypatch.setattr(inference, "chosen", lambda *_: ("torch", "elsewhere"))
    monkeypatch.setattr(
        inference, "on_device", lambda n, place, size, lit=None: on_device(n, "cpu", size, lit, torch.float32)
    )
    found = predict_counts(net, counts, dark=100.0)
    standard = predict(net, np.stack([standardise(log_counts(f, 100.0)) for f in counts]))
    monkeypatch.undo()
    wanted = predict_counts(net, counts, dark=100.0, engine="torch")
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(standard, wanted, atol=1e-4)


def test_import__of_engines_is_light() -> None:
    program = (
        "import sys, dfxm_dask.beams.network.inference, dfxm_dask.beams.network.weights;"
        "print(sorted({'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    told: dict[str, Any] = {"training": {}, "scores": {}, "temperature": 1.0, "architecture": {"name": "compact"}}
    return save(tmp_path / "ours.safetensors", compact(), **told)


def test_load__reads_files_once_that_lie_still(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SETTLED", -1.0)
    first = load(saved)

    def refused(path: Path) -> bytes:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert load(saved) == first
    assert load(str(saved), patch=64, channels=1, architecture="compact") == first
    with pytest.raises(InputError, match="for patch 74: are for 64"):
        load(saved, patch=74)


def test_load__does_not_trust_files_that_were_written_just_now(saved: Path) -> None:
    load(saved)
    assert saved not in weights._STAMPS


def test_load__sees_weights_of_equal_size_and_time(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SETTLED", -1.0)
    first, told = load(saved)
    kept, content = os.stat(saved), bytearray(saved.read_bytes())
    time.sleep(0.05)
    content[-1] ^= 1
    saved.write_bytes(content)
    os.utime(saved, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert (os.stat(saved).st_size, os.stat(saved).st_mtime_ns) == (kept.st_size, kept.st_mtime_ns)
    with pytest.raises(InputError, match=r"are not those that ours\.json describes"):
        load(saved)
    beside = saved.with_suffix(".json")
    beside.write_text(beside.read_text().replace(told["sha256"], hashlib.sha256(content).hexdigest()))
    assert load(saved)[0] is not first
    beside.write_text(beside.read_text().replace('"temperature": 1.0', '"temperature": 2.0'))
    assert load(saved)[1]["temperature"] == 2.0
    beside.unlink()
    with pytest.raises(InputError, match="is not beside them"):
        load(saved)
