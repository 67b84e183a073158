"""Comparison of methods for weak-beam maps: visibility of dislocations and fringes, and residuals of the bases.

``python scripts/evaluate/compare_beams.py STORE`` prints a table of the weak-beam maps of a scan by Gram–Schmidt, PCA,
NMF, NICA, the rocking curve and the network, and draws them: how well each separates dislocations, if the truth is
known; how much of the fringes of the strong beam it shows; the residual of each basis. The store is not changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bases import ONE_BY_ONE, Basis, Candidate, candidates_of, every_basis, projected, stored
from map_scores import auc, average_precision, contamination, high_pass, mask_scores
from methods_page import Compared, draw_methods

from dfxm_dask.errors import InputError, RecipeError
from dfxm_dask.schema import BACKGROUND, HAS_WEAK_BEAM, LIT, PEAK_LOCAL, WIDTH_LOCAL, pixel_length
from dfxm_dask.view.compare.distances import boundary_distance

if TYPE_CHECKING:
    import xarray as xr

NEAR, FAR = 0.5, 2.5  # um from a dislocation line: pixels that a map should show, and pixels that it should not
QUIET = 0.9  # quantile of the high-passed map below which a pixel counts as free of defects, without truth (our choice)
PRIOR, ENHANCED, TURNED = "weak beam by prior", "weak beam by prior, enhanced", "KAM of the centre of mass"
PATCHES, FRAME = "weak beam by patches of LCNN", "best single frame"
OF_TRUTH = ("AUC", "AUC 2 um", "AP", "AP 2 um")
SCORES = (*OF_TRUTH, "contamination", "rms left", "least")
COLUMNS = ("map", *SCORES, "kept", "basis")
OF_SCAN = ("counts", "monitor", "exposure", "noise", "dark")
OF_LAYER = (BACKGROUND, LIT, PEAK_LOCAL, WIDTH_LOCAL, HAS_WEAK_BEAM)

Row = dict[str, Any]


def compare_beams(
    store: str | Path,
    out: str | Path,
    *,
    layer: int | Sequence[int] | None = None,
    regions: str | Path | None = None,
    weights: str = "compact",
) -> tuple[list[Row], Path]:
    """Scores of weak-beam maps by Gram–Schmidt, PCA, NMF, NICA, prior and LCNN, and a figure of the maps.

    Parameters
    ----------
    store : path
        A scan, which is not changed. Complete backgrounds, local peaks and bases in the store are used; others are
        computed here, bases from the compared layers.
    out : path
        PNG file.
    layer : int or several, optional
        Numbers along z, by default the middle one. Scores are means over layers; the figure shows the middle one.
    regions : path, optional
        YAML file with a list of :class:`dfxm_dask.components.drawn_regions.Region` for Gram–Schmidt by hand.
    weights : str
        Weights of the network; see :func:`dfxm_dask.beams.classify_beams`.

    Returns
    -------
    rows : list of dict
        Keys of :data:`COLUMNS`, ``note`` and ``truth`` (whether it is known). Meaningless scores are NaN; ``note``
        gives the reason, and the choices that were based on the truth.
    path : Path

    Raises
    ------
    InputError, RecipeError
        An unknown layer, no counts, pixels without a size, or an invalid file of regions.

    Notes
    -----
    AUC and AP compare lit pixels within 0.5 um of a true line with those more than 2.5 um away from all, for the map
    and for the map high-passed over 2 um (``map_scores.high_pass``). ``contamination`` is the correlation with the
    strong beam of :func:`dfxm_dask.beams.integrate_beams` in the latter pixels; without truth, where the high-passed
    map is below its own 90 % quantile. ``rms left`` is the residual of all lit transformed curves of the layer, beside
    the least residual of any basis of equal size for this layer.

    Gram–Schmidt has a coefficient for either tail: "both tails" is the larger of both, each high-passed and in units of
    its noise (``bases.both_tails``, our choice); it corresponds to the enhanced weak beam
    (:func:`dfxm_dask.beams.enhance_beams`). "Better tail" and "best of 3" are chosen by the truth, by AUC, with the
    better sign for PCA. Without truth each has its own row. The best single frame is also chosen by the truth. KAM
    (:func:`dfxm_dask.rocking.kam`) is that of the centre of mass over 0.5 um, if all scan axes are angles. The note of
    the enhanced weak beam compares its mask (:func:`dfxm_dask.beams.threshold_beams`) with the true lines and
    boundaries.

    Frames on different scales are first scaled by the monitor or the exposure, above the darkest tile of the layer; in
    that case only counts and truth are read from the store.
    """

    from dfxm_dask.store.integrity.opened import open_store
    from dfxm_dask.store.output_paths import refuse_file
    from dfxm_dask.store.scan import open_scan
    from dfxm_dask.view.figures.maps import DPI

    open_store(store)  # refuses a path that is not a store
    path = Path(out)
    refuse_file(path, "--out FILE.png")
    tree = open_scan(store, allow_partial=True)
    boxes = None if regions is None else read_regions(regions)
    layers = chosen_layers(tree, layer)
    if tree["x"].attrs.get("units") != "um":
        raise InputError(
            "compare_beams",
            "the scan has no pixel size in um",
            f"set the effective pixel by dfxm-dask calibrate {store} --pixel-size Y,X",
        )
    y, x = (pixel_length(n, "compare_beams", np.asarray(tree[n])) for n in ("y", "x"))
    uneven = uneven_by(tree, layers)
    at = lru_cache(maxsize=1)(partial(prepared, tree, uneven))
    bases = every_basis(tree, layers, boxes, uneven, at)
    found: list[Compared] = []
    shown = layers[len(layers) // 2]
    for k in layers:
        one = at(k)
        truth = tree["truth"].dataset if "truth" in tree else {}
        away = np.asarray(truth["distance"].isel(z=k)) if "distance" in truth else None
        boundary = boundary_distance(truth, float(tree["z"][k]), np.asarray(tree["y"]), np.asarray(tree["x"]))
        compared = compared_layer(one, bases, away, boundary, (y, x), weights)
        found.append(compared)
        if k == shown:
            figure = draw_methods(tree, k, compared)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": "dfxm_dask"})
    return table_rows(found, bases, one["counts"][0, ..., 0, 0].size), path


def read_regions(path: str | Path) -> list[dict[str, Any]]:
    """Checked boxes (:class:`dfxm_dask.components.drawn_regions.Region`) of a YAML file, a list or under ``regions:``.

    Raises
    ------
    RecipeError
        The file cannot be read, is not YAML, or contains no list.
    InputError
        An entry is not a region.
    """
    from dfxm_dask.components import gram_schmidt
    from dfxm_dask.plain_yaml import entries, parse_yaml, place, plain, read_text

    path = Path(path)
    node = parse_yaml(read_text(path), path)
    if node.id == "mapping" and "regions" in (named := entries(node, path, "regions")):
        node = named["regions"][1]
    if node.id != "sequence" or not node.value:
        raise RecipeError(
            f"{place(path, node)}: regions", "is not a list of boxes", "write `- {name: strong, box: [y0, y1, x0, x1]}`"
        )
    # One by one, so that an error names the line of the box.
    return [
        region
        for one in node.value
        for region in gram_schmidt.validate({"regions": [plain(one, path)]}, where=f"{place(path, one)}: ")["regions"]
    ]


def chosen_layers(tree: xr.DataTree, layer: int | Sequence[int] | None) -> list[int]:
    """Numbers of the layers to compare, in order.

    Raises
    ------
    InputError
        No raw counts, or an unknown layer.
    """
    raw = tree["raw"].dataset if "raw" in tree else {}
    if "counts" not in raw or "not_complete" in raw["counts"].attrs:
        raise InputError("compare_beams", "the store has no complete raw counts", "ingest the scan first")
    count = int(tree.sizes["z"])
    asked = [count // 2] if layer is None else [layer] if isinstance(layer, int) else sorted(set(layer))
    wrong = [k for k in asked if not 0 <= k < count]
    if wrong or not asked:
        raise InputError(f"layers {asked}", f"the scan has {count}, from 0", f"choose layers from 0 to {count - 1}")
    return asked


def uneven_by(tree: xr.DataTree, layers: Sequence[int]) -> tuple[str, float] | None:
    """Quantity that scales the frames, "monitor" or "exposure", and its median; None if they need no scaling."""
    from dfxm_dask.frames.scale import UNEVEN

    for name in ("monitor", "exposure"):
        if name in tree["raw"].data_vars:
            values = np.asarray(tree["raw"][name].isel(z=list(layers)), np.float64).reshape(len(layers), -1)
            values = np.where(values > 0, values, np.nan)
            known = values[np.isfinite(values).any(axis=1)]
            if known.size and (np.nanmax(known, axis=1) / np.nanmin(known, axis=1)).max() > UNEVEN:
                return name, float(np.nanmedian(known))
    return None


def prepared(tree: xr.DataTree, uneven: tuple[str, float] | None, layer: int) -> xr.Dataset:
    """One layer in memory, with dim z: counts on one scale, background, local peak and width, lit pixels."""
    from dfxm_dask.beams import local_peak
    from dfxm_dask.beams.classify import dark_level
    from dfxm_dask.frames import background, normalise

    raw = tree["raw"].dataset.isel(z=[layer])
    one = raw[[n for n in OF_SCAN if n in raw]].load()
    if uneven is not None:
        by, reference = uneven
        dark = dark_level(np.moveaxis(one["counts"].values[0], (-2, -1), (0, 1)))
        one = one.assign(normalise(one, by=by, reference=reference, offset=dark).compute(**ONE_BY_ONE).data_vars)
    known = stored(tree, "frames", uneven) | stored(tree, "beams", uneven)
    one = one.assign({v.name: known[v.name].isel(z=[layer]).load() for v in OF_LAYER if v.name in known})
    if BACKGROUND.name not in one:
        one = one.assign(background(one, method="quantile", quantile=0.1).compute(**ONE_BY_ONE).data_vars)
    if not {v.name for v in OF_LAYER[1:]} <= set(one.data_vars):
        one = one.assign(local_peak(one).compute(**ONE_BY_ONE).data_vars)
    return one


def compared_layer(
    one: xr.Dataset,
    bases: Sequence[Basis],
    away: np.ndarray | None,
    boundary: np.ndarray,
    pixel: tuple[float, float],
    weights: str,
) -> Compared:
    """All maps of a layer with their scores; ``away``, ``boundary`` are distances (um) to true lines and boundaries."""
    from dfxm_dask.beams import classify_beams, enhance_beams, integrate_beams, isolate_lines, threshold_beams

    lit = one["lit"].values[0]
    sums = integrate_beams(one).compute(**ONE_BY_ONE)
    patches = one.assign(classify_beams(one, method="lcnn", weights=weights).compute(**ONE_BY_ONE).data_vars)
    by_patch = integrate_beams(patches, method="patch")["weak"].compute(**ONE_BY_ONE)
    enhanced = enhance_beams(one.assign(sums.data_vars))["weak_enhanced"].compute(**ONE_BY_ONE)
    strong = sums["strong"].values[0]
    candidates = [
        Candidate(PRIOR, PRIOR, sums["weak"].values[0]),
        Candidate(ENHANCED, ENHANCED, enhanced.values[0]),
        Candidate(PATCHES, PATCHES, by_patch.values[0]),
    ]
    turned = misorientation(one)
    if turned is not None:
        candidates.append(Candidate(TURNED, TURNED, turned))
    of_mask: dict[str, float] = {}
    if away is not None and bool(one["has_weak_beam"].values[0]):
        single = isolate_lines(one).compute(**ONE_BY_ONE)
        mask = threshold_beams(one.assign(weak_enhanced=enhanced, **single.data_vars))["defects"].compute(**ONE_BY_ONE)
        of_mask = mask_scores(mask.values[0], lit, away, boundary, pixel)
    reasons: dict[str, str] = {}
    residuals, left = {}, {}
    no_weak_beam = "" if bool(one["has_weak_beam"].values[0]) else "no weak beam in the layer"
    reasons |= {row: no_weak_beam for row in (PRIOR, ENHANCED, PATCHES) if no_weak_beam}
    for basis in bases:
        coefficient, residual, least = projected(one, basis)
        with np.errstate(invalid="ignore"):
            rms = (
                float(np.sqrt(np.mean(residual[np.isfinite(residual)] ** 2))) if np.isfinite(residual).any() else np.nan
            )
        residuals[basis.name] = residual
        for candidate in candidates_of(basis, coefficient, pixel):
            candidates.append(candidate)
            left[candidate.row] = {"rms left": rms, "least": least}
            why = basis.reason or (no_weak_beam if basis.method == "gram_schmidt" else "")
            if why:
                reasons[candidate.row] = why
    if away is not None and (lit & (away < NEAR)).any() and (lit & (away > FAR)).any():
        frames = one["counts"].values[0].reshape(-1, *lit.shape)
        near, far = lit & (away < NEAR), lit & (away > FAR)
        best = max(frames, key=lambda frame: auc(frame, near, far))
        candidates.append(Candidate(FRAME, FRAME, np.asarray(best, np.float32)))
    scores = {}
    for c in candidates:
        for sign in c.signs:
            if c.row in reasons:
                found = dict.fromkeys(SCORES, np.nan)
            else:
                found = map_scores(sign * np.where(lit, c.image, np.nan), strong, lit, away, pixel)
            scores[c.row, ("−" if sign < 0 else "") + c.title] = found | left.get(c.row, {})
    return Compared(candidates, scores, reasons, strong, residuals, away, of_mask)


def misorientation(one: xr.Dataset) -> np.ndarray | None:
    """Kernel average misorientation (y, x), degree, of the centre of mass; None if a scan axis is not an angle."""
    from dfxm_dask.rocking import kam, moments

    found = moments(one, noise_cut=5).compute(**ONE_BY_ONE)
    if any(found[n].attrs.get("units") != "degree" for n in found.data_vars if str(n).startswith("com_")):
        return None
    return np.asarray(kam(found, radius=0.5)["kam"].compute(**ONE_BY_ONE).values[0])


def map_scores(
    image: np.ndarray, strong: np.ndarray, lit: np.ndarray, away: np.ndarray | None, pixel: tuple[float, float]
) -> dict[str, float]:
    """Scores of one map; see :func:`compare_beams`. Without truth only its contamination."""
    passed = high_pass(image, pixel)
    scores = dict.fromkeys(SCORES, float("nan"))
    if away is None:
        known = np.isfinite(passed) & lit
        quiet = known & (passed < np.quantile(passed[known], QUIET)) if known.any() else known
        return scores | {"contamination": contamination(image, strong, quiet, pixel)}
    near, far = lit & (away < NEAR), lit & (away > FAR)
    return scores | {
        "AUC": auc(image, near, far),
        "AUC 2 um": auc(passed, near, far),
        "AP": average_precision(image, near, far),
        "AP 2 um": average_precision(passed, near, far),
        "contamination": contamination(image, strong, far, pixel),
    }


def table_rows(found: Sequence[Compared], bases: Sequence[Basis], frames: int) -> list[Row]:
    """Means over layers; of the candidates for a row the one of largest mean AUC, or all of them without truth."""
    of_row: dict[str, list[str]] = {}
    for compared in found:
        for row, title in compared.scores:
            if title not in of_row.setdefault(row, []):
                of_row[row].append(title)
    rows: list[Row] = []
    for row, titles in of_row.items():
        means = {title: layer_means([c.scores.get((row, title), {}) for c in found]) for title in titles}
        basis = next((b for b in bases if row.startswith(b.name)), None)
        kept = 1 if basis is None else basis.variables[f"{basis.method}_basis"].shape[0]
        told = [c.reasons[row] for c in found if row in c.reasons]
        notes = sorted(
            {f"{n} of {len(found)} layers: {t}" if len(found) > 1 else t for t in told for n in (told.count(t),)}
        )
        if row == ENHANCED:
            notes += mask_words([c.mask for c in found if c.mask])
        best = max(titles, key=lambda t: np.nan_to_num(means[t]["AUC"], nan=-1.0))
        by_truth = np.isfinite(means[best]["AUC"])
        if by_truth and len(titles) > 1:
            notes.append(f"by truth: {best}")
        elif by_truth and row == FRAME:
            notes.append("by truth")
        every = [best] if by_truth or len(titles) == 1 or told else [t for t in titles if not t.startswith("−")]
        for title in every:
            rows.append(
                {
                    "map": row if len(every) == 1 else title,
                    **means[title],
                    "kept": kept / frames,
                    "basis": "" if basis is None else basis.origin,
                    "note": "; ".join(notes),
                    "truth": any(c.away is not None for c in found),
                }
            )
    return rows


def mask_words(scores: Sequence[Mapping[str, float]]) -> list[str]:
    """Agreement of the mask with true lines and boundaries, means over layers, as text; empty without truth."""
    mean = {
        n: float(np.nanmean(v)) for n in (scores[0] if scores else ()) if np.isfinite(v := [s[n] for s in scores]).any()
    }
    if "precision" not in mean:
        return []
    words = f"{100 * mean['precision']:.3g} % of its mask lie within 1 um of a true line"
    if "or boundary" in mean:
        words += f", {100 * mean['or boundary']:.3g} % of a true line or boundary"
    if "recall" in mean:
        words += f", and {100 * mean['recall']:.3g} % of the lines within 1 um of the mask (F1 {mean['F1']:.2f})"
    return [words]


def layer_means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each score over the layers that have it; NaN if no layer has it."""
    means = {}
    for name in SCORES:
        known = [s[name] for s in scores if np.isfinite(s.get(name, np.nan))]
        means[name] = float(np.mean(known)) if known else float("nan")
    return means


