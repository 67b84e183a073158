"""What the command line shows as tables: a store, a plan, the reductions, one reduction, the findings of a run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args, get_origin

import numpy as np

from dfxm_dask.engine.docstring import bounds, unit
from dfxm_dask.errors import IncompleteError
from dfxm_dask.run.events import megabytes
from dfxm_dask.run.scan_remarks import of_results
from dfxm_dask.schema import printable
from dfxm_dask.store.integrity.attributes import recorded_steps

if TYPE_CHECKING:
    import xarray as xr
    from pydantic.fields import FieldInfo
    from rich.console import Console

    from dfxm_dask.reduction import Reduction
    from dfxm_dask.schema import Variable


def terminal(stream: TextIO | None = None) -> Console:
    """A console of the terminal's width; of a wide page where output goes to a file, so that nothing is cut off."""
    from rich.console import Console

    stream = stream or sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 160)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()) -> None:
    """Print a table; the columns in `right` hold numbers. Cells are text, never markup: they hold users' names."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), "bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    terminal().print(table)


def say(text: str) -> None:
    """Print a line as it is."""
    terminal().print(printable(text), markup=False, soft_wrap=True)


def show_store(path: str | Path) -> bool:
    """Groups, variables, axes and provenance of a store. Returns whether every step is complete."""
    from dfxm_dask.store.scan import open_scan

    missing = ""
    try:
        tree = open_scan(path, chunks=None)
    except IncompleteError as error:
        missing = f"{error.asked}: {error.found}"
        tree = open_scan(path, chunks=None, allow_partial=True)
    say(f"{path}: {tree.attrs.get('title') or 'scan'} (schema version {tree.attrs.get('schema_version', '?')})")
    axes = [
        (
            name,
            coordinate.attrs.get("motor", ""),
            coordinate.size,
            f"{float(coordinate.min()):.6g}",
            f"{float(coordinate.max()):.6g}",
            coordinate.attrs.get("units", ""),
            coordinate.attrs.get("position_source", ""),
            direction(coordinate.attrs),
        )
        for name, coordinate in tree.coords.items()
        if coordinate.ndim == 1 and coordinate.size
    ]
    columns = ("axis", "motor", "positions", "from", "to", "unit", "source", "rows")
    show_table("axes", columns, axes, right=(2, 3, 4))
    for name, coordinate in tree.coords.items():
        if "position" in coordinate.attrs:
            say(f"{name}: {coordinate.attrs['position']}")
    rows = []
    for group, node in tree.children.items():
        for name, variable in node.dataset.data_vars.items():
            shape = ", ".join(f"{dim} {size}" for dim, size in variable.sizes.items())
            rows.append(
                (f"{group}/{name}", shape, variable.dtype, variable.attrs.get("units", ""), megabytes(variable.nbytes))
            )
    show_table("variables", ("variable", "dims", "dtype", "unit", "size"), rows, right=(4,))
    steps, notes = [], []
    for group, node in tree.children.items():
        for step, record in recorded_steps(node.attrs).items():
            known = record if isinstance(record, Mapping) else {}
            given = ", ".join(f"{key}={value}" for key, value in dict(known.get("parameters") or {}).items())
            steps.append((group, step, known.get("version", ""), given))
            notes += [f"{group}: {remark}" for remark in known.get("remarks") or ()]
    show_table("provenance", ("group", "step", "version", "parameters"), steps)
    for text in notes:
        say(f"NOTE: {text}")
    for text in of_results(path, tree.children):
        say(f"NOTE: {text}")
    say(f"INCOMPLETE: {missing}" if missing else "complete")
    return not missing


def direction(attrs: Mapping[str, Any]) -> str:
    """How the rows of a scan went, and what tells it: "zigzag (read)"."""
    return f"{attrs['scan_mode']} ({attrs['scan_mode_source']})" if "scan_mode" in attrs else ""


def show_plan(
    plan: Any, recipe: str, store: str | Path, forecast: Any = None, workers: str = "", memory_limit: int = 0
) -> None:
    """Steps of a plan with their cost, and what would be left out; what a run takes, where there is a forecast."""
    show_table(
        f"{recipe} on {store}",
        ("step", "group", "blocks", "of", "memory of a task", "read", "written", "in one pass with"),
        [
            (
                step.name,
                step.group,
                len(step.blocks),
                step.unit,
                megabytes(step.memory_bytes),
                megabytes(step.bytes_read),
                megabytes(step.bytes_written),
                ", ".join(step.fused_with),
            )
            for step in plan.steps
        ],
        right=(2, 4, 5, 6),
    )
    for step, reason in plan.left_out:
        say(f"{step}: will be left out, {reason}")
    for text in plan.remarks:
        say(f"NOTE: {text}")
    say(
        f"{plan.tasks} tasks, each up to {megabytes(plan.memory_bytes)} of memory; "
        f"{megabytes(plan.bytes_read)} to read, {megabytes(plan.bytes_written)} to write"
    )
    if forecast is not None:
        show_forecast(forecast, workers, memory_limit)


def show_forecast(forecast: Any, workers: str, memory_limit: int) -> None:
    """Cost of every pass of a run, and the total."""
    if not forecast.passes:
        return say("all is done: a run has nothing to compute")
    rows = [(" + ".join(one.steps), one.blocks, megabytes(one.disk_bytes), one.files) for one in forecast.passes]
    show_table("still to do", ("pass", "blocks to do", "on disk", "files"), rows, right=(1, 2, 3))
    say(
        f"{forecast.tasks} tasks on {workers}; memory of a worker {megabytes(forecast.memory_bytes)} of "
        f"{megabytes(memory_limit)} (by declaration); {megabytes(forecast.disk_bytes)} in {forecast.files} files and "
        "folders"
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {word}"
    return f"{seconds:.1f} s"


def show_reductions(known: Mapping[str, Reduction]) -> None:
    """Every reduction with the group it writes to and what it gives."""
    show_table(
        "reductions",
        ("name", "group", "gives", "parameters"),
        [
            (name, found.group, summary(found), ", ".join(found.parameters.model_fields))
            for name, found in sorted(known.items(), key=lambda item: (item[1].group, item[0]))
        ],
    )


def show_reduction(found: Reduction) -> None:
    """Declaration and documentation of one reduction."""
    show_table(
        f"{found.name}: {summary(found)}",
        ("", "variable", "dims", "dtype", "unit", "what it is"),
        [
            *variable_rows("reads", found.reads),
            *variable_rows("may read", found.may_read),
            *variable_rows("writes", found.writes),
        ],
    )
    show_table(
        "parameters",
        ("parameter", "type", "default", "unit", "what it is"),
        [
            (name, type_words(field), default_words(field.get_default()), unit(field), field.description or "")
            for name, field in found.parameters.model_fields.items()
        ],
    )
    say(inspect.cleandoc(found.kernel.__doc__ or ""))


def variable_rows(role: str, variables: Iterable[Variable]) -> list[tuple[str, ...]]:
    """Rows of a table of variables; the role stands on the first only."""
    return [
        (role if index == 0 else "", v.name, ", ".join(v.dims), v.dtype, v.units, v.long_name)
        for index, v in enumerate(variables)
    ]


def summary(found: Reduction) -> str:
    """First paragraph of a docstring, on one line."""
    return " ".join((found.__doc__ or "").split("\n\n")[0].split())


def type_words(field: FieldInfo) -> str:
    """Type and bounds of a parameter in words: ``float >= 0``, ``quantile | constant``."""
    return " ".join([annotation_words(field.annotation), bounds(field)]).strip()


def default_words(default: Any) -> str:
    """A default as one writes it on a command line; nothing where a parameter is left out by default."""
    if default is None:
        return ""
    return ",".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def annotation_words(annotation: Any) -> str:
    """A type annotation as a user reads it."""
    if hasattr(annotation, "model_fields"):
        return f"{{{','.join(annotation.model_fields)}}}"
    if get_origin(annotation) is Literal:
        return " | ".join(str(word) for word in get_args(annotation))
    if annotation is type(None):
        return "none given"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (tuple, list):
        return ",".join(annotation_words(part) for part in inner if part is not Ellipsis)
    if inner:
        return " | ".join(annotation_words(part) for part in inner if part is not type(None))
    return getattr(annotation, "__name__", str(annotation))


def findings(tree: xr.DataTree) -> list[tuple[str, str]]:
    """What a reader wants to know first of a reduced scan: medians over sound pixels, and how many there are."""
    from dfxm_dask.view.figures.maps import UNSOUND, flagged, symbol

    maps = tree["rocking"].dataset.load()
    rows: list[tuple[str, str]] = []
    lit = np.isfinite(np.asarray(maps["total"]))
    sound = lit.copy()
    if "flags" in maps:
        lit &= ~flagged(maps["flags"], "unlit")
        truncated = lit & flagged(maps["flags"], "truncated")
        single = lit & flagged(maps["flags"], "single")
        sound = lit & ~flagged(maps["flags"], *UNSOUND)
        rows.append(("lit pixels", f"{100 * lit.mean():.3g} %"))
        rows.append(("truncated, of the lit", f"{100 * truncated.sum() / max(lit.sum(), 1):.3g} %"))
        rows.append(("lit in a single frame, of the lit", f"{100 * single.sum() / max(lit.sum(), 1):.3g} %"))

    def median(label: str, name: str, factor: float = 1.0) -> None:
        values = np.asarray(maps[name])[sound]
        values = values[np.isfinite(values)]
        if values.size:
            units = symbol(maps[name].attrs.get("units", ""))
            rows.append((label, f"{factor * float(np.median(values)):.5g} {units}".strip()))

    for name in map(str, maps.data_vars):
        if name.startswith("com_"):
            median(f"median centre of mass, {name[4:]}", name)
        elif name.startswith("std_"):
            # 2.3548 standard deviations are the full width at half maximum of a Gaussian.
            median(f"median FWHM, {name[4:]} (2.3548 std)", name, 2.3548)
    if "kam" in maps:
        median("median KAM", "kam")
    return rows
