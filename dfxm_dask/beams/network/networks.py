"""Networks that distinguish weak-beam from strong-beam patches: the published one, and ours.

The input is patches (n, channel, y, x), float32; the output is logits (n, 2) in the order of :data:`CLASSES`. Torch is
imported when a network is built, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH, nearest

if TYPE_CHECKING:
    import torch

CLASSES = ("weak", "strong")
"""Order of the logits, and of the rows and columns of every confusion matrix."""

WEAK, STRONG = range(2)

VARIANCE_FLOOR = 1e-4
"""Added to the variance of a feature before the square root, whose slope at 0 is infinite (our choice)."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread: sums of several threads differ in the last bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _separable(inner: int, outer: int, kernel: int, stride: int = 1) -> list[torch.nn.Module]:
    """Depthwise and 1×1 convolution with ReLU."""
    from torch import nn

    pad = (kernel - stride + 1) // 2
    return [
        nn.Conv2d(inner, inner, kernel, stride=stride, padding=pad, groups=inner, bias=False),
        nn.Conv2d(inner, outer, 1),
        nn.ReLU(),
    ]


def _even(name: str, patch: int, multiple: int) -> None:
    """Refuse a patch size that the network cannot process."""
    if patch < multiple or patch % multiple:
        raise InputError(
            f"network {name!r}: patch of {patch} pixels",
            f"is not a multiple of {multiple}",
            f"use {multiple * max(1, round(patch / multiple))} pixels",
        )


