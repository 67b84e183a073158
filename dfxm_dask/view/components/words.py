"""Sentences on a fit of components, and the names of the components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.maps import labelled

if TYPE_CHECKING:
    import xarray as xr

REPORTED = (
    "condition",
    "rms",
    "rms_least",
    "has_tails",
    "noise_rank",
    "rounds",
    "converged",
    "found",
    "unexplained",
    "optimum",
    "negative",
    "whitening",
)
"""Numbers of a fit that appear in its sentences."""


def treatment_words(scaling: np.ndarray) -> tuple[str, str, str]:
    """Treatment of the curves of a fit.

    Parameters
    ----------
    scaling : array (4,)
        See :func:`dfxm_dask.components.curves.scaling_of`.

    Returns
    -------
    formula : str
        Of the counts I above background; empty for untreated counts.
    unit : str
    words : str

    Examples
    --------
    >>> treatment_words(np.array([1.0, 0.375, 100.0, 0.0]))
    ('2 √(I + 0.375)', '1', 'Curves of 2 √(I + 0.375), I being the counts above 100.')
    """
    from dfxm_dask.components.curves import KINDS  # slow to import: not for stores without components

    kind = KINDS[int(scaling[0])]
    above = "counts above the background map" if np.isnan(scaling[2]) else f"counts above {scaling[2]:g}"
    if kind == "plain":
        return "", "count", f"Curves of {above}."
    inner = f"(I + {scaling[1]:g})" if scaling[1] else "(I)"
    formula = f"ln{inner}" if kind == "log" else f"2 √{inner}"
    return formula, "1", f"Curves of {formula}, I being the {above}."


def fit_words(found: xr.Dataset, method: str) -> list[str]:
    """Sentences on a fit: a verdict, and its numbers.

    Parameters
    ----------
    found : Dataset
        The group; absent variables are left out.
    method : str

    Returns
    -------
    list of str
        The first one is the verdict.
    """
    number = {name: float(found[f"{method}_{name}"]) for name in REPORTED if f"{method}_{name}" in found}
    _, unit, treated = treatment_words(np.asarray(found[f"{method}_scaling"]))
    if not np.isfinite(np.asarray(found[f"{method}_basis"])).all():
        dependent = np.isfinite(number.get("rms_least", np.nan))
        why = "one curve follows from the others" if dependent else "no curve is lit"
        return [f"There is no basis: {why}.", treated]
    if method == "gram_schmidt":
        verdict, *told = gram_schmidt_words(found, number, unit)
    elif method == "pca":
        verdict, *told = pca_words(found, number)
    else:
        verdict, *told = mixture_words(found.sizes[f"{method}_component"], number)
    return [verdict, treated, *told]


def gram_schmidt_words(found: xr.Dataset, number: dict[str, float], unit: str) -> list[str]:
    """Whether the basis is one of weak and strong beam, and its residual."""
    told = ["Basis of the strong beam, and of the contributions of the weak beam on either side of the peak."]
    if not number.get("has_tails", 1.0):
        told = [
            "The curves do not reach a weak beam: the basis is that of clusters of curves, not of weak and strong beam."
        ]
    if {"rms", "rms_least"} <= set(number):
        left, least = number["rms"], number["rms_least"]
        more = (
            f", {100 * (left / least - 1):.3g} % above {least:.4g} of the best basis of its size" if least > 0 else ""
        )
        told.append(f"Residual of the basis: rms {labelled(f'{left:.4g}', unit)} over all lit curves{more}.")
    if {"gram_schmidt_condition", "gram_schmidt_pixels"} <= set(map(str, found)):
        *most, last = (f"{int(count)}" for count in np.asarray(found["gram_schmidt_pixels"]))
        told.append(
            f"Before orthonormalisation the curves were means of {', '.join(most)} and {last} pixels, with a condition"
            f" number of {number['condition']:.3g}."
        )
    return told


def pca_words(found: xr.Dataset, number: dict[str, float]) -> list[str]:
    """Explained share of the squares, and number of components above the noise."""
    count = found.sizes["pca_component"]
    told = [f"Principal components: {count}."]
    if "pca_explained" in found:
        about = "the mean curve" if np.asarray(found["pca_mean"]).any() else "zero"
        share = 100 * float(np.asarray(found["pca_explained"]).sum())
        told = [f"{count} components explain {share:.4g} % of the squares of all lit curves about {about}."]
    rank = number.get("noise_rank", np.nan)
    if np.isfinite(rank):
        return [*told, f"{rank:.0f} components exceed the noise."]
    unknown = (
        "The number of components above the noise is not known: the estimate requires two lit curves for each frame."
    )
    return [*told, unknown]


def mixture_words(count: int, number: dict[str, float]) -> list[str]:
    """Whether an iterative fit converged, and its residual."""
    rounds = f"{number.get('rounds', np.nan):.0f} rounds"
    told = [f"The fit converged after {rounds}."]
    if not number.get("converged", 1.0):
        told = [f"The fit did not converge within {rounds}: these curves may still change."]
    kept = int(number.get("found", count))
    if kept < count:
        told.append(f"Only {kept} of {count} components were found above the noise: the others are zero.")
    if {"unexplained", "optimum"} <= set(number):
        left, least = (100 * number[name] for name in ("unexplained", "optimum"))
        told.append(
            f"{left:.4g} % of the squares of the sampled curves are unexplained; the optimum of {kept} curves is"
            f" {least:.4g} %."
        )
    if "negative" in number:
        by = {0: ", whitened by the covariance", 1: ", whitened by the mean products"}
        told.append(
            f"Before any refinement {100 * number['negative']:.3g} % of the squares of the sources and their"
            f" curves were below zero{by.get(int(number.get('whitening', -1)), '')}."
        )
    return told


def names_of(found: xr.Dataset, method: str) -> list[str]:
    """Name of each component: the region of a Gram–Schmidt curve, the share of a principal component."""
    if method == "gram_schmidt" and "gram_schmidt_region" in found:
        from dfxm_dask.components.regions import NAMES

        clusters = "gram_schmidt_has_tails" in found and not bool(found["gram_schmidt_has_tails"])
        more = " (cluster)" if clusters else ""
        return [f"{NAMES[int(region)]}{more}" for region in np.asarray(found["gram_schmidt_region"])]
    numbers = [f"component {k + 1}" for k in range(found.sizes[f"{method}_component"])]
    if method == "pca" and "pca_explained" in found:
        shares = np.asarray(found["pca_explained"], float)
        return [f"{name} ({100 * share:.3g} %)" for name, share in zip(numbers, shares, strict=True)]
    return numbers