def as_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The rows as text, in the order of :data:`COLUMNS`; a dash, or "no truth", for missing numbers."""
    cells = []
    for row in rows:
        texts = {"map": row["map"], "kept": f"{100 * row['kept']:.2g} %", "basis": row["basis"]}
        for name in SCORES:
            absent = "–" if row["truth"] or name not in OF_TRUTH else "no truth"
            texts[name] = f"{row[name]:.3g}" if np.isfinite(row[name]) else absent
        cells.append([str(texts[c]) for c in COLUMNS])
    return cells


def how_to_read(rows: Sequence[Row]) -> str:
    """Notes of the rows and explanations of the columns: some lines."""
    pixels = f"more than {FAR:g} um away from all"
    notes = [f"{row['map']}: {row['note']}" for row in rows if row["note"]]
    lines = [
        f"AUC, AP: lit pixels within {NEAR:g} um of a true line against those {pixels}; 2 um: of the high-passed map"
    ]
    if not any(row["truth"] for row in rows):
        lines = []
        pixels = f"where the high-passed map is below its own {100 * QUIET:g} % quantile"
    lines += [
        f"contamination: |correlation| with the strong beam {pixels}, both high-passed over 2 um",
        "rms left, least: of the transformed curves (log or counts), and for the best curves of these layers",
        "kept: numbers per pixel, relative to those of the scan",
    ]
    return "\n".join([*notes, *lines])


def main() -> None:
    """Run the command line."""
    from dfxm_dask.sources.paths import beside
    from dfxm_dask.view.tables import say, show_table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="figure (default: STORE_beams.png)")
    parser.add_argument("--layer", type=int, nargs="+", help="layers along z, to be averaged (default: the middle one)")
    words = "boxes for Gram–Schmidt by hand: a list of {name: strong|weak_minus|weak_plus, box: [y0, y1, x0, x1]}"
    parser.add_argument("--regions", type=Path, metavar="FILE.yaml", help=words)
    parser.add_argument("--weights", default="compact", metavar="NAME|FILE", help="weights of the network")
    given = parser.parse_args()
    out = given.out or beside(given.store, "_beams.png")
    rows, path = compare_beams(given.store, out, layer=given.layer, regions=given.regions, weights=given.weights)
    show_table(f"weak-beam maps of {given.store}", COLUMNS, as_cells(rows), right=range(1, len(COLUMNS) - 1))
    say(how_to_read(rows))
    say(f"figure:  {path}")


if __name__ == "__main__":
    main()
