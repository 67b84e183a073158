"""What a run says of components: bases without a weak beam, without light, and fits that did not converge."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.run.events import Remark
from dfxm_dask.run.execute import RunReport, run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.run.scan_remarks import of_results, unsettled_fits, weak_beam_tails
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.view.answers import info

FITS = "  - background: {}\n  - local_peak: {}\n  - gram_schmidt: {}\n  - pca: {}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Stores by preset with a Gram–Schmidt basis and principal components, and what the run said."""
    stores: dict[str, tuple[Path, RunReport, list[object]]] = {}

    def make(name: str) -> tuple[Path, RunReport, list[object]]:
        if name not in stores:
            path, events = tmp_path_factory.mktemp(name) / "s.zarr", []
            dfxm_dask.simulate(name, path, layers=1, shape=(128, 128), seed=7)
            stores[name] = path, run(path, FITS, publish=(events.append,)), events
        return stores[name]

    return make


@pytest.fixture
def easy(made, tmp_path: Path) -> Path:
    """A copy of the store with a weak beam, to be changed."""
    return shutil.copytree(made("easy")[0], tmp_path / "s.zarr")


def run(store: Path, steps: str, **options) -> RunReport:
    return run_recipe(parse_recipe(f"name: x\nsteps:\n{steps}", Path("test.yaml")), store, **options)


def module(name: str):
    return sys.modules[f"dfxm_dask.components.{name}"]


def test_run_recipe__tells_nothing_of_a_basis_of_weak_and_strong_beam(made) -> None:
    store, report, _ = made("easy")
    assert dfxm_dask.open_scan(store)["components"].gram_schmidt_has_tails
    assert report.remarks == ()
    assert weak_beam_tails(open_store(store)) == unsettled_fits(open_store(store)) == ()


def test_run_recipe__says_that_the_basis_is_one_of_clusters(made, capsys) -> None:
    store, report, events = made("deformed")
    found = dfxm_dask.open_scan(store)["components"]
    assert not found.gram_schmidt_has_tails
    assert np.isfinite(found.gram_schmidt_basis).all()
    layers, told = report.remarks
    assert layers.startswith("1 of 1 layers have no weak beam")
    assert told.startswith("the scan seems not to reach the weak beam")
    assert "clusters of curves, not of weak and strong beam; scan further to both sides of the peak" in told
    assert [e.text for e in events if isinstance(e, Remark)] == [layers, told]
    found = info(store).as_dict()
    assert (found["complete"], told in found["remarks"]) == (True, True)


def test_of_results__speaks_of_the_groups_asked_for(made) -> None:
    store, report, _ = made("deformed")
    assert of_results(store, ["components"]) == report.remarks[1:]
    assert of_results(store, ["beams", "components", "rocking"]) == report.remarks
    assert of_results(store, ["rocking"]) == ()
    assert run(store, "  - moments: {noise_cut: 5}\n").remarks == ()


def test_weak_beam_tails__of_a_basis_that_is_not_complete_is_nothing(made, tmp_path: Path) -> None:
    store = shutil.copytree(made("deformed")[0], tmp_path / "s.zarr")
    assert weak_beam_tails(open_store(store))
    ledger.withdraw(store, "components", "gram_schmidt")
    assert weak_beam_tails(open_store(store)) == ()
    shutil.rmtree(store / "components")
    assert weak_beam_tails(open_store(store)) == unsettled_fits(open_store(store)) == ()


def test_run_recipe__says_that_no_curve_is_lit(easy: Path) -> None:
    dark = "{background: 60000}"
    steps = f"  - local_peak: {dark}\n  - gram_schmidt: {dark}\n  - pca: {dark}\n  - nmf: {dark}\n  - nica: {dark}\n"
    _, *told = run(easy, steps, overwrite=True).remarks
    assert np.isnan(dfxm_dask.open_scan(easy)["components"].gram_schmidt_basis).all()
    words = [text.partition(" and its coefficients are NaN: no curve rises")[0] for text in told]
    assert words == ["the Gram–Schmidt basis", "the basis of nica", "the basis of nmf", "the basis of pca"]
    # There is no remark on a basis that is older than its input.
    assert run(easy, "  - local_peak: {}\n", overwrite=True).remarks == ()
    assert weak_beam_tails(open_store(easy)) == ()


def test_run_recipe__says_that_curves_depend_on_each_other(easy: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module("region_curves"), "DEPENDENT", 2.0)  # more than the whole of a curve
        (told,) = run(easy, FITS, overwrite=True).remarks
    assert np.isnan(dfxm_dask.open_scan(easy)["components"].gram_schmidt_basis).all()
    assert "the curves of weak and strong beam are linearly dependent; draw the regions" in told
    assert run(easy, FITS, overwrite=True).remarks == ()


@pytest.mark.parametrize("method", ["nica", pytest.param("nmf", marks=pytest.mark.slow)])
def test_run_recipe__says_that_a_fit_did_not_converge(easy: Path, monkeypatch, method: str) -> None:
    steps = f"  - {method}: {{components: 1}}\n"
    assert run(easy, steps, overwrite=True).remarks == ()
    with monkeypatch.context() as patch:
        patch.setattr(module("nmf"), "ROUNDS", 1)
        (told,) = run(easy, steps.replace("1", "3"), overwrite=True).remarks
    found = dfxm_dask.open_scan(easy)["components"]
    assert not found[f"{method}_converged"]
    rounds, left = int(found[f"{method}_rounds"]), 100 * float(found[f"{method}_unexplained"])
    assert told.startswith(f"{method} did not converge within {rounds} rounds: its curves may still change")
    assert f"unexplained sum of squares {left:.4g} %" in told
    assert run(easy, steps, overwrite=True).remarks == ()
