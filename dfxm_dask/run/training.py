"""Training of network weights on labelled frames of stores: selection of patches, and the record of the training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from dfxm_dask import __version__
from dfxm_dask.beams.classify import dark_level
from dfxm_dask.beams.local_peak import local_peak
from dfxm_dask.beams.network import weights
from dfxm_dask.beams.network.inference import log_odds
from dfxm_dask.beams.network.labels import LabelledBox, box_labels, lit_patches, prior_labels
from dfxm_dask.beams.network.networks import one_thread
from dfxm_dask.beams.network.scores import brightness_baseline, brightness_probability, evaluate
from dfxm_dask.beams.network.training import train
from dfxm_dask.beams.network.training_patches import labelled_patches, seen_patches, whole_patches
from dfxm_dask.beams.patches import check_grid
from dfxm_dask.beams.prior import AMBIGUOUS, STRONG, UNLIT, WEAK, frame_places, rocking_axis
from dfxm_dask.errors import InputError
from dfxm_dask.frames import background, normalise
from dfxm_dask.run.events import many
from dfxm_dask.run.labels import Frames, LabelledScan, open_scans, place_labels, read_labels
from dfxm_dask.run.scan_remarks import scales_apart
from dfxm_dask.schema import EXPOSURE, MONITOR, PATCH
from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.store.output_paths import refuse_folder

if TYPE_CHECKING:
    import torch

MOST_PATCHES = 6000
"""Maximum number of patches: training takes some minutes on two cores (our choice, by measurement)."""

MOST_LAYERS = 32
"""Maximum number of layers labelled by truth or rocking curve; a layer of 31 full frames takes seconds (our choice)."""

REFERENCE = ("lit", "peak_local", "width_local", "has_weak_beam")
"""Variables of the group beams: light mask, local peak and width, and whether a layer has a weak beam."""

STEADY = 0.05
"""Relative standard deviation of the beam monitor in a layer above which frames are normalised before rocking curves
are computed (our choice)."""

FINE_TUNED = {"rate": 1e-4, "patience": 6}
AT_RANDOM = {"rate": 2e-3, "patience": 12}
"""Settings with and without initial weights (our choice, by measurement). Of eighteen draws of six frames of another
instrument none became worse at a rate of 1e-4, and three did at 3e-4; with thousands of patches both rates suit."""


def _layers(scans: Sequence[LabelledScan]) -> list[tuple[int, int]]:
    """Layers of all scans; an evenly spaced selection if there are too many."""
    every = [(s, k) for s, scan in enumerate(scans) for k in range(scan.counts.sizes["z"])]
    chosen = np.unique(np.linspace(0, len(every) - 1, min(len(every), MOST_LAYERS)).round().astype(int))
    return [every[k] for k in chosen]


def _has_reference(scan: LabelledScan) -> bool:
    """Whether the store has a local reference of frames on one scale; for uneven frames this is not certain."""
    raw = scan.tree["raw"].data_vars
    return (
        not scales_apart({n: np.asarray(raw[n]) for n in (MONITOR.name, EXPOSURE.name) if n in raw})
        and "beams" in scan.tree
        and all(name in scan.tree["beams"].data_vars for name in REFERENCE)
    )


def _reference(scan: LabelledScan, k: int, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Light mask, local peak and half width of a layer: from the store, or else from the kernels."""
    if _has_reference(scan):
        return {name: np.asarray(scan.tree["beams"].dataset[name].isel(z=k)) for name in REFERENCE}
    units = scan.counts["x"].attrs.get("units")
    if units != "um":
        raise InputError(
            f"training on {scan.path}: coordinate 'x'",
            f"has units {units!r}: the effective pixel is unknown",
            f"set it with dfxm-dask calibrate {scan.path} --pixel-size Y,X",
        )
    seen, positions = _scan_last(counts), scan.positions
    frames = scan.tree["frames"].dataset if "frames" in scan.tree else {}
    noise = np.asarray(frames["noise"].isel(z=k)) if "noise" in frames else None
    level = np.asarray(frames["background_map"].isel(z=k)) if "background_map" in frames else None
    raw = scan.tree["raw"].dataset
    monitor = np.asarray(raw["monitor"].isel(z=k), np.float64) if "monitor" in raw else np.empty(0)
    if monitor.size and (monitor > 0).all() and monitor.std() > STEADY * monitor.mean():
        middle = float(np.median(monitor))
        seen = normalise.kernel(seen, positions, monitor, by="monitor", reference=middle, offset=dark_level(seen))[
            "counts"
        ]
        level = None  # it belongs to counts before normalisation
    if level is None:
        level = background.kernel(seen, positions, noise=noise)["background_map"]
    y, x = (np.asarray(scan.counts[d], np.float64) for d in ("y", "x"))
    made = local_peak.kernel(seen, positions, y, x, level, noise)
    return {name: made[name] for name in REFERENCE}


