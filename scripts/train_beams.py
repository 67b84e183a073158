"""Create the weights that are part of the package: simulate labelled layers, train, calibrate, write.

``python scripts/train_beams.py --cache FOLDER`` takes about 5 minutes on two cores; ``--score FILE`` only scores other
weights on the same test. Half of the layers have the smeared strong beam, half the sharp one; without a strong beam no
patch has a label. Test layers share no seed with the training layers, and the shifted instrument none of its
constants. ``scripts/evaluate/compare_networks.py`` trains other networks on the same patches.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.special import expit

from dfxm_dask.beams.network.networks import one_thread
from dfxm_dask.beams.network.scores import brightness_baseline, brightness_probability, evaluate
from dfxm_dask.beams.network.training import train
from dfxm_dask.beams.network.training_patches import LEVELS, labelled_patches, seen_patches
from dfxm_dask.beams.network.weights import FOLDER, facts, load, save
from dfxm_dask.phantoms.phantom import Phantom, StrongBeam
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.render import render

SEED = 20261121
SHAPE = (256, 384)
TRAINED = {"hard": range(100, 114), "easy": range(200, 204), "multigrain": range(300, 304), "al002": range(400, 404)}
HELD_OUT = {"hard": range(900, 905), "easy": range(910, 913), "multigrain": range(920, 923), "al002": range(930, 933)}
SHIFTED = range(940, 945)
STRONG_BEAMS: tuple[StrongBeam, ...] = ("smeared", "sharp")
"""For even and odd training seeds; every test layer has both."""

STOPPED_AT = (104, 109, 113, 202, 303, 400)
"""Layers of the training set at which training stops and probabilities are calibrated."""

OURS: dict[str, Any] = {"widths": [32, 64, 64], "kernels": [4, 3, 3], "strides": [4, 2, 1]}
EPOCHS = 20


def varied(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """The same sample at another beamline: pixel, beam and camera drawn around those of the preset."""
    light, camera = phantom.lighting, phantom.detector
    pitch = rng.uniform(0.7, 1.25)
    return replace(
        phantom,
        pixel=(phantom.pixel[0] * pitch, phantom.pixel[1] * pitch),
        lighting=replace(
            light,
            flux=light.flux * np.exp(rng.uniform(-0.8, 0.7)),
            weak=light.weak * np.exp(rng.uniform(-0.5, 1.05)),
            diffuse=light.diffuse * np.exp(rng.uniform(-1.0, 0.7)),
            tail=light.tail * rng.uniform(0.5, 1.3),
            jitter=max(light.jitter, float(rng.choice([0.0, 1.6]))),
            drift=light.drift + rng.uniform(0, 0.1),
            stripes=min(light.stripes * rng.uniform(0.5, 3.0), 0.35),
        ),
        detector=replace(
            camera,
            gain=camera.gain * np.exp(rng.uniform(-0.7, 0.6)),
            read_noise=camera.read_noise * np.exp(rng.uniform(-0.7, 0.7)),
            psf=rng.uniform(0.6, 2.1),
            halo_fraction=rng.uniform(0.0, 0.03),
        ),
    )


def shifted(phantom: Phantom) -> Phantom:
    """An instrument outside the range of :func:`varied`: blurred, noisier, dimmer, with larger pixels."""
    light, camera = phantom.lighting, phantom.detector
    return replace(
        phantom,
        pixel=(phantom.pixel[0] * 1.3, phantom.pixel[1] * 1.3),
        lighting=replace(light, flux=light.flux * 0.4, weak=light.weak * 3, jitter=2.0, stripes=0.4),
        detector=replace(camera, gain=4.5, read_noise=14.0, psf=2.4, offset=310.0),
    )


Job = tuple[str, str, int, str, StrongBeam]
"""Folder, preset, seed, instrument and strong beam of a layer."""


def layer(job: Job, shape: tuple[int, int] = SHAPE) -> Path:
    """One layer of 31 frames in the cache: counts, labels, dark level."""
    cache, preset, seed, instrument, beam = job
    size = "" if shape == SHAPE else f"-{shape[0]}x{shape[1]}"
    path = Path(cache) / f"{preset}-{seed}-{instrument}-{beam}{size}.npz"
    if path.exists():
        return path
    (phantom,) = build(preset, layers=1, shape=shape, seed=seed, strong_beam=beam)
    if instrument == "varied":
        phantom = varied(phantom, np.random.default_rng([SEED, seed]))
    elif instrument == "shifted":
        phantom = shifted(phantom)
    frames, labels = [], []
    for counts, truth in render(phantom, 0):
        frames.append(counts)
        labels.append(truth["label"])
    camera = phantom.detector
    dark = camera.offset + camera.offset_rate * phantom.lighting.exposure
    partial = path.with_suffix(".partial.npz")  # so that an interrupted file is not used as a layer
    np.savez(partial, frames=np.stack(frames), labels=np.stack(labels), dark=dark)
    return partial.replace(path)


def trained_on(cache: Path) -> list[Job]:
    """The layers for training."""
    return [
        (str(cache), name, seed, "varied" if seed % 3 else "plain", STRONG_BEAMS[seed % 2])
        for name, seeds in TRAINED.items()
        for seed in seeds
    ]


def simulate(cache: Path) -> None:
    """Every layer that is missing in the cache, on two processes."""
    jobs = trained_on(cache)
    for beam in STRONG_BEAMS:
        jobs += [(str(cache), name, seed, "plain", beam) for name, seeds in HELD_OUT.items() for seed in seeds]
        jobs += [(str(cache), "hard", seed, "shifted", beam) for seed in SHIFTED]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(layer, jobs))


def light_mask(frames: np.ndarray, dark: float) -> np.ndarray:
    """Lit pixels of a layer: the smoothed sum exceeds a quarter of its 90th percentile."""
    total = ndimage.uniform_filter((frames.astype(np.float64) - dark).sum(0), 16)
    return np.asarray(total > 0.25 * np.quantile(total, 0.9))


def gathered(cache: Path, pattern: str) -> dict[str, np.ndarray]:
    """Labelled patches of all layers whose names match, and ``groups``, the seed of each."""
    parts = []
    for path in sorted(cache.glob(pattern)):
        with np.load(path) as kept:
            frames, labels, dark = kept["frames"], kept["labels"], float(kept["dark"])
        found = labelled_patches(frames, labels, dark=dark, lit=light_mask(frames, dark))
        parts.append({**found, "groups": np.full(len(found["labels"]), int(path.stem.split("-")[1]))})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def input_of(data: dict[str, np.ndarray], per_frame: bool = True) -> np.ndarray:
    """Input of a network for patches, standardised per frame, or per layer as published."""
    levels = data["levels"]
    if not per_frame:
        levels = levels.copy()
        for group in np.unique(data["groups"]):
            inside = data["groups"] == group
            frames = np.unique(data["frame"][inside], return_index=True)[1]
            light = levels[inside][frames].ravel()
            levels[inside] = np.quantile(light, (np.arange(LEVELS) + 0.5) / LEVELS)
    return seen_patches(data["patches"], levels, data["dark"])


def scored(net: Any, temperature: float, data: dict[str, np.ndarray]) -> dict[str, Any]:
    """Scores on layers that were not used for training."""
    seen = input_of(data)
    with torch.inference_mode(), one_thread():
        net.eval()
        logits = [net(torch.from_numpy(seen[k : k + 64])) for k in range(0, len(seen), 64)]
    weak, strong = torch.cat(logits).numpy().astype(np.float64).T
    return evaluate(expit((weak - strong) / temperature), data["labels"])


def tell(row: dict[str, float]) -> None:
    """A line of the learning curve."""
    print("   ", {name: round(value, 4) for name, value in row.items()}, file=sys.stderr, flush=True)


def tests(cache: Path) -> dict[str, dict[str, np.ndarray]]:
    """Patches that are not used for training, by preset and strong beam."""
    held = {
        f"{name}, {beam}": gathered(cache, f"{name}-9*-plain-{beam}.npz") for name in HELD_OUT for beam in STRONG_BEAMS
    }
    return held | {f"shifted, {beam}": gathered(cache, f"hard-9*-shifted-{beam}.npz") for beam in STRONG_BEAMS}


def told(name: str, found: dict[str, Any]) -> str:
    """Scores of one test in a line."""
    words = ("accuracy", "weak_recall", "strong_recall", "calibration_error")
    return f"{name}: " + ", ".join(f"{word} {found[word]:.4f}" for word in words)


def ship(net: Any, record: dict[str, Any], held: dict[str, dict[str, np.ndarray]], alone: np.ndarray) -> Path:
    """Save the weights in the package, with their scores on test layers."""
    scores = {"held_out": record["scores"]}
    for name, data in held.items():
        seen = input_of(data)
        scores[name] = scored(net, record["temperature"], data)
        bright = evaluate(brightness_probability(alone, seen), data["labels"])
        scores[name]["brightness_accuracy"] = bright["accuracy"]
    about = {
        "script": "scripts/train_beams.py",
        "simulated": {name: list(seeds) for name, seeds in TRAINED.items()},
        "strong_beams": {"even seeds": STRONG_BEAMS[0], "odd seeds": STRONG_BEAMS[1], "tested": list(STRONG_BEAMS)},
        "tested": {**{name: list(seeds) for name, seeds in HELD_OUT.items()}, "shifted": list(SHIFTED)},
        "frame": list(SHAPE),
        "versions": {"torch": torch.__version__.split("+")[0], "numpy": np.__version__},
        **record["training"],
    }
    return save(
        FOLDER / "compact.safetensors",
        net,
        architecture=record["architecture"],
        training=about,
        scores=scores,
        temperature=record["temperature"],
    )


def main() -> None:
    """Simulate, train, save, and print the scores; or score other weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for simulated layers, kept for later runs")
    parser.add_argument("--score", type=Path, metavar="FILE", help="weights to score; nothing is trained")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    simulate(options.cache)
    held = tests(options.cache)
    if options.score:
        net, about = load(options.score)
        print("\n".join(told(name, scored(net, about["temperature"], data)) for name, data in held.items()))
        return
    parts = [gathered(options.cache, layer(job).name) for job in trained_on(options.cache)]
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    print(f"{len(data['labels'])} patches for training, held out: { {k: len(v['labels']) for k, v in held.items()} }")
    given = {name: data[name] for name in ("patches", "labels", "groups", "levels", "dark")}
    begun = time.process_time()
    net, record = train(
        **given,
        architecture="compact",
        options=OURS,
        seed=SEED,
        held_out=STOPPED_AT,
        progress=tell,
        epochs=EPOCHS,
        patience=12,
    )
    seconds = time.process_time() - begun
    path = ship(net, record, held, brightness_baseline(input_of(data), data["labels"]))
    print(f"{path.name}: {path.stat().st_size} bytes, trained in {seconds:.0f} s, T = {record['temperature']:.3f}")
    print("\n".join(told(name, found) for name, found in facts(path)["scores"].items()))


if __name__ == "__main__":
    main()
