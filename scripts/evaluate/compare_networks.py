"""Networks side by side: what each costs, and what it tells of layers that none of them saw.

``PYTHONPATH=scripts python scripts/evaluate/compare_networks.py --cache FOLDER`` trains every network of
:data:`NETWORKS` on the layers of ``scripts/train_beams.py``, prints the table of RESULTS.md, and draws accuracy against
cost. It takes hours on one core; each result is kept in the folder, and a second call goes on. ``--only NAME`` trains
and prints some of them.

All networks but that of the published protocol get patches of the same layers in the same form as ours, labelled patch
by patch, with the same jitter; so the table compares architectures. Epochs and patches are what a processor does in an
hour, and stand in the table. VGG16 is judged on every fourth patch; one of 128 px where its four labels agree, which is
easier, and one of 32 px by the upper left quarter of a patch. The published protocol is its own: six frames labelled as
a whole, unlit places included.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import large_networks  # noqa: F401  (makes resnet18 and vgg16 known)
import numpy as np
import torch
from scipy.special import expit
from train_beams import (
    EPOCHS,
    HELD_OUT,
    OURS,
    SEED,
    STOPPED_AT,
    gathered,
    input_of,
    layer,
    light_mask,
    simulate,
    trained_on,
)

from dfxm_dask.beams.network.networks import CLASSES, STRONG, WEAK, count_parameters, network, one_thread, published
from dfxm_dask.beams.network.scores import brightness_baseline, brightness_probability, evaluate
from dfxm_dask.beams.network.training import train
from dfxm_dask.beams.network.training_patches import labelled_patches
from dfxm_dask.beams.network.weights import save
from dfxm_dask.phantoms.phantom import StrongBeam

NETWORKS: dict[str, dict[str, Any]] = {
    "ours": {"name": "compact", "options": OURS, "epochs": EPOCHS, "patience": 12},
    "ours, half of the patches": {"name": "compact", "options": OURS, "epochs": EPOCHS, "patience": 12, "every": 2},
    "published, 6 frames labelled as a whole": {},
    "published, patch labels": {"name": "published", "epochs": 10, "rate": 1e-3, "every": 2},
    "ResNet18": {"name": "resnet18", "epochs": 4, "rate": 1e-3, "every": 2},
    "VGG16": {"name": "vgg16", "epochs": 3, "rate": 1e-4, "every": 16},
    "strided": {
        "name": "compact",
        "epochs": 10,
        "every": 2,
        "options": {"widths": [16, 32, 48, 48], "kernels": [5, 5, 5, 5], "strides": [2, 2, 2, 1]},
    },
    "patch embedding": {
        "name": "compact",
        "epochs": 10,
        "every": 2,
        "options": {"widths": [64, 64, 64], "kernels": [8, 3, 3], "strides": [8, 1, 1]},
    },
    "published, 32 px": {
        "name": "published",
        "options": {"patch": 32},
        "size": 32,
        "epochs": 6,
        "rate": 1e-3,
        "every": 2,
    },
    "published, 128 px": {
        "name": "published",
        "options": {"patch": 128},
        "size": 128,
        "epochs": 5,
        "rate": 1e-3,
        "every": 2,
    },
}
"""Architecture, epochs at most, edge of a patch, and every how many patches are taken."""

BEAM: StrongBeam = "smeared"
TESTS = {name: f"{name}-9[0-4]*-plain-{BEAM}.npz" for name in HELD_OUT} | {"shifted": f"hard-9*-shifted-{BEAM}.npz"}
"""The strong beam that networks are tested on, and the layers of each test."""

WHOLE = {"seeds": (960, 961), "shape": (512, 768), "frames": 3, "epochs": 50, "batch": 32, "rate": 1e-3}
"""The published protocol: layers of `hard`, frames of each class in all, and settings of the published code."""


def resized(data: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The same patches, each cut down to its upper left corner."""
    return {**data, "patches": data["patches"][:, :size, :size]}