def _scan_last(counts: np.ndarray) -> np.ndarray:
    return np.moveaxis(counts, (-2, -1), (0, 1))


def _layer_labels(
    scan: LabelledScan, k: int, source: str, drawn: Mapping[int, list[LabelledBox]], reference: Mapping[str, np.ndarray]
) -> np.ndarray:
    """All labels (frame, patch_y, patch_x) of a layer, before any selection."""
    grid, frames = lit_patches(reference["lit"]).shape, int(np.prod(scan.counts.shape[1:-2]))
    if source == "truth":
        label = np.asarray(scan.tree["truth"].dataset["label"].isel(z=k)).reshape(frames, *grid)
        return np.where(whole_patches(scan.shape), label, AMBIGUOUS).astype(np.uint8)
    if source == "prior":
        if not reference["has_weak_beam"]:
            return np.full((frames, *grid), AMBIGUOUS, np.uint8)
        axis = rocking_axis("training", scan.positions)
        peak = np.where(reference["lit"], reference["peak_local"], np.nan)
        return prior_labels(peak, reference["width_local"], scan.positions[axis])[frame_places(scan.positions, axis)]
    label = np.full((frames, *grid), AMBIGUOUS, np.uint8)
    for frame, boxes in drawn.items():
        label[frame] = box_labels(boxes, scan.shape, source=source)
    return label


def _drawn(label: np.ndarray, most: int, chance: np.random.Generator) -> np.ndarray:
    """The labels after a random selection of at most ``most`` patches of each class."""
    label = label.copy()
    for kind in (WEAK, STRONG):
        places = np.flatnonzero(label.ravel() == kind)
        if places.size > most:
            label.ravel()[chance.permutation(places)[most:]] = AMBIGUOUS
    return label


