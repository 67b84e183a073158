"""Training of the networks on labelled frames, and calibration of their probabilities.

A network sees log(1 + counts above the dark level), standardised per frame over lit pixels. Patches for training are
kept as counts, so that gain and dark level can be jittered before the logarithm; 256 quantiles of the lit counts of
the frame tell what standardisation would do to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from dfxm_dask.beams.network.inference import log_odds
from dfxm_dask.beams.network.networks import STRONG, WEAK, network, one_thread
from dfxm_dask.beams.network.scores import calibrated_temperature, evaluate
from dfxm_dask.beams.patches import check_grid, gather_patches, patch_starts
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH

if TYPE_CHECKING:
    import torch

LEVELS = 256
"""Quantiles that stand for the brightness of a frame (our choice)."""

WARMEST = 3.0
"""Limit of the temperature, and its reciprocal the other one: weights that were stopped by their log loss need no more.
Networks of six labelled frames, another instrument, were calibrated best at 2.1 to 3.1 (our choice, by measurement)."""

TRUTH = (1, 2)
"""Weak and strong in the labels of a simulated layer, in the order of CLASSES."""


def whole_patches(shape: tuple[int, int], size: int = PATCH) -> np.ndarray:
    """Which patches lie on the lattice, neither shifted back nor continued by reflection: (patch_y, patch_x), bool.

    Examples
    --------
    >>> whole_patches((64, 150)).tolist()
    [[True, True, False]]
    """
    on = [(s % size == 0) & (s + size <= n) for s, n in zip(patch_starts(shape, size), shape, strict=True)]
    return np.asarray(on[0][:, None] & on[1][None, :])


def labelled_patches(
    frames: np.ndarray,
    labels: np.ndarray,
    *,
    dark: float | np.ndarray,
    lit: np.ndarray | None = None,
    size: int = PATCH,
    labelled: Sequence[int] = TRUTH,
    shifted: bool = False,
) -> dict[str, np.ndarray]:
    """Patches of a layer that are weak or strong without doubt, with what is needed to train on them.

    Parameters
    ----------
    frames : array (frame, y, x)
        Raw counts, uint16 or float32.
    labels : array (frame, patch_y, patch_x), integer
        Of simulated layers: 1 weak, 2 strong. Whatever is neither is dropped.
    dark : float or array (frame,), count
        Level without beam.
    lit : array (y, x), bool, optional
        Pixels that the brightness of a frame is taken over; all by default.
    size : int, pixel
        Edge of a patch.
    labelled : (int, int)
        What stands for weak and for strong.
    shifted : bool
        Whether the labels of the last patches hold for where those are, shifted back to end with the frame. The labels
        of simulated layers hold for what would be beyond, so that these patches are dropped.

    Returns
    -------
    dict of arrays
        ``patches`` (n, size, size) raw counts, ``labels`` (n,) int64 in the order of CLASSES, ``levels``
        (n, 256) float32, quantiles of the lit counts of the frame, ``dark`` (n,) float32, ``frame`` (n,) int64.

    Raises
    ------
    InputError
        Labels that are not those of such frames.

    Examples
    --------
    >>> found = labelled_patches(np.zeros((1, 64, 128), np.uint16), np.array([[[1, 3]]]), dark=0)
    >>> found["patches"].shape, found["labels"].tolist(), found["levels"].shape
    ((1, 64, 64), [0], (1, 256))
    """
    frames, labels = np.asarray(frames), np.asarray(labels)
    if frames.ndim != 3 or labels.ndim != 3 or len(frames) != len(labels):
        raise InputError(
            "labelled patches", f"frames {frames.shape}, labels {labels.shape}", "give (frame, y, x) and one per patch"
        )
    shape = (frames.shape[1], frames.shape[2])
    check_grid("labels", labels.shape[1:], shape, size)
    whole = True if shifted else whole_patches(shape, size)
    level = np.broadcast_to(np.asarray(dark, np.float32), len(frames))
    at = (np.arange(LEVELS) + 0.5) / LEVELS
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("patches", "labels", "levels", "dark", "frame")}
    for k, (image, label) in enumerate(zip(frames, labels, strict=True)):
        kept = (np.isin(label, labelled) & whole).ravel()
        n = int(kept.sum())
        if not n:
            continue
        light = image[np.isfinite(image) if lit is None else np.isfinite(image) & lit]
        quantiles = np.quantile(light, at) if light.size else np.full(LEVELS, level[k])
        parts["patches"].append(gather_patches(image, size)[kept])
        parts["labels"].append(np.where(label.ravel()[kept] == labelled[0], WEAK, STRONG))
        parts["levels"].append(np.tile(quantiles.astype(np.float32), (n, 1)))
        parts["dark"].append(np.full(n, level[k], np.float32))
        parts["frame"].append(np.full(n, k))
    if not parts["labels"]:
        empty = {"patches": np.empty((0, size, size), frames.dtype), "levels": np.empty((0, LEVELS), np.float32)}
        return {name: empty.get(name, np.empty(0, np.float32 if name == "dark" else np.int64)) for name in parts}
    return {name: np.concatenate(values) for name, values in parts.items()}


def seen_patches(
    patches: np.ndarray,
    levels: np.ndarray,
    dark: np.ndarray,
    gain: np.ndarray | float = 1.0,
    offset: np.ndarray | float = 0.0,
) -> np.ndarray:
    """What a network sees of patches of counts.

    Parameters
    ----------
    patches, levels, dark : arrays
        Of :func:`labelled_patches`.
    gain : array (n,) or float
        By which counts above the dark level are multiplied.
    offset : array (n,) or float, count
        By which the dark level is wrong.

    Returns
    -------
    array (n, 1, size, size), float32
        log(1 + gain max(counts − dark − offset, 0)), less its mean and divided by its standard deviation over the lit
        pixels of the frame; 0 where a count is no number or the frame is constant.

    Examples
    --------
    >>> counts = np.array([[[1, 3]]], float)
    >>> seen_patches(np.expm1(counts), np.expm1([[1, 3.0]]), np.zeros(1)).tolist()
    [[[[-1.0, 1.0]]]]
    """
    n = len(patches)
    factor = np.broadcast_to(np.asarray(gain, np.float32), n)[:, None]
    below = (np.asarray(dark, np.float32) + np.broadcast_to(np.asarray(offset, np.float32), n))[:, None]
    lit = np.log1p(np.maximum(levels - below, 0) * factor)
    mean, spread = lit.mean(1, keepdims=True), lit.std(1, keepdims=True)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.maximum(1, np.abs(mean)))
    flat = patches.reshape(n, -1).astype(np.float32)
    found = (np.log1p(np.maximum(flat - below, 0) * factor) - mean) * scale
    return np.nan_to_num(found, nan=0.0).reshape(n, 1, *patches.shape[1:]).astype(np.float32)


def _split(labels: np.ndarray, groups: np.ndarray, held_out: Sequence[int] | None, seed: int) -> np.ndarray:
    names = np.unique(groups)
    if len(names) < 2:
        raise InputError(
            "training", "all patches are of one layer", "label frames of a second layer: one is held out to stop at"
        )
    if held_out is None:
        order = np.random.default_rng(seed).permutation(names)
        # What is held out should hold both classes; what is left must.
        held_out = []
        for g in sorted(order, key=lambda g: -len(np.unique(labels[groups == g]))):
            rest = labels[~np.isin(groups, [*held_out, g])]
            if len(held_out) < max(1, round(0.2 * len(names))) and len(np.unique(rest)) == 2:
                held_out.append(g)
        if not held_out:
            raise InputError(
                f"training on {len(names)} layers",
                "whichever is held out, the others hold patches of one class only",
                "label weak and strong patches in at least two layers",
            )
    unknown = sorted(set(map(int, held_out)) - set(map(int, names)))
    if unknown:
        raise InputError(
            f"training: held-out layers {unknown}", f"the patches are of layers {names.tolist()}", "name some of them"
        )
    aside = np.isin(groups, held_out)
    if not aside.any() or len(np.unique(labels[~aside])) < 2:
        raise InputError(
            f"training without layers {sorted(map(int, held_out))}",
            "patches of one class are left" if aside.any() else "nothing is held out",
            "label weak and strong patches in more layers",
        )
    return aside


def _light(chance: np.random.Generator, above: np.ndarray, gain: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Gains and errors of the dark level of a batch, whose levels above it are given."""
    n = len(above)
    factor, wrong = np.exp(chance.uniform(-gain, gain, n)), chance.uniform(-offset, offset, n)
    faint = chance.uniform(0, 1, n) * np.maximum(above[:, LEVELS // 50], 0)
    return factor, wrong + np.where(chance.uniform(size=n) < (1 / 3 if offset else 0), faint, 0)


def _turned(chance: np.random.Generator, seen: np.ndarray, brightness: float, flips: bool) -> np.ndarray:
    """A batch, each patch mirrored or not, and brighter or darker as a whole."""
    n = len(seen)
    seen = seen + chance.normal(0, brightness, (n, 1, 1, 1)).astype(np.float32)
    if flips:
        turn = chance.integers(0, 2, (n, 2), dtype=bool)
        seen[turn[:, 0]] = seen[turn[:, 0], :, ::-1]
        seen[turn[:, 1]] = seen[turn[:, 1], :, :, ::-1]
    return seen


def _temperature(odds: np.ndarray, labels: np.ndarray) -> float:
    """Temperature of the held-out patches, and of one typical patch a class that is taken for wrong.

    Without that patch a few labels, all found, would make every probability 0 or 1 (our choice, after the targets of
    Platt). The patches of a frame err together, so that one odd frame would take a small set to the other end: hence
    the limits.
    """
    classes = np.unique(labels)
    typical = [np.median(odds[labels == kind]) for kind in classes]
    found = calibrated_temperature(np.append(odds, typical), np.append(labels, WEAK + STRONG - classes))
    return float(np.clip(found, 1 / WARMEST, WARMEST))


def train(
    patches: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    levels: np.ndarray,
    dark: np.ndarray | float = 0.0,
    architecture: str = "compact",
    options: Mapping[str, Any] | None = None,
    start: torch.nn.Module | None = None,
    epochs: int = 20,
    seed: int = 0,
    batch: int = 32,
    rate: float = 2e-3,
    patience: int = 6,
    held_out: Sequence[int] | None = None,
    gain: float = 1.6,
    offset: float = 8.0,
    flips: bool = True,
    brightness: float = 0.1,
    class_weights: bool = True,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A network that was trained on labelled patches, stopped and calibrated on layers held out.

    Parameters
    ----------
    patches, levels, dark : arrays
        Of :func:`labelled_patches`.
    labels : array (n,), integer
        In the order of CLASSES.
    groups : array (n,), integer
        Layer of every patch. Patches of one layer are never on both sides.
    architecture : str
        One of :data:`dfxm_dask.beams.network.networks.ARCHITECTURES`.
    options : mapping, optional
        Of the architecture.
    start : torch.nn.Module, optional
        A network of this architecture whose weights to begin with, such as the shipped one; it is left as it is. Labels
        of a few frames are too few to begin with random weights. They are kept where no epoch has a lower loss on the
        held-out layers.
    epochs, batch : int
    seed : int
        Of weights, order, jitter and dropout. The same seed on the same machine gives the same weights.
    rate : float
        Largest learning rate of Adam, reached after a tenth of the batches, then falling along a cosine.
    patience : int
        Epochs without a lower loss on the held-out layers after which training stops.
    held_out : sequence of int, optional
        Layers to stop and calibrate on; a fifth of them by default, at least one.
    gain : float
        Half range of the natural logarithm of a gain per patch.
    offset : float, count
        Half range of an error of the dark level per patch; for every third patch all that is darker than a random
        level up to the faintest lit pixels goes as well, as if a background had been subtracted.
    flips : bool
        Mirror patches along y and x at random.
    brightness : float
        Standard deviation of a shift of every patch as a whole, in standard deviations of its frame.
    class_weights : bool
        Weak and strong patches weigh the same in all.
    progress : callable, optional
        Called with the row of the learning curve after every epoch.

    Returns
    -------
    network : torch.nn.Module
        With the weights of the lowest held-out loss.
    record : dict
        ``architecture``; ``training``: settings, numbers of patches, layers on both sides, ``best_epoch`` (0 where the
        weights to begin with were the best), ``curves`` from epoch 1 on; ``scores`` of the held-out layers after
        calibration; ``temperature``. It is what :func:`dfxm_dask.beams.network.weights.save` takes.

    Raises
    ------
    InputError
        Arrays of unequal length, labels that are neither class, one layer only, one class only, no epoch, weights to
        begin with that are of another architecture, or a rate at which the weights run away.
    """
    import torch

    labels, groups = np.asarray(labels, np.int64), np.asarray(groups)
    n = len(patches)
    lengths = {"labels": len(labels), "groups": len(groups), "levels": len(levels)}
    if set(lengths.values()) != {n}:
        raise InputError(f"training on {n} patches", f"there are {lengths}", "give one of each for every patch")
    if epochs < 1 or batch < 1:
        raise InputError("training", f"epochs={epochs}, batch={batch}", "give at least 1")
    if not np.isin(labels, (WEAK, STRONG)).all():
        raise InputError("training", f"labels {np.unique(labels).tolist()}", f"give {WEAK} (weak) or {STRONG} (strong)")
    aside = _split(labels, groups, held_out, seed)
    level = np.broadcast_to(np.asarray(dark, np.float32), n)
    inner, outer = np.flatnonzero(~aside), np.flatnonzero(aside)
    chance = np.random.default_rng(seed)
    share = np.bincount(labels[inner], minlength=2) / len(inner)
    curves: list[dict[str, float]] = []
    best, best_loss, best_odds, best_epoch = {}, np.inf, np.empty(0), 0

    def outer_odds(network: torch.nn.Module) -> np.ndarray:
        return log_odds(
            network,
            lambda part: seen_patches(patches[outer[part]], levels[outer[part]], level[outer[part]]),
            len(outer),
        )

    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        net: Any = network(architecture, **(options or {}))
        net.to(memory_format=torch.channels_last)
        if start is not None:
            try:
                net.load_state_dict(start.state_dict())
            except RuntimeError:
                asked = f"training of {architecture!r} with options {dict(options or {})}"
                remedy = "give the architecture and options of those weights"
                raise InputError(asked, "the weights to begin with are of another shape", remedy) from None
            best, best_odds = copy.deepcopy(net.state_dict()), outer_odds(net)
            best_loss = evaluate(expit(best_odds.astype(np.float64)), labels[outer])["log_loss"]
        weight = torch.tensor(0.5 / share if class_weights else np.ones(2), dtype=torch.float32)
        optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-4)
        steps = epochs * -(-len(inner) // batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: (
                min(1.0, (step + 1) / max(1.0, 0.1 * steps)) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))
            ),
        )
        for epoch in range(1, epochs + 1):
            net.train()
            order, total = chance.permutation(inner), 0.0
            for first in range(0, len(order), batch):
                some = order[first : first + batch]
                seen = seen_patches(
                    patches[some],
                    levels[some],
                    level[some],
                    *_light(chance, levels[some] - level[some, None], gain, offset),
                )
                seen = _turned(chance, seen, brightness, flips)
                given = torch.from_numpy(seen).contiguous(memory_format=torch.channels_last)
                optimiser.zero_grad(set_to_none=True)
                loss = torch.nn.functional.cross_entropy(net(given), torch.from_numpy(labels[some]), weight)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                total += len(some) * loss.item()
            odds = outer_odds(net)
            if not np.isfinite(odds).all():
                raise InputError(f"training, epoch {epoch}", "the weights have run away", "take a smaller rate")
            now = evaluate(expit(odds.astype(np.float64)), labels[outer])
            curves.append(
                {
                    "epoch": epoch,
                    "train_loss": total / len(inner),
                    "held_out_loss": now["log_loss"],
                    "held_out_accuracy": now["accuracy"],
                }
            )
            if progress is not None:
                progress(curves[-1])
            if now["log_loss"] < best_loss:
                best, best_loss, best_odds, best_epoch = copy.deepcopy(net.state_dict()), now["log_loss"], odds, epoch
            elif epoch - best_epoch >= patience:
                break
    net.load_state_dict(best)
    temperature = _temperature(best_odds, labels[outer])
    return net.eval(), {
        "architecture": {"name": architecture, "options": dict(options or {})},
        "training": {
            "seed": seed,
            "epochs": epochs,
            "best_epoch": best_epoch,
            "batch": batch,
            "rate": rate,
            "jitter": {"gain": gain, "offset": offset, "brightness": brightness, "flips": flips},
            "class_weights": class_weights,
            "patches": len(inner),
            "held_out_patches": len(outer),
            "layers": np.unique(groups[inner]).tolist(),
            "held_out_layers": np.unique(groups[outer]).tolist(),
            "curves": curves,
        },
        "scores": evaluate(expit(best_odds.astype(np.float64) / temperature), labels[outer]),
        "temperature": temperature,
    }