def larger(cache: Path, pattern: str, size: int) -> dict[str, np.ndarray]:
    """Patches of several patches of 64 px that all have one label."""
    parts = []
    for path in sorted(cache.glob(pattern)):
        with np.load(path) as kept:
            frames, labels, dark = kept["frames"], kept["labels"], float(kept["dark"])
        n = size // 64
        cells = labels.reshape(len(labels), labels.shape[1] // n, n, labels.shape[2] // n, n)
        first = cells[:, :, :1, :, :1]
        joined = np.where((cells == first).all((2, 4)), first[:, :, 0, :, 0], 3)
        found = labelled_patches(frames, joined, dark=dark, lit=light_mask(frames, dark), size=size)
        parts.append({**found, "groups": np.full(len(found["labels"]), int(path.stem.split("-")[1]))})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def layers(cache: Path, size: int) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Patches to train on, and those of each set held out."""

    def of(pattern: str) -> dict[str, np.ndarray]:
        return larger(cache, pattern, size) if size > 64 else resized(gathered(cache, pattern), size)

    parts = [of(layer(job).name) for job in trained_on(cache)]
    held = {name: of(pattern) for name, pattern in TESTS.items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, held


def found_by(net: Any, seen: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probability of weak beam of patches."""
    with torch.inference_mode(), one_thread():
        net.eval().to(memory_format=torch.channels_last)
        parts = [
            net(torch.from_numpy(seen[k : k + 64]).contiguous(memory_format=torch.channels_last))
            for k in range(0, len(seen), 64)
        ]
    odds = torch.cat(parts).numpy().astype(np.float64)
    return np.asarray(expit((odds[:, WEAK] - odds[:, STRONG]) / temperature))


def speed(net: Any, size: int, batch: int, seconds: float = 3.0) -> float:
    """Patches per second of processor time on one thread; by a loop over single patches where ``batch`` is 0."""
    layout = torch.channels_last if batch else torch.contiguous_format
    net = net.eval().to(memory_format=layout)
    patches = torch.randn(max(batch, 1), 1, size, size).contiguous(memory_format=layout)
    with torch.inference_mode(), one_thread():
        for _ in range(2):
            net(patches)
        begun, count = time.process_time(), 0
        while time.process_time() - begun < seconds:
            net(patches)
            count += len(patches)
        return count / (time.process_time() - begun)


def one(name: str, cache: Path) -> dict[str, Any]:
    """Training and scores of one network."""
    asked = dict(NETWORKS[name])
    size, every = asked.pop("size", 64), asked.pop("every", 1)
    data, held = layers(cache, size)
    begun = time.process_time()

    def tell(row: dict[str, float]) -> None:
        print("   ", name, {k: round(v, 4) for k, v in row.items()}, f"{time.process_time() - begun:.0f} s", flush=True)

    given = {k: data[k][::every] for k in ("patches", "labels", "groups", "levels", "dark")}
    net, record = train(
        **given,
        architecture=asked.pop("name"),
        options=asked.pop("options", {}),
        seed=SEED,
        held_out=STOPPED_AT,
        progress=tell,
        **asked,
    )
    seconds = time.process_time() - begun
    save(
        kept(name, cache).with_suffix(".safetensors"),
        net,
        architecture=record["architecture"],
        patch=size,
        training=record["training"],
        scores=record["scores"],
        temperature=record["temperature"],
    )
    scores = {}
    for test, part in held.items():
        some = slice(None, None, 4 if every > 2 else 1)  # the largest take a second for a dozen patches
        part = {k: v[some] for k, v in part.items()}
        scores[test] = evaluate(found_by(net, input_of(part), record["temperature"]), part["labels"])
    return {
        "parameters": count_parameters(net),
        "size": size,
        "seconds": seconds,
        "patches": record["training"]["patches"],
        "epochs": len(record["training"]["curves"]),
        "speed": speed(net, size, 64 if size < 128 else 16),
        "scores": scores,
    }


def brightness(name: str, cache: Path) -> dict[str, Any]:
    """Scores of brightness alone: a quadratic logistic of mean and standard deviation of a patch."""
    data, held = layers(cache, 64)
    frame = name.endswith("frame")
    begun = time.process_time()
    weights = brightness_baseline(input_of(data, frame), data["labels"])
    seconds = time.process_time() - begun
    scores = {
        test: evaluate(brightness_probability(weights, input_of(part, frame)), part["labels"])
        for test, part in held.items()
    }
    patches = len(data["labels"])
    return {
        "parameters": 6,
        "size": 64,
        "seconds": seconds,
        "patches": patches,
        "epochs": 0,
        "speed": None,
        "scores": scores,
    }


def logarithms(frames: np.ndarray) -> np.ndarray:
    """Logarithm of raw counts, z-scored as a set: the published input, but that 0 counts as 1 and not as −inf."""
    seen = np.log(np.maximum(frames.astype(np.float32), 1))
    return np.asarray((seen - seen.mean()) / seen.std(), np.float32)


def blocks(frames: np.ndarray) -> np.ndarray:
    """Patches of 64 px, row by row: (frame × patch, 1, 64, 64)."""
    n, y, x = frames.shape
    return frames.reshape(n, y // 64, 64, x // 64, 64).swapaxes(2, 3).reshape(-1, 1, 64, 64)


def whole_frames(cache: Path) -> dict[str, Any]:
    """The published protocol: a class for each of six whole frames, 50 epochs, no regard for what is lit."""
    rng = np.random.default_rng(SEED)
    frames, labels = [], []
    for seed in WHOLE["seeds"]:
        with np.load(layer((str(cache), "hard", seed, "plain", BEAM), WHOLE["shape"])) as kept:
            counts, truth = kept["frames"], kept["labels"]
        strong = (truth == 2).sum((1, 2)) / np.maximum(np.isin(truth, (1, 2)).sum((1, 2)), 1)
        order = np.argsort(strong, kind="stable")
        # A person takes frames of each beam that look alike; here those whose truth is the most of one class.
        share = WHOLE["frames"] // 2 + (seed == WHOLE["seeds"][0])
        weak = rng.choice(order[strong[order] == 0], share, replace=False)
        for chosen, kind in ((weak, WEAK), (order[-share:], STRONG)):
            frames.append(counts[chosen])
            labels.append(np.full(len(chosen) * truth[0].size, kind))
    seen, label = blocks(logarithms(np.concatenate(frames))), np.concatenate(labels)
    begun = time.process_time()
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(SEED)
        net = published().to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(net.parameters(), lr=WHOLE["rate"])
        for epoch in range(WHOLE["epochs"]):
            net.train()
            right = 0
            for part in np.array_split(rng.permutation(len(label)), -(-len(label) // WHOLE["batch"])):
                given = torch.from_numpy(seen[part]).contiguous(memory_format=torch.channels_last)
                wanted = torch.from_numpy(label[part])
                optimiser.zero_grad(set_to_none=True)
                odds = net(given)
                torch.nn.functional.cross_entropy(odds, wanted).backward()
                optimiser.step()
                right += int((odds.argmax(1) == wanted).sum())
            print(f"    image labels, epoch {epoch + 1}: {right / len(label):.4f} right in training", flush=True)
    seconds = time.process_time() - begun
    scores, unlit = {}, {}
    for test, pattern in TESTS.items():
        probability, truths, dark = [], [], []
        for path in sorted(cache.glob(pattern)):
            with np.load(path) as kept:
                counts, truth = kept["frames"], kept["labels"]
            p = found_by(net, blocks(logarithms(counts))).reshape(truth.shape)
            lit = np.isin(truth, (1, 2))
            probability.append(p[lit])
            truths.append(np.where(truth[lit] == 1, WEAK, STRONG))
            dark.append(p[truth == 0])
        scores[test] = evaluate(np.concatenate(probability), np.concatenate(truths))
        none = np.concatenate(dark)
        unlit[test] = {"patches": int(none.size), "called_weak": float((none > 0.5).mean()) if none.size else None}
    return {
        "parameters": count_parameters(net),
        "size": 64,
        "seconds": seconds,
        "patches": len(label),
        "epochs": WHOLE["epochs"],
        "speed": speed(net, 64, 64),
        "scores": scores,
        "unlit": unlit,
        "training_accuracy": right / len(label),
        "loop": speed(net, 64, 0),
    }


def kept(name: str, cache: Path) -> Path:
    """Where the result of a network is kept; its weights lie beside it."""
    return cache / "compared" / f"{name.replace(' ', '_').replace(',', '')}.result"


def result(name: str, cache: Path) -> dict[str, Any]:
    """What is known of a network; trained where it is not known yet."""
    path = kept(name, cache)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        if name.startswith("brightness"):
            found = brightness(name, cache)
        else:
            found = whole_frames(cache) if not NETWORKS[name] else one(name, cache)
        path.write_text(json.dumps(found, indent=1))
    return dict(json.loads(path.read_text()))


def table(results: dict[str, dict[str, Any]]) -> str:
    """The lines of the table: cost, then accuracy (recall of weak / strong), calibration error of each set."""
    tests = list(next(iter(results.values()))["scores"])
    head = ["", "parameters", "patches × epochs", "training, s", "patches/s/core", *tests]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, r in results.items():
        cells = [
            name,
            f"{r['parameters']:,}",
            f"{r['patches']:,} × {r['epochs']}" if r["epochs"] else f"{r['patches']:,}",
            f"{r['seconds']:.0f}",
            f"{r['speed']:,.0f}" if r["speed"] else "",
        ]
        for test in tests:
            s = r["scores"][test]
            recalls = f"{100 * s['weak_recall']:.1f} / {100 * s['strong_recall']:.1f}"
            cells.append(f"{100 * s['accuracy']:.1f} ({recalls}), {s['calibration_error']:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Accuracy on `hard` and on the shifted instrument against the cost of a pixel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, constrained_layout=True)
    shown = {name: r for name, r in results.items() if r["speed"] and "half" not in name and "whole" not in name}
    beside = {"ours": (5, -11), "patch embedding": (-4, 7)}  # the names of the fastest would lie on each other
    for ax, test in zip(axes, ("hard", "shifted"), strict=True):
        for name, r in shown.items():
            cost = 1e9 / (r["speed"] * r["size"] ** 2)
            accuracy = 100 * r["scores"][test]["accuracy"]
            ax.plot(cost, accuracy, "o", color="#d55e00" if name == "ours" else "#0072b2")
            ax.annotate(name, (cost, accuracy), xytext=beside.get(name, (4, 4)), textcoords="offset points", fontsize=7)
        ax.set(xscale="log", xlim=(8, 1e5), xlabel="processor time of a pixel (ns)", title=f"unseen layers: {test}")
    axes[0].set_ylabel("accuracy of unambiguous patches (%)")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Train what is missing, measure speeds, then print and draw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for simulated layers and results")
    names = [*NETWORKS, "brightness, per frame", "brightness, per layer"]
    parser.add_argument(
        "--only", nargs="+", default=names, choices=names, metavar="NAME", help="some of: " + "; ".join(names)
    )
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    simulate(options.cache)
    results = {name: result(name, options.cache) for name in options.only}
    for name, asked in NETWORKS.items():  # all in one run: other work on the machine changes speeds
        if name in results:
            net = network(asked.get("name", "published"), **asked.get("options", {}))
            size = results[name]["size"]
            results[name]["speed"] = speed(net, size, 64 if size < 128 else 16)
    print(table(results))
    for name, r in results.items():
        if "unlit" in r:
            print(
                f"{name}: {r['training_accuracy']:.1%} right in training; of unlit patches are called {CLASSES[WEAK]}:",
                r["unlit"],
            )
            print(f"published network, loop over single patches: {r['loop']:.0f} patches/s/core")
    draw(results, options.cache / "accuracy_against_cost.png")


if __name__ == "__main__":
    main()