def gather(
    scans: Sequence[LabelledScan], labels: str, *, most: int, seed: int, dark: float | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Labelled patches of the scans with their layers, and a record of the selection.

    Parameters
    ----------
    scans : sequence of LabelledScan
    labels : str
        "truth", "prior" or a file of labels.
    most : int
        Maximum number of patches. Each layer contributes at most an equal share of each class, drawn at random.
    seed : int
    dark : float, count, optional
        Level without beam; by default the darkest patch of each layer, as in the classification.

    Returns
    -------
    patches : dict
        As :func:`dfxm_dask.beams.network.training_patches.labelled_patches` returns them, with ``groups``.
    about : dict
        ``layers`` (store and z of each group), ``weak`` and ``strong`` ([selected, labelled] each), ``unlit`` (labels
        without light, omitted), ``without_weak_beam`` (layers without labels by rocking curve, since they have no weak
        beam), ``of_layers``, ``dark`` (of each layer).

    Raises
    ------
    InputError
        A store without truth, an invalid file, or no patch with both a label and light.
    """
    drawn: Frames = {}
    if labels == "truth":
        for scan in scans:
            if "truth" not in scan.tree or "label" not in scan.tree["truth"].data_vars:
                raise InputError(
                    f"labels truth of {scan.path}", "the store contains no truth", "use --labels prior, or give a file"
                )
            sizes = scan.tree["truth"].dataset["label"].sizes
            check_grid("labels truth", (sizes["patch_y"], sizes["patch_x"]), scan.shape)
    if labels in ("truth", "prior"):
        layers = _layers(scans)
    else:
        axes = list(dict.fromkeys(axis for scan in scans for axis in scan.axes))
        drawn = place_labels(read_labels(labels, axes), scans, Path(labels))
        layers = sorted(drawn)
        if len(layers) == 1:
            s, k = layers[0]
            raise InputError(
                f"labels {labels}",
                f"all belong to the layer z {float(scans[s].counts['z'][k]):g} of {scans[s].name}",
                "label frames of a second layer: one layer is held out for validation",
            )
    share = max(1, most // (2 * len(layers)))
    parts: list[dict[str, np.ndarray]] = []
    about: dict[str, Any] = {
        "layers": [{"store": scans[s].name, "z": float(scans[s].counts["z"][k])} for s, k in layers],
        "of_layers": sum(scan.counts.sizes["z"] for scan in scans),
        "weak": [0, 0],
        "strong": [0, 0],
        "unlit": 0,
        "without_weak_beam": 0,
        "dark": [],
    }
    for group, (s, k) in enumerate(layers):
        scan, layer = scans[s], scans[s].counts.isel(z=k)
        # The layer is read whole if its light mask or dark level is unknown, else frame by frame.
        whole = dark is None or not _has_reference(scan)
        counts = np.asarray(layer) if whole else np.empty((*layer.shape[:-2], 0, 0), layer.dtype)
        reference = _reference(scan, k, counts)
        level = dark_level(_scan_last(counts)) if dark is None else dark
        given = _layer_labels(scan, k, labels, drawn.get((s, k), {}), reference)
        lit = lit_patches(reference["lit"])
        taken = _drawn(np.where(lit, given, UNLIT), share, np.random.default_rng([seed, group]))
        about["without_weak_beam"] += int(labels == "prior" and not reference["has_weak_beam"])
        about["unlit"] += int((np.isin(given, (WEAK, STRONG)) & ~lit).sum())
        for kind, name in ((WEAK, "weak"), (STRONG, "strong")):
            about[name][0] += int((taken == kind).sum())
            about[name][1] += int(((given == kind) & lit).sum())
        about["dark"].append(level)
        wanted = np.flatnonzero(np.isin(taken, (WEAK, STRONG)).any(axis=(1, 2)))
        places = [np.unravel_index(f, layer.shape[:-2]) for f in wanted] if layer.ndim > 2 else [()] * wanted.size
        images = [counts[p] if whole else np.asarray(layer[tuple(map(int, p))]) for p in places]
        if not images:
            continue
        found = labelled_patches(
            np.stack(images), taken[wanted], dark=level, lit=reference["lit"], shifted=labels != "truth"
        )
        parts.append({**found, "groups": np.full(len(found["labels"]), group)})
    if not parts:
        if about["without_weak_beam"]:
            why = f"{about['without_weak_beam']} of {many(len(layers), 'layer')} have no weak beam"
            raise InputError(f"labels {labels}", why, "scan further into the tails, or label frames in a file")
        raise InputError(
            f"labels {labels}", "no weak or strong patch is lit", "label more frames where the sample diffracts"
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, about


def train_weights(
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    labels: str,
    start: str = "compact",
    architecture: str | None = None,
    epochs: int = 20,
    seed: int = 0,
    most: int = MOST_PATCHES,
    dark: float | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train weights on labelled frames and write them with a record of the training.

    Parameters
    ----------
    stores : sequence of paths
        Scans of the training data.
    out : path
        NAME.safetensors; NAME.json is written beside this file.
    labels : str
        "truth" (of simulated scans), "prior" (the rocking curve, where it is unambiguous) or a file of labels.
    start : str
        Initial weights: the name of packaged weights, a safetensors file, or "none".
    architecture : str, optional
        Must be that of the initial weights; without these "compact" by default.
    epochs, seed : int
    most : int
        Maximum number of patches.
    dark : float, count, optional
        Level without beam; by default the darkest patch of each layer.
    overwrite : bool
        Replace existing weights.
    say : callable
        Receives a line of text before the first epoch and after every epoch.

    Returns
    -------
    dict
        Content of NAME.json. Its ``scores`` contain, for the held-out layers, ``held_out``, ``brightness`` (a
        classifier by brightness alone) and, with initial weights, ``start``.

    Raises
    ------
    InputError
        The weights exist or cannot be read, labels are invalid, or labels are too few: see :func:`gather` and
        :func:`dfxm_dask.beams.network.training.train`.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"weights {out}", f"end in {out.suffix!r}", "name the file with .safetensors")
    if not overwrite and (out.exists() or out.with_suffix(".json").exists()):
        raise InputError(f"weights {out}", "already exist", "use --overwrite, or name another file")
    refuse_folder(out.parent, "--out NAME.safetensors")
    if epochs < 1 or most < 2:
        raise InputError("training", f"epochs={epochs}, most={most}", "give at least 1 epoch and 2 patches")
    if seed < 0 or (dark is not None and not math.isfinite(dark)):
        raise InputError("training", f"seed={seed}, dark={dark}", "give a seed of 0 or more, and counts without beam")
    begun, known = _start(start, architecture)
    scans = open_scans(stores)
    data, about = gather(scans, labels, most=most, seed=seed, dark=dark)
    say(patch_line(about))
    form = known.get("architecture", {"name": architecture or "compact", "options": {}})
    net, record = train(
        data["patches"],
        data["labels"],
        data["groups"],
        levels=data["levels"],
        dark=data["dark"],
        architecture=form["name"],
        options=form.get("options"),
        start=begun,
        epochs=epochs,
        seed=seed,
        progress=lambda row: say(epoch_line(row)),
        **(AT_RANDOM if begun is None else FINE_TUNED),  # type: ignore[arg-type]
    )
    aside = np.isin(data["groups"], record["training"]["held_out_layers"])
    held, rest = ({name: values[m] for name, values in data.items()} for m in (aside, ~aside))
    fit = brightness_baseline(_seen(rest), rest["labels"])
    scores = {
        "held_out": record["scores"],
        "brightness": evaluate(brightness_probability(fit, _seen(held)), held["labels"]),
    }
    if begun is not None:
        with one_thread():
            odds = log_odds(begun, lambda part: _seen({n: v[part] for n, v in held.items()}), len(held["labels"]))
        scores["start"] = evaluate(expit(odds.astype(np.float64) / known["temperature"]), held["labels"])
        if not record["training"]["best_epoch"] and scores["start"]["log_loss"] <= record["scores"]["log_loss"]:
            record["temperature"], scores["held_out"] = (
                known["temperature"],
                scores["start"],
            )  # determined from many more patches
    import torch

    training = {
        "stores": [{"name": s.name, "content": _content(s)} for s in scans],
        "labels": _source(labels),
        "drawn": about,
        "start": {"name": Path(start).name, "digest": known["digest"]} if begun is not None else None,
        "versions": {"dfxm_dask": __version__, "torch": torch.__version__.split("+")[0], "numpy": np.__version__},
        **record["training"],
    }
    weights.save(
        out,
        net,
        architecture=record["architecture"],
        training=training,
        scores=_json(scores),
        temperature=record["temperature"],
    )
    return weights.facts(out)


def _start(start: str, architecture: str | None) -> tuple[torch.nn.Module | None, dict[str, Any]]:
    if start == "none":
        return None, {}
    path = Path(start) if start.endswith(".safetensors") else weights.shipped(start)
    net, known = weights.load(path, patch=PATCH, channels=1)
    if architecture is not None and architecture != known["architecture"]["name"]:
        raise InputError(
            f"training of {architecture!r}",
            f"the initial weights are of {known['architecture']['name']!r}",
            "use --start none, or leave out the architecture",
        )
    return net, known


def _seen(data: Mapping[str, np.ndarray]) -> np.ndarray:
    return seen_patches(data["patches"], data["levels"], data["dark"])


def _content(scan: LabelledScan) -> dict[str, str]:
    """Digests of the steps of a store, from the provenance of its groups."""
    return {
        f"{group}/{step}": str(record.get("digest", ""))
        for group in ("raw", "truth", "beams")
        if group in scan.tree
        for step, record in recorded_steps(scan.tree[group].attrs).items()
    }


def _source(labels: str) -> dict[str, str]:
    if labels in ("truth", "prior"):
        return {"source": labels}
    return {"source": Path(labels).name, "sha256": hashlib.sha256(Path(labels).read_bytes()).hexdigest()}


def _json(value: Any) -> Any:
    """Values with null instead of NaN, which JSON lacks; the recall of an absent class is NaN."""
    if isinstance(value, dict):
        return {name: _json(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def patch_line(about: Mapping[str, Any]) -> str:
    """Line with the numbers of selected and of labelled patches."""
    parts = [f"{taken} of {total} {name}" for name, (taken, total) in ((n, about[n]) for n in ("weak", "strong"))]
    left = f"; {about['unlit']} labels belong to patches without light" if about["unlit"] else ""
    if about["without_weak_beam"]:
        left += f"; {many(about['without_weak_beam'], 'layer')} without a weak beam gave no labels"
    return f"patches: {' and '.join(parts)}, of {len(about['layers'])} of {about['of_layers']} layers{left}"


def epoch_line(row: Mapping[str, float]) -> str:
    """Line for one row of the learning curve."""
    return (
        f"epoch {row['epoch']:.0f}: loss {row['train_loss']:.4f}, held out {row['held_out_loss']:.4f}, "
        f"accuracy {100 * row['held_out_accuracy']:.2f} %"
    )


def shortcomings(scores: Mapping[str, Any]) -> list[str]:
    """Warnings about weights that are not better than the initial ones, or than brightness alone."""
    found, words = scores["held_out"], []
    rivals = {"start": "the initial weights", "brightness": "brightness alone"}
    for name, called in rivals.items():
        if name in scores:
            other = scores[name]
            if (found["accuracy"], -found["log_loss"]) <= (other["accuracy"], -other["log_loss"]):
                words.append(
                    f"NOT BETTER than {called} on the held-out layers: accuracy {100 * found['accuracy']:.2f} % and "
                    f"{100 * other['accuracy']:.2f} %, log loss {found['log_loss']:.4f} and {other['log_loss']:.4f}"
                )
    counts = found.get("confusion", {}).get("counts", [[1], [1]])
    if not all(map(sum, counts)):
        words.append(
            f"the held-out layers contain one class only: {counts}; label both classes there, or the scores mean little"
        )
    return words
