"""Fast proposal of candidates by a small convolutional network; the evidence decides among them.

The network was trained on simulated weak-beam frames of one crystal, orientation, reflection and set of rocking angles,
which its file records. It gives calibrated probabilities of all candidates of the catalogue and of no dislocation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dfxm_dask.errors import InputError

if TYPE_CHECKING:
    import torch

FILE = Path(__file__).with_name("proposals.safetensors")
WIDTHS = (24, 64, 96, 160)
SIZE = 40  # rows and columns of the input
CLIP = 4.0  # largest contrast of the input, in units of its root mean square (our choice)
ANGLE = 1e-6  # rad: largest difference of a rocking angle from those of the training
TURNED = 0.03  # largest difference of an element of the orientation: 2 degree (our choice)


class Proposal(NamedTuple):
    """Candidates in the order of their probability.

    Attributes
    ----------
    rows : array (top,), int64
        Rows of the catalogue, most likely first.
    probability : array (candidate,), float64
        Of every candidate of the catalogue.
    none : float
        Probability that no dislocation is visible.
    """

    rows: np.ndarray
    probability: np.ndarray
    none: float


def architecture(frames: int, classes: int) -> torch.nn.Module:
    """Untrained network: four convolutions, global average and maximum, one dense layer.

    Parameters
    ----------
    frames : int
        Frames of the scan, the channels of the input (n, frame, 40, 40).
    classes : int
        Candidates and "none", the logits of the output.

    Returns
    -------
    torch.nn.Module
    """
    from torch import nn

    a, b, c, d = WIDTHS

    class Pooled(nn.Module):
        """Average and maximum over the image."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            import torch

            return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)

    layers: list[nn.Module] = []
    for inner, outer, kernel, stride in ((frames, a, 5, 2), (a, b, 3, 2), (b, c, 3, 1), (c, d, 3, 2)):
        layers += [nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*layers, Pooled(), nn.Linear(2 * d, classes))


def input_of(counts: np.ndarray) -> np.ndarray:
    """Input of the network: contrast of all frames on a common scale.

    Parameters
    ----------
    counts : array (..., frame, y, x)
        Counts; NaN counts as the median of the frame. Rows and columns are averaged to 40 x 40, and a remainder that
        does not divide is cut off at the end.

    Returns
    -------
    array (..., frame, 40, 40), float32

    Raises
    ------
    InputError
        Fewer than 40 rows or columns.

    Examples
    --------
    >>> input_of(np.zeros((8, 120, 40))).shape
    (8, 40, 40)
    """
    *more, rows, columns = counts.shape
    if rows < SIZE or columns < SIZE:
        raise InputError(
            f"proposals: {rows} x {columns} pixels", "are too few", f"give a crop of {SIZE} x {SIZE} or more"
        )
    by, bx = rows // SIZE, columns // SIZE
    cut = np.asarray(counts, np.float32)[..., : SIZE * by, : SIZE * bx]
    lit = np.isfinite(cut)
    if lit.all():
        cut = cut - np.median(cut, axis=(-2, -1), keepdims=True)
    else:
        cut = np.where(lit, cut - np.nanmedian(cut, axis=(-2, -1), keepdims=True), 0.0)
    mean = cut.reshape(*more, SIZE, by, SIZE, bx).mean((-3, -1))
    scale = np.sqrt((mean**2).mean((-3, -2, -1), keepdims=True))
    return np.asarray(np.clip(mean / np.maximum(scale, 1e-9), -CLIP, CLIP), np.float32)


def save(path: Path, network: torch.nn.Module, about: dict[str, Any]) -> Path:
    """Weights with the facts of their training, as safetensors."""
    from safetensors.torch import save_file

    save_file(network.state_dict(), path, metadata={"about": json.dumps(about)})
    return path


def load(path: Path = FILE) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Network and the facts of its training.

    Raises
    ------
    InputError
        A file without these facts.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {}).get("about", "{}"))
        weights = {name: file.get_tensor(name) for name in file.keys()}
    if "classes" not in about:
        raise InputError(
            f"weights {path}", "do not record their training", "use the weights of scripts/train_identify.py"
        )
    network = architecture(len(about["phi"]), about["classes"])
    network.load_state_dict(weights)
    return network.eval(), about


def propose(
    counts: np.ndarray, phi: np.ndarray, grain: np.ndarray, hkl: tuple[int, ...], *, top: int = 20, path: Path = FILE
) -> Proposal:
    """Candidates that a trained network considers most likely.

    Parameters
    ----------
    counts : array (frame, y, x)
        Counts of a crop about one dislocation, 120 x 40 pixels of 0.04 x 0.12 um in the training.
    phi : array (frame,), rad
        Rocking angle of every frame from the peak; those of the training have to be among them.
    grain : array (3, 3)
        Rotation from the crystal to the axes of the store.
    hkl : 3 int
        Reflection.
    top : int
        Number of candidates.
    path : path
        Weights.

    Returns
    -------
    Proposal

    Raises
    ------
    InputError
        Another reflection, orientation or scan than that of the training: the caller then takes all candidates.
    """
    import torch

    network, about = load(path)
    if list(hkl) != about["hkl"] or np.abs(np.asarray(grain) - about["grain"]).max() > TURNED:
        remedy = "leave the proposals out, or train a network for this crystal with scripts/train_identify.py"
        raise InputError("proposals", f"are for the reflection {about['hkl']} in one orientation", remedy)
    apart = np.abs(np.asarray(phi)[:, None] - about["phi"])
    if apart.min(0).max() > ANGLE:
        found = f"require frames at phi of {np.rad2deg(about['phi']).round(4).tolist()} degree"
        raise InputError("proposals", found, "leave the proposals out")
    with torch.inference_mode():
        logits = network(torch.from_numpy(input_of(counts[apart.argmin(0)])[None]))[0].numpy().astype(np.float64)
    scaled = np.exp((logits - logits.max()) / about["temperature"])
    probability = scaled / scaled.sum()
    order = np.argsort(-probability[:-1], kind="stable")
    return Proposal(order[:top], probability[:-1], float(probability[-1]))