def published(patch: int = PATCH, dropout: float = 0.3, channels: int = 1) -> torch.nn.Module:
    """The published lightweight network: three separable 5×5 blocks of 16, 32 and 64 channels, then 10 units.

    Parameters
    ----------
    patch : int, pixel
        Edge of a patch; even. The first dense layer has 640 weights for every four pixels, so it determines the size.
    dropout : float
        Dropout of whole channels after the first and second block and after the pool, and of the 10 units: 0.3 in the
        published code, 0.15 in the paper.
    channels : int
        Images per patch.

    Returns
    -------
    torch.nn.Sequential
        659,305 parameters at 64 px, 880,105 at 74 px, 2,625,385 at 128 px.

    Raises
    ------
    InputError
        A patch of odd size.

    References
    ----------
    Benhadjira et al., arXiv:2509.05017v2, written from its description. The paper states 64 px and 879 K parameters,
    which contradict each other; 74 px agree to 0.13 %.

    Examples
    --------
    >>> count_parameters(published())
    659305
    """
    from torch import nn

    _even("published", patch, 2)
    return nn.Sequential(
        *_separable(channels, 16, 5),
        nn.Dropout2d(dropout),
        *_separable(16, 32, 5),
        nn.Dropout2d(dropout),
        *_separable(32, 64, 5),
        nn.MaxPool2d(2),
        nn.Dropout2d(dropout),
        nn.Flatten(),
        nn.Linear(64 * (patch // 2) ** 2, 10),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(10, 2),
    )


def compact(
    widths: Sequence[int] = (32, 64, 64),
    kernels: Sequence[int] = (4, 3, 3),
    strides: Sequence[int] = (4, 2, 1),
    channels: int = 1,
) -> torch.nn.Module:
    """Our network: a strided stem, separable blocks, mean and standard deviation of every feature, and one dense layer.

    Parameters
    ----------
    widths, kernels, strides : sequences of int
        Parameters of the stem (a plain convolution with bias) and of every separable block after it.
    channels : int
        Images per patch.

    Returns
    -------
    torch.nn.Module
        A network with the parts ``features`` (convolutions) and ``score`` (dense layer), for any patch size that is a
        multiple of the product of the strides.

    Raises
    ------
    InputError
        Lists of unequal length.

    Notes
    -----
    Texture matters, not its position in the patch; therefore features are pooled over space to mean and standard
    deviation. The same features, computed once for a whole frame, give a map without patch seams: :func:`dense`.

    Examples
    --------
    >>> count_parameters(compact((16, 32, 48, 48), (5, 5, 5, 5), (2, 2, 2, 1)))
    7490
    """
    import torch
    from torch import nn

    if not 1 <= len(widths) == len(kernels) == len(strides):
        raise InputError(
            "network 'compact'",
            f"has {len(widths)} widths, {len(kernels)} kernels and {len(strides)} strides",
            "give one of each for the stem and for every block",
        )

    class Compact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem = nn.Conv2d(
                channels, widths[0], kernels[0], stride=strides[0], padding=(kernels[0] - strides[0] + 1) // 2
            )
            blocks = [
                part
                for inner, outer, kernel, stride in zip(widths, widths[1:], kernels[1:], strides[1:], strict=False)
                for part in _separable(inner, outer, kernel, stride)
            ]
            self.features = nn.Sequential(stem, nn.ReLU(), *blocks)
            self.score = nn.Linear(2 * widths[-1], 2)
            self.stride = int(np.prod(strides))

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            features = self.features(patches).flatten(2)
            mean = features.mean(2)
            # torch.var is many times slower for this memory layout.
            square = (features * features).mean(2)
            spread = torch.sqrt((square - mean * mean).clamp_min(0) + VARIANCE_FLOOR)
            return self.score(torch.cat([mean, spread], 1))

    return Compact()


def dense(
    network: torch.nn.Module, frame: np.ndarray, *, size: int = PATCH, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of weak beam on a lattice with the stride of the network, without patch seams.

    Parameters
    ----------
    network : torch.nn.Module
        A network of :func:`compact`.
    frame : array (y, x), float32
        A standardised frame; NaN counts as its mean, 0.
    size : int, pixel
        Window over which features are pooled: the patch size of training.
    temperature : float
        Divisor of the logits.

    Returns
    -------
    probability : array (rows, columns), float32
        Probability of weak beam in the window around every lattice point.
    y, x : arrays, float64, pixel
        Centres of the windows. The map is not defined beyond the outermost ones.

    Raises
    ------
    InputError
        Another network, or a frame smaller than a window.

    Notes
    -----
    A single patch is padded with zeros, while a window in a frame is surrounded by its neighbours: probabilities of
    windows that are patches agree closely, not exactly.
    """
    import torch

    if not hasattr(network, "features"):
        raise InputError(
            "a dense map", "the network pools at fixed positions", "use a network of the architecture compact"
        )
    stride = int(network.stride)  # type: ignore[arg-type]
    cells = size // stride
    if min(frame.shape) < size or cells < 1:
        raise InputError(
            f"a dense map of a frame of {frame.shape[0]} × {frame.shape[1]} pixels",
            f"is smaller than the window of {size}",
            "classify patches, which are padded",
        )
    rows, columns = (n // stride * stride for n in frame.shape)
    clean = np.nan_to_num(np.asarray(frame[:rows, :columns], np.float32), nan=0.0)
    with torch.inference_mode(), one_thread():
        image = torch.from_numpy(clean)[None, None].contiguous(memory_format=torch.channels_last)
        net: Any = network.eval()
        features = net.to(memory_format=torch.channels_last).features(image)
        mean = torch.nn.functional.avg_pool2d(features, cells, 1)
        square = torch.nn.functional.avg_pool2d(features * features, cells, 1)
        spread = torch.sqrt((square - mean * mean).clamp_min(0) + VARIANCE_FLOOR)
        pooled = torch.cat([mean, spread], 1)[0].permute(1, 2, 0)
        logits = net.score(pooled)
        probability = torch.sigmoid((logits[..., WEAK] - logits[..., STRONG]) / temperature)
    y, x = (stride * np.arange(n) + (cells * stride - 1) / 2 for n in probability.shape)
    return probability.numpy().astype(np.float32), y, x


ARCHITECTURES: dict[str, Callable[..., Any]] = {"compact": compact, "published": published}


def network(architecture: str, **options: Any) -> torch.nn.Module:
    """A network by name, with random weights.

    Raises
    ------
    InputError
        An unknown name, or options that the network does not have.

    Examples
    --------
    >>> count_parameters(network("compact", channels=3)) - count_parameters(network("compact"))
    1024
    """
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"network {architecture!r}",
            f"is unknown{nearest(architecture, ARCHITECTURES)}",
            f"use one of {', '.join(ARCHITECTURES)}",
        )
    try:
        return ARCHITECTURES[architecture](**options)
    except TypeError as error:
        raise InputError(f"network {architecture!r}", str(error), "omit options that it does not have") from None


def count_parameters(network: torch.nn.Module) -> int:
    """Number of trainable parameters of a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
