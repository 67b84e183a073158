"""Networks against counts by hand, and the dense map against pooling by loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from large_networks import resnet18, vgg16

from dfxm_dask.beams.network.networks import (
    VARIANCE_FLOOR,
    compact,
    count_parameters,
    dense,
    network,
    published,
)
from dfxm_dask.errors import InputError

STARTING_POINT = {"widths": (16, 32, 48, 48), "kernels": (5, 5, 5, 5), "strides": (2, 2, 2, 1)}


@pytest.mark.parametrize(("patch", "count"), [(64, 659_305), (74, 880_105), (128, 2_625_385)])
def test_published__has_the_parameters_of_the_paper_at_74_and_not_at_64(patch: int, count: int) -> None:
    net = published(patch)
    assert count_parameters(net) == count
    assert abs(count - 879_000) / 879_000 < 0.0013 or patch != 74
    parts = {type(m).__name__: 0 for m in net}
    for part in net:
        parts[type(part).__name__] += sum(p.numel() for p in part.parameters())
    # depthwise k k C + pointwise C C' + C', three times
    assert parts["Conv2d"] == (25 + 1 * 16 + 16) + (25 * 16 + 16 * 32 + 32) + (25 * 32 + 32 * 64 + 64) == 3913
    if patch == 64:
        assert parts["Linear"] == (64 * 32 * 32 * 10 + 10) + (10 * 2 + 2) == 655_370 + 22


@pytest.mark.parametrize(("channels", "count"), [(1, 7490), (3, 8290)])
def test_compact__of_the_starting_point_has_its_parameters(channels: int, count: int) -> None:
    assert count_parameters(compact(**STARTING_POINT, channels=channels)) == count


def test_count__of_networks_to_compare_with() -> None:
    # What torchvision builds for 1000 classes and 3 channels, less what one channel and two classes lack.
    assert count_parameters(resnet18()) == 11_689_512 - 2 * 7 * 7 * 64 - 998 * 513
    with torch.device("meta"):
        assert count_parameters(vgg16()) == 138_357_544 - 2 * 9 * 64 - 998 * 4097
    assert count_parameters(compact()) < 20_000


@pytest.mark.parametrize("name", ["compact", "published", "resnet18"])
@pytest.mark.parametrize("channels", [1, 2])
def test_network__gives_two_logits_per_patch(name: str, channels: int) -> None:
    net = network(name, channels=channels).eval()
    with torch.inference_mode():
        assert net(torch.zeros(3, channels, 64, 64)).shape == (3, 2)


def test_compact__pools_mean_and_standard_deviation() -> None:
    torch.manual_seed(0)
    net = compact().eval()
    patch = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        found = net.features(patch).double().flatten(2)
        pooled = torch.cat([found.mean(2), torch.sqrt(found.var(2, correction=0) + VARIANCE_FLOOR)], 1).float()
        assert found.shape[2] == (64 // net.stride) ** 2
        torch.testing.assert_close(net(patch), net.score(pooled), rtol=1e-4, atol=1e-5)


def test_dense__is_pooling_by_loops_and_moves_with_the_frame() -> None:
    torch.manual_seed(1)
    net = compact().eval()
    frame = np.random.default_rng(0).normal(0, 1, (144, 203)).astype(np.float32)
    found, y, x = dense(net, frame, temperature=1.5)
    assert found.dtype == np.float32
    assert found.shape == (11, 18) == (y.size, x.size)
    assert (y[0], y[1], x[-1]) == (31.5, 39.5, 8 * 17 + 31.5)
    with torch.inference_mode():
        features = net.features(torch.from_numpy(frame[:144, :200])[None, None])[0].double().numpy()
        for i, j in [(0, 0), (3, 7), (10, 17)]:
            window = features[:, i : i + 8, j : j + 8].reshape(len(features), -1)
            pooled = np.concatenate([window.mean(1), np.sqrt(window.var(1) + VARIANCE_FLOOR)])
            weak, strong = net.score(torch.from_numpy(pooled).float()).numpy()
            assert found[i, j] == pytest.approx(1 / (1 + np.exp((strong - weak) / 1.5)), rel=1e-4)
    # One cell further: the same map, moved, wherever the border is out of sight.
    moved = dense(net, frame[8:, :], temperature=1.5)[0]
    np.testing.assert_allclose(moved[4:6, 4:13], found[5:7, 4:13], rtol=1e-4)
    assert np.ptp(found) > 0


def test_dense__is_finite_where_the_frame_is_not() -> None:
    frame = np.full((64, 64), np.nan, np.float32)
    assert np.isfinite(dense(compact(), frame)[0]).all()


def test_networks__refuse_what_they_are_not() -> None:
    with pytest.raises(InputError, match=r"network 'compct': is unknown \(did you mean 'compact'\?\)"):
        network("compct")
    with pytest.raises(InputError, match=r"unexpected keyword argument 'depth'.*omit"):
        network("compact", depth=3)
    with pytest.raises(InputError, match="patch of 65 pixels: is not a multiple of 2; use 64"):
        published(65)
    with pytest.raises(InputError, match="2 widths, 1 kernels and 2 strides"):
        compact((8, 8), (3,), (2, 2))
    with pytest.raises(InputError, match="pools at fixed positions"):
        dense(published(), np.zeros((64, 64), np.float32))
    with pytest.raises(InputError, match="40 × 80 pixels: is smaller than the window of 64"):
        dense(compact(), np.zeros((40, 80), np.float32))
