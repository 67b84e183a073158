"""Fast proposal of candidates by a small network; the evidence decides among them.

One tower embeds the frames, another the field of a candidate in the axes of the store: the image of a straight line
depends on nothing else, so that the same weights serve every rotation of the crystal about the scattering vector. The
product of the two embeddings ranks the candidates of a crystal. The file of the weights records their range.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import Candidates
from dfxm_dask.identify.images import line_tables
from dfxm_dask.optics.forward import Setting, seen

if TYPE_CHECKING:
    import torch

FILE = Path(__file__).with_name("proposals.safetensors")
PHI = np.deg2rad([-0.026, -0.02, -0.016, -0.012, 0.012, 0.016, 0.02, 0.026])
"""Rocking angles (rad) of the input."""
REACH = float(np.deg2rad(0.004))
"""Half width (rad) of the triangle that weights the frames about each of them, and the weight that they must have."""
LEAST_WEIGHT = 0.2
ROWS, COLUMNS = 60, 40
PITCH = (0.08, 0.1252)  # um along y and x, of the input
APART = 0.1  # largest relative difference of the pitch from that of the input (our choice)
WIDTHS, DEPTH, INNER = (24, 64, 96, 160), 96, 160
ANGLES = 24  # directions about the line at which a candidate is described, over 180 degree
CORE = 0.03  # um, which rounds off the field of lines near the plane of the image


class Proposal(NamedTuple):
    """Candidates in the order of their probability.

    Attributes
    ----------
    rows : array (top,), int64
        Rows of the candidates, most likely first.
    probability : array (candidate,), float64
        Of every candidate.
    none : float
        Probability that no dislocation is visible.
    """

    rows: np.ndarray
    probability: np.ndarray
    none: float


def architecture() -> torch.nn.Module:
    """Untrained network: ``image(frames, strength)`` and ``candidate(features)`` embed, ``forward`` gives logits."""
    import torch
    from torch import nn

    a, b, c, d = WIDTHS
    stages: list[nn.Module] = []
    for inner, outer, kernel, stride in (
        (len(PHI), a, (7, 5), (3, 2)),
        (a, b, (3, 3), (2, 2)),
        (b, c, (3, 3), (1, 1)),
        (c, d, (3, 3), (2, 2)),
    ):
        side = kernel[0] // 2, kernel[1] // 2
        stages += [nn.Conv2d(inner, outer, kernel, stride, side, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]

    class Towers(nn.Module):
        """Embeddings of images and of candidates, and their product."""

        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.Sequential(*stages)
            self.head = nn.Sequential(nn.Linear(2 * d + 1, 2 * DEPTH), nn.ReLU(), nn.Linear(2 * DEPTH, DEPTH + 1))
            size = 3 * ANGLES + 15
            layers = (nn.Linear(size, INNER), nn.ReLU(), nn.Linear(INNER, INNER), nn.ReLU(), nn.Linear(INNER, DEPTH))
            self.tower = nn.Sequential(*layers)

        def image(self, frames: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
            """Embedding (n, DEPTH + 1) of images; the last component is the logit of "none"."""
            x = self.stages(frames)
            out: torch.Tensor = self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3)), strength[:, None]], dim=1))
            return out

        def candidate(self, features: torch.Tensor) -> torch.Tensor:
            """Embedding (candidate, DEPTH) of candidates."""
            out: torch.Tensor = self.tower(features)
            return out

        def forward(self, frames: torch.Tensor, strength: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            """Logits (n, candidate + 1), "none" last."""
            image = self.image(frames, strength)
            return torch.cat([image[:, :-1] @ self.candidate(features).T / DEPTH**0.5, image[:, -1:]], dim=1)

    return Towers()


def features_of(candidates: Candidates, at: Setting) -> np.ndarray:
    """Field of every candidate in the axes of the store, which is that of both (b, t) and (-b, -t).

    Parameters
    ----------
    candidates : Candidates
        On the axes of the store, Burgers vectors in um.
    at : Setting

    Returns
    -------
    array (candidate, feature), float32
        Deviation q of the points of a half circle in the plane z = 0 about the line, as asinh; products of the
        components of b and t, and of t and t.
    """
    table = line_tables(candidates, 0.334)
    turn = np.pi / ANGLES * np.arange(ANGLES)
    x = np.stack([np.cos(turn), np.sin(turn), np.zeros(ANGLES)], axis=1)
    u, v = np.einsum("cj,pj->cp", table[:, :3], x), np.einsum("cj,pj->cp", table[:, 3:6], x)
    matrix = seen(at, {})[0] @ at.to_sample
    beta = _beta(u, v, table[:, 11, None], table[:, 12, None])
    frame = table[:, :9].reshape(-1, 3, 3)
    q = -np.einsum("kj,cij,cpmi,cml,l->cpk", matrix, frame, beta, frame, at.direction, optimize=True)
    length = np.linalg.norm(candidates.burgers, axis=1)[:, None, None]
    field = np.arcsinh(2 * np.pi * q / length).reshape(len(table), -1)
    b, t = candidates.burgers / length[:, 0], candidates.line
    products = np.einsum("ci,cj->cij", b, t).reshape(-1, 9)
    upper = np.triu_indices(3)
    return np.concatenate([field, products, t[:, upper[0]] * t[:, upper[1]]], axis=1).astype(np.float32)


def _beta(u: np.ndarray, v: np.ndarray, edge: np.ndarray, screw: np.ndarray, poisson: float = 0.334) -> np.ndarray:
    """Distortion beta (..., i, j) = du_i/dx_j in the frame of the line, of unit 1/um times um."""
    g = 1 / (u * u + v * v + CORE**2)
    linear, r2 = 1 - 2 * poisson, u * u + v * v
    out = np.zeros((*u.shape, 3, 3))
    e = edge * g * g
    out[..., 0, 0] = -e * v * (linear * r2 + 2 * u * u)
    out[..., 0, 1] = e * u * (linear * r2 + 2 * u * u)
    out[..., 1, 0] = -e * u * (linear * r2 + 2 * v * v)
    out[..., 1, 1] = e * v * (u * u - v * v + 2 * poisson * r2)
    out[..., 2, 0], out[..., 2, 1] = -screw * v * g, screw * u * g
    return out


def weights_of(phi: np.ndarray) -> np.ndarray:
    """Weight (angle, frame) of every frame in the input; the rows sum to 1.

    Raises
    ------
    InputError
        No frame near one of the angles of the input.
    """
    weight = np.clip(1 - np.abs(np.asarray(phi)[None] - PHI[:, None]) / REACH, 0, None)
    total = weight.sum(1)
    if total.min(initial=1.0) < LEAST_WEIGHT or not weight.size:
        found = f"require frames within 0.003 degree of phi {np.rad2deg(PHI).round(4).tolist()} degree from the peak"
        raise InputError("proposals", found, "leave the proposals out")
    return np.asarray(weight / total[:, None])


def resampled(counts: np.ndarray, phi: np.ndarray, pitch: tuple[float, float]) -> np.ndarray:
    """Counts at the angles and pixels of the input, in the window with most contrast.

    Parameters
    ----------
    counts : array (frame, y, x)
        NaN marks invalid pixels.
    phi : array (frame,), rad
        From the peak of the lattice.
    pitch : (float, float), um
        Of the pixels along y and x; whole numbers of pixels become one of about 0.08 x 0.125 um.

    Returns
    -------
    array (8, 60, 40), float32
        Counts minus the median of each angle; zero where the crop has no pixel.

    Raises
    ------
    InputError
        Frames or pixels outside the range of the network.

    Examples
    --------
    >>> phi = np.deg2rad(0.004) * np.arange(-8, 9)
    >>> resampled(np.ones((17, 120, 40)), phi, (0.04, 0.125)).shape
    (8, 60, 40)
    """
    by, bx = (max(1, round(want / have)) for want, have in zip(PITCH, pitch, strict=True))
    if max(abs(by * pitch[0] / PITCH[0] - 1), abs(bx * pitch[1] / PITCH[1] - 1)) > APART:
        found = f"are for pixels of {PITCH[0]} x {PITCH[1]} um or whole fractions, not {pitch[0]:.4g} x {pitch[1]:.4g}"
        raise InputError("proposals", found, "leave the proposals out")
    weight, valid = weights_of(phi), np.isfinite(counts)
    total = np.einsum("af,fyx->ayx", weight, np.where(valid, counts, 0.0))
    share = np.einsum("af,fyx->ayx", weight, valid.astype(np.float64))
    mean = np.where(share > 0, total / np.maximum(share, 1e-9), np.nan)
    rows, columns = mean.shape[1] // by, mean.shape[2] // bx
    if rows < ROWS // 2 or columns < COLUMNS // 2:
        found = f"require {ROWS // 2 * by} x {COLUMNS // 2 * bx} pixels, not {mean.shape[1]} x {mean.shape[2]}"
        raise InputError("proposals", found, "give a larger crop")
    mean = mean[:, : rows * by, : columns * bx]
    lit = np.isfinite(mean)
    middle = np.array([np.median(m[v]) if v.any() else 0.0 for m, v in zip(mean, lit, strict=True)])
    mean = np.where(lit, mean - middle[:, None, None], 0.0)
    small = mean.reshape(len(PHI), rows, by, columns, bx).mean((2, 4)).astype(np.float32)
    more = max(0, ROWS - rows), max(0, COLUMNS - columns)
    small = np.pad(small, ((0, 0), *((m // 2, m - m // 2) for m in more)))
    power = np.zeros((small.shape[1] + 1, small.shape[2] + 1))
    power[1:, 1:] = (small**2).sum(0).cumsum(0).cumsum(1)
    part = power[ROWS:, COLUMNS:] - power[:-ROWS, COLUMNS:] - power[ROWS:, :-COLUMNS] + power[:-ROWS, :-COLUMNS]
    i, j = np.unravel_index(int(np.argmax(part)), part.shape)
    return np.ascontiguousarray(small[:, i : i + ROWS, j : j + COLUMNS])


def input_of(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Input of the network on a common scale, and the logarithm of the contrast over the noise.

    Parameters
    ----------
    images : array (n, 8, 60, 40)
        From :func:`resampled`.

    Returns
    -------
    array (n, 8, 60, 40), float32
    array (n,), float32
        Natural logarithm of the rms over the noise, whose size follows from differences of neighbouring pixels.
    """
    scale = np.sqrt(np.einsum("nfyx,nfyx->n", images, images) / images[0].size) + 1e-9
    # Every third row suffices for a median.
    apart = np.abs(np.diff(images[..., ::3, :], axis=-1))
    noise = np.sqrt((np.median(apart, axis=(-2, -1)) ** 2).mean(-1)) * 1.4826 / np.sqrt(2) + 1e-6 * scale
    strength = np.log(scale / noise)
    even = images / scale[:, None, None, None]
    return (even / np.sqrt(1 + np.abs(even))).astype(np.float32), strength.astype(np.float32)


def temperature(strength: np.ndarray, fitted: list[float]) -> np.ndarray:
    """Temperature of the softmax: exp of a polynomial in the logarithm of the contrast over the noise."""
    return np.asarray(np.exp(np.polyval(fitted, np.clip(strength, 0.0, 2.5))))


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
    if "temperature" not in about:
        raise InputError(
            f"weights {path}", "do not record their training", "use the weights of scripts/train_identify.py"
        )
    network = architecture()
    network.load_state_dict(weights)
    return network.eval(), about
