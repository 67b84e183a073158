"""Train the network that proposes candidates: simulate single lines, train, calibrate, score, write.

``python scripts/train_identify.py --cache FOLDER`` takes about 12 minutes of one core. Images are those of
:mod:`dfxm_dask.identify.images` for crystals at random angles about a {111} scattering vector; light sheet, core, tail,
blur, tilt, position, rocking angles, brightness and noise are random. Held-out and test lines belong to other crystals.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from torch import nn

from dfxm_dask.identify.catalogue import Candidates, catalogue, opposite
from dfxm_dask.identify.images import ScanOptics, line_images, line_tables, scan_optics
from dfxm_dask.identify.network import (
    COLUMNS,
    FILE,
    PHI,
    PITCH,
    ROWS,
    architecture,
    features_of,
    input_of,
    save,
    temperature,
    weights_of,
)
from dfxm_dask.optics.forward import setting
from dfxm_dask.optics.geometry import orientation, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import find_microscope

HKL = (-1, 1, -1)
CELL = 4.0495e-4  # um
SCOPE = find_microscope("id06_al111")
SIZES = {"train": (400, 100, 1), "held_out": (60, 50, 2), "test": (60, 50, 3)}
"""Crystals, lines of each, and seed."""
GAIN, READ_NOISE = 2.14, 11.9
BRIGHT = (50.0, 3000.0)
NONE = 0.05  # fraction of the lines without contrast
CRYSTALS, LINES = 4, 24  # of a batch
STEPS, RATE = 1200, 2e-3
MIRROR = np.array([1.0, -1, 1])


class Lines(NamedTuple):
    """Images of lines without noise, (n, 8, 60, 40), with the variance of the mean of their frames over that of one."""

    images: torch.Tensor
    share: torch.Tensor
    classes: np.ndarray
    crystal: np.ndarray
    turn: np.ndarray


def candidates_at(turn: float) -> Candidates:
    """Catalogue of the crystal at an angle about its scattering vector, on the axes of the store."""
    found = catalogue()
    grain = rotation_y(-SCOPE.theta) @ rotation_z(turn) @ orientation(HKL)
    return Candidates(CELL * found.burgers @ grain.T, found.line @ grain.T, found.plane_normal @ grain.T, found.angle)


def mirrored(candidates: Candidates) -> Candidates:
    """Candidates whose images are those of the given ones with y reversed."""
    return candidates._replace(burgers=candidates.burgers * MIRROR, line=-candidates.line * MIRROR)


def dark() -> np.ndarray:
    """Whether a candidate has no contrast: screws with g·b = 0."""
    found = catalogue()
    across = np.linalg.norm(np.cross(found.burgers, found.line), axis=1)
    return (np.abs(found.burgers @ np.array(HKL)) < 1e-9) & (across < 1e-9)


def scan_of(rng: np.random.Generator) -> np.ndarray:
    """Rocking angles of a scan: those of the input, the scan of 31 steps of 0.002 degree, or steps at random."""
    kind = rng.integers(3)
    if kind == 0:
        return PHI
    if kind == 1:
        return np.deg2rad(0.002 * np.array([k for k in range(-15, 16) if abs(k) > 4]))
    step = np.deg2rad(rng.uniform(0.0015, 0.0045))
    phi = step * (np.arange(-22, 23) + rng.uniform(-0.5, 0.5))
    return phi[weights_near(phi)]


def weights_near(phi: np.ndarray) -> np.ndarray:
    """Whether a frame contributes to the input."""
    return np.asarray((weights_of(phi) > 0).any(0))


def optics_of(phi: np.ndarray, rng: np.random.Generator) -> ScanOptics:
    """Optics with a light sheet and tail at random; a third has no shear along the diffracted beam."""
    at = setting(SCOPE.theta)
    if rng.uniform() < 0.35:
        at = replace(at, shear=np.array([0.0, 0, 1]))
    sheet = rng.choice([0.05, 0.1, 0.15, 0.15, 0.2, 0.2, 0.3, 0.5])
    tail = float(rng.choice([0.0, 0.1, 0.2, 0.3]))
    scope = replace(SCOPE, sheet=sheet / 2.355)
    return scan_optics(scope, at, {"phi": phi}, pitch=PITCH, heights=9, dense=33, tail=tail)


def ideal(kind: str) -> Lines:
    """Images without noise relative to the perfect crystal."""
    crystals, each, seed = SIZES[kind]
    rng, absent = np.random.default_rng(seed), dark()
    y, x = ((np.arange(n) - (n - 1) / 2) * p for n, p in zip((ROWS, COLUMNS), PITCH, strict=True))
    count, none = crystals * each, len(absent)
    images = np.empty((count, len(PHI), ROWS, COLUMNS), np.float16)
    share = np.empty((count, len(PHI)), np.float32)
    classes = np.where(rng.uniform(size=count) < NONE, none, rng.integers(none, size=count))
    turns = rng.uniform(0, 2 * np.pi, crystals)
    for k, which in enumerate(classes):
        if k % each == 0:
            found = candidates_at(turns[k // each])
        if k % 10 == 0:
            phi = scan_of(rng)
            optics, weight = optics_of(phi, rng), weights_of(phi)
            table = line_tables(found, rng.uniform(0.31, 0.36), rng.choice([1e-3, 1e-3, 1.4e-3, 5e-3]))
            out = np.empty((len(phi), ROWS, COLUMNS))
        row = table[min(which, none - 1)].copy()
        if which == none:
            row[11:13] = 0.0
        middle = np.array([rng.uniform(-0.5, 0.5) * x[-1], rng.uniform(-0.5, 0.5) * y[-1], rng.uniform(-0.1, 0.1)])
        tilt = np.array([rng.normal(0, 1.5e-5), *rng.normal(0, 4e-6, 2)])
        line_images(
            y, x, row, np.array([row[:3] @ middle, row[3:6] @ middle]), tilt, optics, out, np.empty((0, 0, 0, 0))
        )
        soft = rng.uniform(0.6, 1.6)
        images[k] = gaussian_filter(np.einsum("af,fyx->ayx", weight, out), (0, 0.5 * soft, soft))
        share[k] = (weight**2).sum(1)
    classes[np.append(absent, False)[classes]] = none
    return Lines(
        torch.from_numpy(images), torch.from_numpy(share), classes, np.repeat(np.arange(crystals), each), turns
    )


def noisy(
    images: torch.Tensor, share: torch.Tensor, rng: np.random.Generator, bright: tuple[float, float] = BRIGHT
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of the network: counts of a camera at a random brightness."""
    count = len(images)
    level = torch.from_numpy(np.exp(rng.uniform(*np.log(bright), (count, 1, 1, 1)))).float()
    flux = torch.from_numpy(np.exp(0.01 * rng.normal(size=(count, len(PHI), 1, 1)))).float()
    rows = 1 + 0.05 * gaussian_filter(rng.normal(size=(count, 1, ROWS, 1)), (0, 0, 1, 0))
    diffuse = torch.from_numpy(np.exp(rng.uniform(0, np.log(30), (count, 1, 1, 1)))).float()
    signal = (images.float() * level * flux + diffuse) * torch.from_numpy(rows).float()
    spread = ((GAIN * signal.clamp(min=0) + READ_NOISE**2) / 2 * share[:, :, None, None]).sqrt()
    normal = torch.randn(signal.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
    counts = signal + spread * normal
    counts -= counts[..., ::2, ::2].flatten(2).median(2).values[..., None, None]
    return tuple(torch.from_numpy(part) for part in input_of(counts.numpy()))


def features(turns: np.ndarray) -> torch.Tensor:
    """Features (crystal, 2, candidate, feature) of the candidates and of their mirror images."""
    at = setting(SCOPE.theta)
    made = [[features_of(c, at) for c in (found, mirrored(found))] for found in map(candidates_at, turns)]
    return torch.from_numpy(np.array(made))


def logits_of(
    network: nn.Module, lines: Lines, seed: int, bright: tuple[float, float] = BRIGHT
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of images with fresh noise, and their contrast over noise."""
    rng, known, network = np.random.default_rng([7, seed]), features(lines.turn), network.eval()
    parts, strengths = [], []
    with torch.inference_mode():
        for k in np.unique(lines.crystal):
            rows = lines.crystal == k
            frames, strength = noisy(lines.images[rows], lines.share[rows], rng, bright)
            parts.append(network(frames, strength, known[k, 0]))
            strengths.append(strength)
    return torch.cat(parts).numpy().astype(np.float64), torch.cat(strengths).numpy().astype(np.float64)


def probabilities(logits: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Softmax of the logits over temperatures."""
    scaled = logits / temperatures[:, None]
    made = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(made / made.sum(1, keepdims=True))


def calibrated(logits: np.ndarray, strength: np.ndarray, classes: np.ndarray) -> list[float]:
    """Coefficients of the temperature with the least mean negative logarithm of the probability of the true class."""

    def loss(fitted: np.ndarray) -> float:
        made = probabilities(logits, temperature(strength, list(fitted)))
        return float(-np.log(made[np.arange(len(classes)), classes] + 1e-30).mean())

    return [float(v) for v in minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 200}).x]


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


