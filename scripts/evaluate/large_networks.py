"""Two large networks for comparison with ours; importing this module registers them for ``network`` and ``train``."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from dfxm_dask.beams.network.networks import ARCHITECTURES

if TYPE_CHECKING:
    import torch


def resnet18(channels: int = 1) -> torch.nn.Module:
    """ResNet with 18 layers and two classes, for comparison.

    References
    ----------
    He et al., CVPR 2016, table 1 (projection shortcuts where the size changes).

    Examples
    --------
    >>> count_parameters(resnet18())
    11171266
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inner: int, outer: int, stride: int) -> None:
            super().__init__()
            self.path = nn.Sequential(
                nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outer),
                nn.ReLU(),
                nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
                nn.BatchNorm2d(outer),
            )
            same = inner == outer and stride == 1
            self.shortcut = (
                nn.Identity()
                if same
                else nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.path(x) + self.shortcut(x))

    widths = (64, 64, 128, 256, 512)
    blocks = [
        Block(inner, outer, 1 + (outer > 64)) if first else Block(outer, outer, 1)
        for inner, outer in pairwise(widths)
        for first in (True, False)
    ]
    return nn.Sequential(
        nn.Conv2d(channels, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 2),
    )


def vgg16(channels: int = 1) -> torch.nn.Module:
    """VGG with 16 layers and two classes, for comparison: 134,267,586 parameters.

    References
    ----------
    Simonyan and Zisserman, ICLR 2015, table 1, column D.
    """
    from torch import nn

    parts: list[nn.Module] = []
    inner = channels
    for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            parts += [nn.Conv2d(inner, width, 3, padding=1), nn.ReLU()]
            inner = width
        parts.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *parts,
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(512 * 49, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 2),
    )


ARCHITECTURES |= {"resnet18": resnet18, "vgg16": vgg16}
