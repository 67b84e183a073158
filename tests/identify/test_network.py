"""Proposals of candidates: input, weights, refusals, and recall on a few simulated lines."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import Candidates, catalogue
from dfxm_dask.identify.images import line_images, line_tables, scan_optics
from dfxm_dask.identify.network import FILE, SIZE, input_of, load, propose, save
from dfxm_dask.optics.forward import setting
from dfxm_dask.optics.geometry import effective_pixel
from dfxm_dask.optics.instrument.microscope import find_microscope

HKL = (-1, 1, -1)


def test_input_of__ignores_offset_scale_and_dead_pixels():
    rng = np.random.default_rng(0)
    counts = rng.normal(size=(8, 120, 80)) + np.arange(8)[:, None, None]
    first = input_of(counts)
    assert first.shape == (8, SIZE, SIZE)
    np.testing.assert_allclose(input_of(7 * counts + 100), first, atol=1e-4)
    dead = counts.copy()
    dead[2, :3, :2] = np.nan
    assert np.isfinite(input_of(dead)).all()
    assert np.abs(input_of(dead) - first)[[0, 1, 3]].max() < 0.01
    with pytest.raises(InputError, match="are too few"):
        input_of(counts[:, :30])


def test_propose__ranks_the_true_line_among_the_first():
    """Lines at random with the noise of a camera, by the weights of the package: chance would be 20 of 420."""
    _, about = load()
    assert FILE.stat().st_size < 2_000_000
    grain, phi = np.array(about["grain"]), np.array(about["phi"])
    scope, found, rng = find_microscope("id06_al111"), catalogue(), np.random.default_rng(1)
    turned = Candidates(4.0495e-4 * found.burgers @ grain.T, found.line @ grain.T, found.plane_normal, found.angle)
    py, px = effective_pixel(scope.pixel, scope.theta)
    y, x = (np.arange(120) - 59.5) * py, (np.arange(40) - 19.5) * px
    optics = scan_optics(scope, setting(scope.theta), {"phi": phi}, heights=5, dense=5)
    table, ranks = line_tables(turned, 0.334), []
    for k in rng.choice(np.flatnonzero(np.abs(found.burgers @ np.array(HKL)) > 0.5), 8, replace=False):
        images = np.empty((8, 120, 40))
        line_images(y, x, table[k], np.zeros(2), np.zeros(3), optics, images, np.empty((0, 0, 0, 0)))
        counts = rng.poisson(300 * images + 20.0)
        proposal = propose(counts, phi, grain, HKL, top=40)
        ranks.append(k in proposal.rows)
        assert abs(proposal.probability.sum() + proposal.none - 1) < 1e-9
    assert np.mean(ranks) > 0.6
    # More frames in another order give the same proposal.
    order = rng.permutation(9)
    more, angles = np.concatenate([counts, counts[:1]]), np.append(phi, 0.0)
    np.testing.assert_array_equal(propose(more[order], angles[order], grain, HKL, top=40).rows, proposal.rows)
    for wrong, words in (
        ((phi + 1e-4, grain, HKL), "require frames at phi"),
        ((phi, grain[::-1], HKL), "in one orientation"),
        ((phi, grain, (1, 1, 1)), "in one orientation"),
    ):
        with pytest.raises(InputError, match=words):
            propose(counts, *wrong)


def test_load__refuses_weights_without_their_training(tmp_path):
    network, _ = load()
    with pytest.raises(InputError, match="do not record their training"):
        load(save(tmp_path / "w.safetensors", network, {}))
