"""Figures of what a store has: one PNG a map, rocking curves of telling pixels, and an overview page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.store.output_paths import refuse_file, refuse_folder
from dfxm_dask.view.boundaries.pages import boundary_pages
from dfxm_dask.view.compare.truth import draw_compare
from dfxm_dask.view.figures.beams import draw_beams
from dfxm_dask.view.figures.components import METHODS, draw_components
from dfxm_dask.view.figures.curves import draw_curves
from dfxm_dask.view.figures.frames import draw_frames
from dfxm_dask.view.figures.maps import (
    BAR,
    DPI,
    MARGIN,
    TITLE,
    UNSOUND,
    Grid,
    Panel,
    add_words,
    draw_panel,
    finer_units,
    flag_masks,
    flagged,
    labelled,
    map_size,
    pixel_grid,
    robust_limits,
    symbol,
)
from dfxm_dask.view.figures.mosaic import draw_mosaicity, mosaicity_panel

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

# Worst first: a pixel is shown by the first of these that it has. Colours keep apart for colour-blind eyes.
FLAGS = (
    ("hot", "#d55e00"),
    ("masked", "#000000"),
    ("unlit", "#3b3b3b"),
    ("saturated", "#f0e442"),
    ("truncated", "#cc79a7"),
    ("single", "#009e73"),
    ("multimodal", "#56b4e9"),
)
SOUND = ("sound", "#e8e8e8")


def figures(store: str | Path | xr.DataTree, out_dir: str | Path, *, layer: int | None = None) -> list[Path]:
    """PNG files of one layer of a store.

    Parameters
    ----------
    store : path or DataTree
        A scan, with results or not yet; see :func:`dfxm_dask.open_scan`.
    out_dir : path
        Folder for the files, made where it is absent.
    layer : int, optional
        Number of the layer along z; by default the middle one.

    Returns
    -------
    list of Path
        The files: each map that the store has, ``mosaicity``, ``curves``, ``frames``, ``beams`` with weak and strong
        beam, ``components_<method>`` with the curves and coefficients of each basis, ``boundaries_scene``,
        ``boundary_<k>`` and ``boundary_<k>_fit`` of the whole volume, ``truth`` beside what was found where the truth
        is known, and last ``overview`` with all maps.

    Raises
    ------
    InputError
        There is no such layer, or the store has neither maps nor raw counts.
    """
    import xarray as xr

    refuse_folder(Path(out_dir), "OUT_DIR")
    if not isinstance(store, xr.DataTree):
        from dfxm_dask.store.scan import open_scan

        store = open_scan(store, chunks=None)
    tree, out = store, Path(out_dir)
    raw = tree["raw"].dataset if "raw" in tree and "counts" in tree["raw"].data_vars else None
    reduced = tree["rocking"].dataset if "rocking" in tree and tree["rocking"].data_vars else None
    beams = tree["beams"].dataset if "beams" in tree and tree["beams"].data_vars else None
    source = next((group for group in (raw, reduced, beams) if group is not None), None)
    if source is None:
        raise InputError(
            "figures", "the store has neither maps nor raw counts", "ingest a scan first: `dfxm-dask ingest`"
        )
    layers = int(source.sizes["z"])
    chosen = layers // 2 if layer is None else layer
    if not 0 <= chosen < layers:
        raise InputError(f"layer {layer}", f"the scan has {layers}, from 0", f"ask for 0 to {layers - 1}")
    out.mkdir(parents=True, exist_ok=True)
    grid = pixel_grid(np.asarray(source["y"]), np.asarray(source["x"]), source["x"].attrs.get("units", "pixel"))
    suffix = f"_layer{chosen}" if layers > 1 else ""
    heading = scan_heading(tree, chosen, layers)

    def save(figure: Figure, name: str, suffix: str = suffix) -> Path:
        path = out / f"{name}{suffix}.png"
        refuse_file(path, "another OUT_DIR")
        figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": "dfxm_dask"})
        return path

    written, panels = [], []
    maps = None if reduced is None else reduced.isel(z=chosen)
    if maps is not None:
        panels = layer_panels(maps)
        written += [save(single(panel, grid, heading), panel.name) for panel in panels]
        if "mosaicity" in maps:
            written.append(save(draw_mosaicity(maps, grid, heading), "mosaicity"))
            panels.append(mosaicity_panel(maps))
    if raw is not None and maps is not None:
        frames = tree["frames"].dataset.isel(z=chosen) if "frames" in tree else None
        curves = draw_curves(raw.isel(z=chosen), maps, frames, grid, heading)
        if curves is not None:
            written.append(save(curves, "curves"))
    if raw is not None:
        written.append(save(draw_frames(tree, chosen, heading), "frames"))
    if beams is not None and (page := draw_beams(tree, chosen, heading)) is not None:
        written.append(save(page, "beams"))
    for method in METHODS:
        if (page := draw_components(tree, method, chosen, heading)) is not None:
            written.append(save(page, f"components_{method}"))
    for name, page in boundary_pages(tree, scan_heading(tree, 0, 1)):
        written.append(save(page, name, ""))
    if "truth" in tree:
        truth = draw_compare(tree, tree["truth"].dataset, chosen, heading)
        if truth is not None:
            written.append(save(truth, "truth"))
    if panels:
        written.append(save(overview(panels, grid, heading), "overview"))
    return written


def scan_heading(tree: xr.DataTree, layer: int, layers: int) -> str:
    """Title of the scan, and the layer where there are several."""
    title = str(tree.attrs.get("title", "") or "scan")
    title = title if len(title) <= 70 else title[:67] + "..."
    if layers == 1:
        return title
    z = tree.dataset["z"]
    return f"{title}; layer {layer} of {layers}, z = {float(z[layer]):.4g} {symbol(z.attrs.get('units', ''))}"


def layer_panels(maps: xr.Dataset) -> list[Panel]:
    """The maps of a layer that have a meaning of their own at a glance, in the order in which they are read."""
    names = [str(name) for name in maps]
    wanted: list[tuple[str, str, str, float, float]] = [
        ("total", "sum of the rocking curve", "inferno", 0.5, 99.5),
        *((name, f"centre of mass along {name[4:]}", "viridis", 1.0, 99.0) for name in names if name[:4] == "com_"),
        *((name, f"width along {name[4:]}", "plasma", 1.0, 99.0) for name in names if name[:4] == "std_"),
        *((name, f"fitted width along {name[9:]}", "plasma", 1.0, 99.0) for name in names if name[:9] == "fit_fwhm_"),
        ("kam", "local misorientation (KAM)", "magma", 1.0, 99.0),
    ]
    sound = ~flagged(maps["flags"], *UNSOUND) if "flags" in maps else None
    panels = [value_panel(maps[each[0]], *each[1:], sound) for each in wanted if each[0] in maps]
    return panels + ([flag_panel(maps["flags"])] if "flags" in maps else [])


def value_panel(
    values: xr.DataArray, title: str, colours: str, low: float, high: float, sound: np.ndarray | None = None
) -> Panel:
    """A map of a quantity, with limits from sound pixels, where there are any.

    A centre of mass is shown as the deviation from its median, which is what varies.
    """
    name, units = str(values.name), str(values.attrs.get("units", ""))
    image = np.asarray(values, np.float64)
    kind, _, axis = name.partition("_")
    words = {"total": "above background", "std": "standard deviation", "fit": "FWHM", "kam": "misorientation"}
    label, middle = words.get(kind, name), 0.0
    telling = image[np.isfinite(image) if sound is None else np.isfinite(image) & sound]
    telling = telling if telling.size else image[np.isfinite(image)]
    if kind == "com" and telling.size:
        middle = float(np.median(telling))
        label = f"{axis} relative to {middle:.4f} {symbol(units)}".replace(" °", "°").replace("-", "−")
    limits = robust_limits(telling - middle, low, high)
    factor, finer = finer_units(max(abs(limit) for limit in limits), units)
    shown = (limits[0] * factor, limits[1] * factor)
    return Panel(name, title, (image - middle) * factor, labelled(label, finer), colours, shown)


def flag_panel(flags: xr.DataArray) -> Panel:
    """Classes of pixels by the worst that is wrong with their rocking curve."""
    masks = flag_masks(flags)
    bits = np.nan_to_num(np.asarray(flags))  # absent layers are NaN
    image = np.zeros(bits.shape)
    for index in reversed(range(len(FLAGS))):
        mask = masks.get(FLAGS[index][0])
        if mask is not None:
            image[(bits.astype(np.int64) & mask) != 0] = index + 1
    return Panel("flags", "quality of the rocking curve", image, categories=(SOUND, *FLAGS))


def single(panel: Panel, grid: Grid, heading: str) -> Figure:
    """A page with one map."""
    from matplotlib.figure import Figure

    width, height = map_size(grid, 6.5, 6.5)
    across = max(width, 4.0) + 2 * MARGIN
    up = height + TITLE + BAR + 0.62
    figure = Figure(figsize=(across, up))
    draw_panel(figure, panel, grid, (across - width) / 2, BAR + 0.24, width, 11)
    add_words(figure, heading)
    return figure


def overview(panels: list[Panel], grid: Grid, heading: str) -> Figure:
    """All maps of a layer on one page."""
    from matplotlib.figure import Figure

    columns = min(len(panels), 2 if grid.ratio < 0.6 else 3)
    rows = -(-len(panels) // columns)
    width, height = map_size(grid, 4.6 if columns == 2 else 3.3, 4.2)
    cell, tall = max(width, 2.8) + MARGIN, height + TITLE + BAR
    across, up = columns * cell + MARGIN, rows * tall + 0.62
    figure = Figure(figsize=(across, up))
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left = MARGIN + column * cell + (cell - MARGIN - width) / 2
        draw_panel(figure, panel, grid, left, up - 0.38 - row * tall - TITLE - height, width, 10)
    add_words(figure, heading)
    return figure
