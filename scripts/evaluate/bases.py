"""Bases of the compared methods, from a store or fitted here, and their maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from map_scores import high_pass

from dfxm_dask.components.curves import KINDS
from dfxm_dask.engine.layer import beside, run_kernel, scan_last
from dfxm_dask.engine.shapes import expanded_writes, scan_axes
from dfxm_dask.schema import BACKGROUND, expand
from dfxm_dask.store.integrity.attributes import recorded_steps

if TYPE_CHECKING:
    import xarray as xr

    from dfxm_dask.reduction import Reduction

METHODS = {"gram_schmidt": "Gram–Schmidt", "pca": "PCA", "nmf": "NMF", "nica": "NICA"}
BY_HAND, FOUND = "Gram–Schmidt by hand", "Gram–Schmidt automatic"
ONE_BY_ONE = {"scheduler": "synchronous"}  # never two layers in memory


@dataclass(frozen=True, eq=False)
class Basis:
    """Curves found by a method: their name in the table, their variables, and their origin."""

    name: str
    method: str
    variables: xr.Dataset
    origin: str

    @property
    def reason(self) -> str:
        """Why its scores are meaningless; empty if they are meaningful."""
        if not np.isfinite(self.variables[f"{self.method}_basis"]).all():
            return "no basis: no pixel is lit, or the curves are linearly dependent"
        if self.method == "gram_schmidt" and not bool(self.variables["gram_schmidt_has_tails"]):
            return "no regions of weak beam found: the curves are those of clusters"
        return ""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One map of a layer, larger for defects, and the row of the table for which it is a candidate."""

    row: str
    title: str
    image: np.ndarray
    signs: tuple[int, ...] = (1,)


def stored(tree: xr.DataTree, group: str, uneven: object) -> dict[str, xr.DataArray]:
    """Complete variables of a group, by name; empty if frames must be scaled first."""
    if uneven is not None or group not in tree:
        return {}
    return {str(n): v for n, v in tree[group].data_vars.items() if "not_complete" not in v.attrs}


def every_basis(
    tree: xr.DataTree,
    layers: Sequence[int],
    boxes: list[dict[str, Any]] | None,
    uneven: object,
    at: Callable[[int], xr.Dataset],
) -> list[Basis]:
    """The bases of all methods: from the store if complete, otherwise fitted to the compared layers, one at a time.

    Regions that name a layer use that layer, even if it is not compared.
    """
    import dfxm_dask.components as room

    complete = stored(tree, "components", uneven)
    steps = recorded_steps(tree["components"].attrs) if "components" in tree else {}
    drawn = (dict(steps.get("gram_schmidt") or {}).get("parameters") or {}).get("regions") is not None
    wanted: list[tuple[str, str, dict[str, Any]]] = [(FOUND, "gram_schmidt", {})]
    if boxes is not None or (drawn and "gram_schmidt_basis" in complete):
        wanted.insert(0, (BY_HAND, "gram_schmidt", {} if boxes is None else {"regions": boxes}))
    wanted += [(METHODS[m], m, {}) for m in ("pca", "nmf", "nica")]
    bases = []
    for name, method, options in wanted:
        fit = getattr(room, method)
        own = method != "gram_schmidt" or drawn == (name == BY_HAND)
        small = {n: v for n, v in complete.items() if n.startswith(f"{method}_") and "y" not in v.dims}
        if own and not options and all(v.name in small for v in fit.writes if not v.template):
            bases.append(Basis(name, method, tree["components"].dataset[list(small)].load(), "stored, all layers"))
            continue
        fitted = list(layers)
        if name == BY_HAND:
            heights = [float(b["z"]) for b in boxes or [] if b.get("z") is not None]
            fitted = sorted({*layers, *(int(np.abs(np.asarray(tree["z"]) - z).argmin()) for z in heights)})
        words = f"fitted to {len(fitted)} layer{'s' if len(fitted) > 1 else ''}"
        bases.append(Basis(name, method, fitted_to(fit, options, map(at, fitted)), words))
    return bases


