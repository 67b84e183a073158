"""Training of the networks on labelled frames, and calibration of their probabilities."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import expit

from dfxm_dask.beams.network.inference import log_odds
from dfxm_dask.beams.network.networks import STRONG, WEAK, network, one_thread
from dfxm_dask.beams.network.scores import calibrated_temperature, evaluate
from dfxm_dask.beams.network.training_patches import LEVELS, seen_patches
from dfxm_dask.errors import InputError

if TYPE_CHECKING:
    import torch

WARMEST = 3.0
"""Upper limit of the temperature; its reciprocal is the lower one. Weights that were stopped by their log loss need no
higher one. Networks of six labelled frames of another instrument were calibrated best at 2.1 to 3.1 (our choice, by
measurement)."""


class _Labelled(NamedTuple):
    """Patches of counts, their classes, the lit counts of their frames and dark levels: arrays (n, …)."""

    patches: np.ndarray
    labels: np.ndarray
    levels: np.ndarray
    dark: np.ndarray

    def some(self, index: np.ndarray) -> _Labelled:
        """A selection of the patches."""
        return _Labelled(*(values[index] for values in self))


class _Jitter(NamedTuple):
    """Random variations of every patch during training: see :func:`train`."""

    gain: float
    offset: float
    brightness: float
    flips: bool


def _checked(
    patches: np.ndarray, labels: np.ndarray, groups: np.ndarray, levels: np.ndarray, dark: np.ndarray | float
) -> _Labelled:
    """The patches with all their data, checked.

    Raises
    ------
    InputError
        Arrays of unequal length, or labels of an unknown class.
    """
    n = len(patches)
    lengths = {"labels": len(labels), "groups": len(groups), "levels": len(levels)}
    if set(lengths.values()) != {n}:
        raise InputError(f"training on {n} patches", f"has {lengths}", "give one entry of each for every patch")
    if not np.isin(labels, (WEAK, STRONG)).all():
        raise InputError("training", f"labels {np.unique(labels).tolist()}", f"give {WEAK} (weak) or {STRONG} (strong)")
    return _Labelled(patches, labels, levels, np.broadcast_to(np.asarray(dark, np.float32), n))


def _split(
    labels: np.ndarray, groups: np.ndarray, held_out: Sequence[int] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the patches for training, and of those in the held-out layers."""
    names = np.unique(groups)
    if len(names) < 2:
        raise InputError(
            "training",
            "all patches are of one layer",
            "label frames of a second layer: one layer is held out to stop the training",
        )
    if held_out is None:
        order = np.random.default_rng(seed).permutation(names)
        # Held-out layers should contain both classes; the others must.
        held_out = []
        for g in sorted(order, key=lambda g: -len(np.unique(labels[groups == g]))):
            rest = labels[~np.isin(groups, [*held_out, g])]
            if len(held_out) < max(1, round(0.2 * len(names))) and len(np.unique(rest)) == 2:
                held_out.append(g)
        if not held_out:
            raise InputError(
                f"training on {len(names)} layers",
                "for every choice of held-out layers, the others contain patches of one class only",
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
            "patches of one class remain" if aside.any() else "no layer is held out",
            "label weak and strong patches in more layers",
        )
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def _jittered(chance: np.random.Generator, part: _Labelled, jitter: _Jitter) -> np.ndarray:
    """Input of a network for a batch with random gain, dark level, mirroring and brightness."""
    n = len(part.labels)
    gain, offset = jitter.gain, jitter.offset
    factor, wrong = np.exp(chance.uniform(-gain, gain, n)), chance.uniform(-offset, offset, n)
    faint = chance.uniform(0, 1, n) * np.maximum((part.levels - part.dark[:, None])[:, LEVELS // 50], 0)
    wrong = wrong + np.where(chance.uniform(size=n) < (1 / 3 if offset else 0), faint, 0)
    seen = seen_patches(part.patches, part.levels, part.dark, factor, wrong)
    seen = seen + chance.normal(0, jitter.brightness, (n, 1, 1, 1)).astype(np.float32)
    if jitter.flips:
        turn = chance.integers(0, 2, (n, 2), dtype=bool)
        seen[turn[:, 0]] = seen[turn[:, 0], :, ::-1]
        seen[turn[:, 1]] = seen[turn[:, 1], :, :, ::-1]
    return seen


def _temperature(odds: np.ndarray, labels: np.ndarray) -> float:
    """Temperature from the held-out patches, with one typical patch of each class counted as wrong.

    Without that patch a few labels, all classified correctly, would make every probability 0 or 1 (our choice, after
    the targets of Platt). Errors of patches of one frame are correlated, so that one unusual frame would dominate a
    small set: hence the limits.
    """
    classes = np.unique(labels)
    typical = [np.median(odds[labels == kind]) for kind in classes]
    temperature = calibrated_temperature(np.append(odds, typical), np.append(labels, WEAK + STRONG - classes))
    return float(np.clip(temperature, 1 / WARMEST, WARMEST))


def _batches(
    chance: np.random.Generator, data: _Labelled, index: np.ndarray, batch: int, jitter: _Jitter
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs of a network and classes of some patches in one epoch, in random order."""
    order = chance.permutation(index)
    for first in range(0, len(order), batch):
        part = data.some(order[first : first + batch])
        yield _jittered(chance, part, jitter), part.labels


def _begin(net: torch.nn.Module, start: torch.nn.Module, named: str) -> None:
    """Load the initial weights.

    Raises
    ------
    InputError
        Weights of another shape.
    """
    try:
        net.load_state_dict(start.state_dict())
    except RuntimeError:
        remedy = "give the architecture and options of those weights"
        raise InputError(f"training of {named}", "the initial weights have another shape", remedy) from None


def _odds(net: torch.nn.Module, data: _Labelled, index: np.ndarray) -> np.ndarray:
    """Log-odds of some of the patches by a network, without random variations."""

    def seen(part: slice) -> np.ndarray:
        some = data.some(index[part])
        return seen_patches(some.patches, some.levels, some.dark)

    return log_odds(net, seen, len(index))


def _scores(odds: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> dict[str, Any]:
    """Scores of log-odds at a temperature."""
    return evaluate(expit(odds.astype(np.float64) / temperature), labels)


def _optimiser(net: torch.nn.Module, rate: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW and its learning rate over all steps: rising during the first tenth, then falling along a cosine."""
    import torch

    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            min(1.0, (step + 1) / max(1.0, 0.1 * steps)) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        ),
    )
    return optimiser, schedule


def _learn(
    net: torch.nn.Module,
    optimisation: tuple[torch.optim.Optimizer, Any],
    weight: torch.Tensor,
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
) -> float:
    """One training epoch over batches of (network input, classes); returns the sum of the losses."""
    import torch

    optimiser, schedule = optimisation
    net.train()
    total = 0.0
    for seen, labels in batches:
        given = torch.from_numpy(seen).contiguous(memory_format=torch.channels_last)
        optimiser.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(given), torch.from_numpy(labels), weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += len(labels) * loss.item()
    return total


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
    """Network trained on labelled patches, stopped and calibrated on held-out layers.

    Parameters
    ----------
    patches, levels, dark : arrays
        See :func:`dfxm_dask.beams.network.training_patches.labelled_patches`.
    labels : array (n,), integer
        Class numbers, in the order of CLASSES.
    groups : array (n,), integer
        Layer of every patch. Patches of one layer are never divided between training and held-out data.
    architecture : str
        One of :data:`dfxm_dask.beams.network.networks.ARCHITECTURES`.
    options : mapping, optional
        Options of the architecture.
    start : torch.nn.Module, optional
        A network of this architecture whose weights are the initial ones, such as the shipped network; it is not
        changed. Labels of a few frames are too few to begin with random weights. The initial weights are returned if no
        epoch has a lower loss on the held-out layers.
    epochs, batch : int
    seed : int
        Seed of weights, order, random variations and dropout. Equal seeds on one machine give equal weights.
    rate : float
        Largest learning rate of Adam, reached after a tenth of the batches, then falling along a cosine.
    patience : int
        Number of epochs without a lower loss on the held-out layers after which training stops.
    held_out : sequence of int, optional
        Layers for stopping and calibration; by default a fifth of them, at least one.
    gain : float
        Half range of the natural logarithm of a gain per patch.
    offset : float, count
        Half range of an error of the dark level per patch; for every third patch, all counts below a random level up to
        the faintest lit pixels are removed as well, as if a background had been subtracted.
    flips : bool
        Mirror patches along y and x at random.
    brightness : float
        Standard deviation of a shift of every patch as a whole, in standard deviations of its frame.
    class_weights : bool
        Give weak and strong patches the same total weight.
    progress : callable, optional
        Called with the row of the learning curve after every epoch.

    Returns
    -------
    network : torch.nn.Module
        Network with the weights of the lowest held-out loss.
    record : dict
        ``architecture``; ``training``: settings, numbers of patches, layers on both sides, ``best_epoch`` (0 if the
        initial weights were the best), ``curves`` from epoch 1 on; ``scores`` of the held-out layers after calibration;
        ``temperature``. These are the arguments of :func:`dfxm_dask.beams.network.weights.save`.

    Raises
    ------
    InputError
        Arrays of unequal length, labels of an unknown class, one layer only, one class only, no epoch, initial weights
        of another architecture, or a rate at which the weights diverge.
    """
    import torch

    labels, groups = np.asarray(labels, np.int64), np.asarray(groups)
    data = _checked(patches, labels, groups, levels, dark)
    if epochs < 1 or batch < 1:
        raise InputError("training", f"epochs={epochs}, batch={batch}", "give at least 1")
    inner, outer = _split(labels, groups, held_out, seed)
    jitter = _Jitter(gain, offset, brightness, flips)
    chance = np.random.default_rng(seed)
    share = np.bincount(labels[inner], minlength=2) / len(inner)
    curves: list[dict[str, float]] = []
    best, best_loss, best_odds, best_epoch = {}, np.inf, np.empty(0), 0
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        net: Any = network(architecture, **(options or {}))
        net.to(memory_format=torch.channels_last)
        if start is not None:
            _begin(net, start, f"{architecture!r} with options {dict(options or {})}")
            best, best_odds = copy.deepcopy(net.state_dict()), _odds(net, data, outer)
            best_loss = _scores(best_odds, labels[outer])["log_loss"]
        weight = torch.tensor(0.5 / share if class_weights else np.ones(2), dtype=torch.float32)
        optimisation = _optimiser(net, rate, epochs * -(-len(inner) // batch))
        for epoch in range(1, epochs + 1):
            total = _learn(net, optimisation, weight, _batches(chance, data, inner, batch, jitter))
            odds = _odds(net, data, outer)
            if not np.isfinite(odds).all():
                raise InputError(f"training, epoch {epoch}", "the weights diverge", "use a smaller rate")
            now = _scores(odds, labels[outer])
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
            "jitter": jitter._asdict(),
            "class_weights": class_weights,
            "patches": len(inner),
            "held_out_patches": len(outer),
            "layers": np.unique(groups[inner]).tolist(),
            "held_out_layers": np.unique(groups[outer]).tolist(),
            "curves": curves,
        },
        "scores": _scores(best_odds, labels[outer], temperature),
        "temperature": temperature,
    }
