"""Train the network that proposes candidates: simulate single lines, train, calibrate, score, write.

``python scripts/train_identify.py --cache FOLDER`` takes about 15 minutes of one core. Images are those of
:mod:`dfxm_dask.identify.images` on 120 x 40 pixels, with tilt, position, brightness, blur and noise of a camera at
random. Test lines share no seed with the training lines.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from dfxm_dask.identify.catalogue import Candidates, catalogue, opposite
from dfxm_dask.identify.images import line_images, line_tables, scan_optics
from dfxm_dask.identify.network import FILE, SIZE, architecture, input_of, save
from dfxm_dask.optics.forward import setting
from dfxm_dask.optics.geometry import effective_pixel, orientation, rotation_y
from dfxm_dask.optics.instrument.microscope import find_microscope

HKL = (-1, 1, -1)
CELL = 4.0495e-4  # um
PHI = np.deg2rad(0.002 * np.array([-13, -10, -8, -6, 6, 8, 10, 13.0]))
SHAPE = (120, 40)
TRAIN, HELD_OUT, TEST = 16000, 1500, 2500
SEEDS = {"train": 1, "held_out": 2, "test": 3}
GAIN, READ_NOISE, BLUR = 2.14, 11.9, 1.2
NONE = 0.05  # fraction of the lines without contrast
BATCH, MINUTES = 64, 8.0


def crystal() -> tuple[np.ndarray, float]:
    """Rotation from the crystal to the laboratory, and the Bragg angle."""
    theta = find_microscope("id06_al111").theta
    return rotation_y(-theta) @ orientation(HKL, np.array([1.0, 0, -1])), theta


def ideal(kind: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images without noise relative to the perfect crystal, (line, frame, 40, 40), and their classes."""
    rng = np.random.default_rng(SEEDS[kind])
    grain, theta = crystal()
    found = catalogue()
    turned = Candidates(CELL * found.burgers @ grain.T, found.line @ grain.T, found.plane_normal @ grain.T, found.angle)
    scope = find_microscope("id06_al111")
    py, px = effective_pixel(scope.pixel, theta)
    y, x = (np.arange(n) * p - (n - 1) * p / 2 for n, p in zip(SHAPE, (py, px), strict=True))
    sheets = [replace(scope, sheet=fwhm / 2.355) for fwhm in (0.15, 0.2)]
    optics = [scan_optics(s, setting(theta), {"phi": PHI}, heights=7, tail=tail) for s in sheets for tail in (0.0, 0.2)]
    table = line_tables(turned, 0.334)
    images = np.empty((count, len(PHI), SIZE, SIZE), np.float16)
    classes = np.where(rng.uniform(size=count) < NONE, len(found.angle), rng.integers(len(found.angle), size=count))
    out = np.empty((len(PHI), *SHAPE))
    for k, which in enumerate(classes):
        middle = np.array([rng.uniform(-0.4, 0.4) * x[-1], rng.uniform(-0.4, 0.4) * y[-1], rng.uniform(-0.08, 0.08)])
        row = table[min(which, len(table) - 1)].copy()
        if which == len(table):
            row[11:13] = 0.0
        tilt = np.array([rng.normal(0, 1.5e-5), *rng.normal(0, 3.5e-6, 2)])
        at = np.array([row[:3] @ middle, row[3:6] @ middle])
        line_images(y, x, row, at, tilt, optics[rng.integers(len(optics))], out, np.empty((0, 0, 0, 0)))
        soft = gaussian_filter(out, (0, BLUR, BLUR))
        images[k] = soft.reshape(len(PHI), SIZE, SHAPE[0] // SIZE, SIZE).mean(2)
    # A screw with g·b = 0 has no contrast.
    dark = np.abs(found.burgers @ np.array(HKL)) < 1e-9
    dark &= np.linalg.norm(np.cross(found.burgers, found.line), axis=1) < 1e-9
    classes[np.append(dark, False)[classes]] = len(found.angle)
    return images, classes


def noisy(images: torch.Tensor, rng: np.random.Generator, bright: tuple[float, float] = (100, 1000)) -> torch.Tensor:
    """Inputs of the network: counts of a camera at a random brightness."""
    count = len(images)
    level = torch.from_numpy(np.exp(rng.uniform(*np.log(bright), (count, 1, 1, 1)))).float()
    flux = torch.from_numpy(np.exp(0.01 * rng.normal(size=(count, len(PHI), 1, 1)))).float()
    signal = images.float() * level * flux + 1.5
    rows = 1 + 0.05 * gaussian_filter(rng.normal(size=(count, 1, SIZE, 1)), (0, 0, 1, 0))
    signal = signal * torch.from_numpy(rows).float()
    sigma = ((GAIN * signal.clamp(min=0) + READ_NOISE**2) / (SHAPE[0] // SIZE)).sqrt()
    counts = (signal + sigma * torch.from_numpy(rng.standard_normal(signal.shape, np.float32))).numpy()
    return torch.from_numpy(input_of(counts))


def logits_of(network: nn.Module, images: torch.Tensor, seed: int) -> np.ndarray:
    """Logits of images with fresh noise."""
    rng = np.random.default_rng([7, seed])
    network.eval()
    with torch.inference_mode():
        parts = [network(noisy(images[k : k + 256], rng)) for k in range(0, len(images), 256)]
    return torch.cat(parts).numpy().astype(np.float64)


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the logits over a temperature."""
    scaled = logits / temperature
    made = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(made / made.sum(1, keepdims=True))


def calibrated(logits: np.ndarray, classes: np.ndarray) -> float:
    """Temperature of the smallest mean negative logarithm of the probability of the true class."""
    grid = np.geomspace(0.5, 4.0, 61)
    loss = [-np.log(probabilities(logits, t)[np.arange(len(classes)), classes] + 1e-30).mean() for t in grid]
    return float(grid[int(np.argmin(loss))])


def scores(probability: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Recall of the first candidates and error of the calibration, of lines with contrast; and of "none"."""
    none = probability.shape[1] - 1
    lit = classes < none
    order = np.argsort(-probability[:, :none], axis=1)
    rank = np.argmax(order[lit] == classes[lit, None], axis=1)
    sure, right = probability.max(1), probability.argmax(1) == classes
    bins = np.minimum((sure * 10).astype(int), 9)
    error = sum(abs(sure[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    out = {f"top_{k}": float((rank < k).mean()) for k in (1, 5, 20, 50)}
    out |= {"calibration_error": float(error)}
    if (~lit).any():
        out["none_found"] = float((probability[~lit, none] > 0.5).mean())
        out["lines_called_none"] = float((probability[lit, none] > 0.5).mean())
    return out


def cached(folder: Path, kind: str, count: int) -> tuple[torch.Tensor, np.ndarray]:
    """Images of the cache, simulated once."""
    path = folder / f"lines-{kind}-{count}.npz"
    if not path.exists():
        images, classes = ideal(kind, count)
        np.savez(path, images=images, classes=classes)
    with np.load(path) as kept:
        return torch.from_numpy(kept["images"]), kept["classes"]


def main() -> None:
    """Simulate, train, calibrate, score, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for simulated images, kept for later runs")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of processor time for training")
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    data = {k: cached(asked.cache, k, n) for k, n in zip(SEEDS, (TRAIN, HELD_OUT, TEST), strict=True)}
    images, classes = data["train"]
    count = len(catalogue().angle)
    pairs = np.append(opposite(catalogue()), count)
    network = architecture(len(PHI), count + 1).to(memory_format=torch.channels_last)
    begun, rng = time.process_time(), np.random.default_rng(11)
    limit, seen = 60 * asked.minutes, 0
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    losses: list[float] = []
    while (used := time.process_time() - begun) < limit:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (used + 5) / 20) * (0.5 + 0.5 * np.cos(np.pi * used / limit)) + 1e-6
        network.train()
        rows = rng.integers(len(images), size=BATCH)
        batch, target = images[np.sort(rows)], classes[np.sort(rows)]
        half = rng.uniform(size=BATCH) < 0.5  # -b: the image is rotated by 180 degree
        batch[half] = batch[half].flip(-1, -2)
        target = np.where(half, pairs[target], target)
        logits = network(noisy(batch, rng).to(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(target), label_smoothing=0.02)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        seen += BATCH
        if len(losses) % 200 == 0:
            print(f"{used:.0f} s, {seen} lines, loss {np.mean(losses[-200:]):.3f}", flush=True)
    network = network.to(memory_format=torch.contiguous_format)
    temperature = calibrated(logits_of(network, data["held_out"][0], 1), data["held_out"][1])
    test = probabilities(logits_of(network, data["test"][0], 2), temperature)
    figures = scores(test, data["test"][1])
    grain, _ = crystal()
    about = {
        "script": "scripts/train_identify.py",
        "classes": count + 1,
        "hkl": list(HKL),
        "grain": grain.tolist(),
        "phi": PHI.tolist(),
        "temperature": temperature,
        "lines": TRAIN,
        "seen": seen,
        "seconds": round(time.process_time() - begun),
        "scores": figures,
    }
    path = save(asked.out, network, about)
    print(json.dumps({k: v for k, v in about.items() if k not in ("grain", "phi")}), path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