def fitted_to(fit: Reduction, options: Mapping[str, Any], layers: Iterable[xr.Dataset]) -> xr.Dataset:
    """Fit layers that are loaded one at a time: only their summaries stay in memory."""
    import xarray as xr

    chosen, total = fit.validate(options), None
    for one in layers:
        axes = scan_axes(one)
        wanted = (*fit.reads, *fit.may_read, *(v for b in beside(fit) for v in expand(b, axes)))
        names = [v.name for v in wanted if v.name in one.variables]
        fetch = {}
        for name in names:
            here = one[name].isel(z=0) if "z" in one[name].dims else one[name]
            fetch[name] = scan_last(here.values, [str(d) for d in here.dims], axes)
        positions = {a: np.asarray(one[a].values, float) for a in axes}
        part = run_kernel(fit, axes, fetch, positions, chosen)
        total = part if total is None else fit.combine(total, part)  # type: ignore[misc]
    result = fit.finish(total)  # type: ignore[misc, arg-type]
    return xr.Dataset({v.name: (v.dims, result[v.name], v.attrs) for v in expanded_writes(fit, axes, chosen)})


def projected(one: xr.Dataset, basis: Basis) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients (component, y, x), residual (y, x), and the least rms of any basis of equal size for this layer.

    The least rms follows from the principal components of the layer, with the treatment of counts of the basis.
    """
    import dfxm_dask.components as room

    small = basis.variables
    kind, offset, dark, _ = (float(v) for v in small[f"{basis.method}_scaling"].values)
    data = one if np.isnan(dark) else one.drop_vars(BACKGROUND.name)
    maps = getattr(room, f"project_{basis.method}")(data.assign(small.data_vars)).compute(**ONE_BY_ONE)
    coefficient = maps[f"{basis.method}_coefficient"].values[0]
    best = fitted_to(
        room.pca,
        {
            "components": len(coefficient),
            "scaling": KINDS[int(kind)],
            "offset": offset,
            "background": None if np.isnan(dark) else dark,
            "centred": bool(small[f"{basis.method}_mean"].values.any()),
        },
        [data],
    )
    explained, variance = best["pca_explained"].values, best["pca_variance"].values
    with np.errstate(invalid="ignore", divide="ignore"):
        left = max(0.0, 1 - float(explained.sum())) * float(variance[0] / explained[0])
    return coefficient, maps[f"{basis.method}_residual"].values[0], float(np.sqrt(left / best["pca_mean"].size))


def both_tails(tails: np.ndarray, pixel: tuple[float, float]) -> np.ndarray:
    """The larger of both coefficients (2, y, x), each relative to its surroundings in units of its noise: (y, x).

    Noise is the median absolute value of the high-passed coefficient. A dislocation visible on one side of the peak may
    be invisible on the other: the sum, and the root of the sum of squares, did not separate dislocations better.
    """
    parts = []
    for tail in tails:
        above = high_pass(tail, pixel)
        finite = np.abs(above[np.isfinite(above)])
        noise = float(np.median(finite)) if finite.size else 0.0
        parts.append(above / noise if noise > 0 else above)
    return np.asarray(np.maximum(*parts))


def candidates_of(basis: Basis, coefficient: np.ndarray, pixel: tuple[float, float]) -> list[Candidate]:
    """The maps of a basis that may show defects, each with the row for which it is a candidate."""
    if basis.method != "gram_schmidt":
        signs = (1, -1) if basis.method == "pca" else (1,)
        row = f"{basis.name}, best of {len(coefficient)}"
        return [Candidate(row, f"{basis.name} {k + 1}", c, signs) for k, c in enumerate(coefficient)]
    order = basis.variables["gram_schmidt_region"].values.tolist()
    tails = [coefficient[order.index(k)] for k in (1, 2)]
    words = [f"{basis.name}: weak {side}" for side in ("below", "above")]
    both = f"{basis.name}, both tails"
    return [
        *(Candidate(f"{basis.name}, better tail", word, tail) for word, tail in zip(words, tails, strict=True)),
        Candidate(both, f"{basis.name}: both tails", both_tails(np.stack(tails), pixel)),
    ]