def cached(folder: Path, kind: str) -> Lines:
    """Images of the cache, simulated once."""
    path = folder / f"lines-{kind}-{'-'.join(map(str, SIZES[kind]))}.npz"
    if not path.exists():
        made = ideal(kind)
        np.savez(path, **{k: np.asarray(v) for k, v in made._asdict().items()})
    with np.load(path) as kept:
        return Lines(*(torch.from_numpy(kept[k]) if k in ("images", "share") else kept[k] for k in Lines._fields))


def trained(lines: Lines) -> nn.Module:
    """Network after the training."""
    known, pairs = features(lines.turn), np.append(opposite(catalogue()), len(dark()))
    network = architecture().to(memory_format=torch.channels_last)
    begun, rng = time.process_time(), np.random.default_rng(11)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    each, losses = len(lines.classes) // len(lines.turn), []
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 20) / 100) * (0.5 + 0.5 * np.cos(np.pi * step / STEPS)) + 1e-6
        network.train()
        which = rng.choice(len(lines.turn), CRYSTALS, replace=False)
        rows = np.concatenate([k * each + np.sort(rng.choice(each, LINES, replace=False)) for k in which])
        batch, share, target = lines.images[rows], lines.share[rows], lines.classes[rows]
        # A rotation by 180 degree and the reversal of phi each exchange b and -b.
        half, back = rng.uniform(size=(2, len(rows))) < 0.5
        batch[half] = batch[half].flip(-1, -2)
        batch[back], share[back] = batch[back].flip(1), share[back].flip(1)
        target = torch.from_numpy(np.where(half ^ back, pairs[target], target)).view(CRYSTALS, -1)
        mirror = rng.integers(2, size=CRYSTALS)
        batch = batch.view(CRYSTALS, -1, *batch.shape[1:])
        batch = torch.stack([one.flip(-2) if m else one for one, m in zip(batch, mirror, strict=True)]).flatten(0, 1)
        frames, strength = noisy(batch, share, rng)
        image = network.image(frames.to(memory_format=torch.channels_last), strength).view(CRYSTALS, LINES, -1)
        made = network.candidate(known[which, mirror])
        logits = torch.cat([image[..., :-1] @ made.transpose(1, 2) / made.shape[-1] ** 0.5, image[..., -1:]], dim=2)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) % 100 == 0:
            used = time.process_time() - begun
            print(f"{used:.0f} s, step {len(losses)}, loss {np.mean(losses[-100:]):.3f}", flush=True)
    return network.to(memory_format=torch.contiguous_format)


def main() -> None:
    """Simulate, train, calibrate, score, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for simulated images, kept for later runs")
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    begun = time.process_time()
    data = {kind: cached(asked.cache, kind) for kind in SIZES}
    print(f"images: {time.process_time() - begun:.0f} s", flush=True)
    network = trained(data["train"])
    fitted = calibrated(*logits_of(network, data["held_out"], 1), data["held_out"].classes)
    about = {
        "script": "scripts/train_identify.py",
        "microscope": "id06_al111",
        "theta": SCOPE.theta,
        "family": [1, 1, 1],
        "burgers": CELL / np.sqrt(2),
        "temperature": fitted,
        "lines": len(data["train"].classes),
        "seen": STEPS * CRYSTALS * LINES,
        "seconds": round(time.process_time() - begun),
    }
    for level in (100.0, 300.0, 1000.0):
        logits, strength = logits_of(network, data["test"], 2, (level, level))
        print(level, np.percentile(strength, [5, 50, 95]).round(2))
        about[f"scores_{level:.0f}"] = scores(
            probabilities(logits, temperature(strength, fitted)), data["test"].classes
        )
    path = save(asked.out, network, about)
    print(json.dumps(about, indent=1), path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
