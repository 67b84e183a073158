"""Functions for Python users: questions about a store or a recipe, each answered by a
:class:`~dfxm_dask.view.tables.Summary`; and ingest with its progress shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from dfxm_dask.errors import DfxmError, RecipeError
from dfxm_dask.run.events import duration, many, megabytes
from dfxm_dask.store import ingest as store_ingest
from dfxm_dask.view.tables import Summary, Table

if TYPE_CHECKING:
    from dfxm_dask.run.checks.forecast import Forecast
    from dfxm_dask.run.events import Event
    from dfxm_dask.run.plan import Plan
    from dfxm_dask.run.recipe import Recipe

P = ParamSpec("P")
T = TypeVar("T")


def with_progress(function: Callable[P, T], name: str) -> Callable[P, T]:
    """A function with the progress of its counterpart in :mod:`dfxm_dask.run.execute`; silent with ``each``."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        if "each" in options:
            return function(*args, **options)
        run: Callable[..., T] = getattr(import_module("dfxm_dask.run.execute"), name)
        return run(*args, **options)

    return call


ingest = with_progress(store_ingest.ingest, "run_ingest")


def info(store: str | Path) -> Summary:
    """Content of a store: axes, variables, steps with their parameters, remarks, and missing parts.

    Parameters
    ----------
    store : path

    Returns
    -------
    Summary
        ``as_dict()["complete"]`` is False for a store with unfinished steps, absent layers or absent frames.

    Raises
    ------
    StoreError
        Not a store of this package.

    Examples
    --------
    >>> dfxm_dask.info("scan.zarr")    # doctest: +SKIP
    """
    from dfxm_dask.view.store_facts import given_words, store_facts

    facts, _ = store_facts(store)
    axes = [
        (
            row["axis"],
            row["motor"],
            row["positions"],
            f"{row['first']:.6g}",
            f"{row['last']:.6g}",
            row["unit"],
            row["source"],
            f"{row['scan_mode']} ({row['scan_mode_source']})" if row["scan_mode"] else "",
        )
        for row in facts["axes"]
    ]
    variables = [
        (
            row["variable"],
            ", ".join(f"{dim} {size}" for dim, size in row["dims"].items()),
            row["dtype"],
            row["unit"],
            megabytes(row["bytes"]),
        )
        for row in facts["variables"]
    ]
    steps = [
        (
            row["group"],
            row["step"],
            row["blocks"] if row["done"] == row["blocks"] else f"{row['done']} of {row['blocks']}",
            megabytes(row["bytes"]),
            row["version"],
            given_words(row["parameters"]),
        )
        for row in facts["steps"]
    ]
    return Summary(
        facts,
        f"{store}: {facts['title']} (schema version {facts['schema_version']})",
        Table("axes", ("axis", "motor", "positions", "from", "to", "unit", "source", "rows"), axes, (2, 3, 4)),
        *(f"{row['axis']}: {row['note']}" for row in facts["axes"] if row["note"] and row["note"] != _known(row)),
        Table("variables", ("variable", "dims", "dtype", "unit", "size"), variables, (4,), detail=True),
        Table("steps", ("group", "step", "blocks", "on disk", "version", "parameters"), steps, (2, 3)),
        *(f"NOTE: {text}" for text in facts["remarks"]),
        *(f"INCOMPLETE: {text}" for text in facts["problems"]),
        *(f"INCOMPLETE: absent from the source: {text}" for text in facts["absent"]),
        *(["complete"] if facts["complete"] else []),
    )


def _known(axis: dict[str, Any]) -> str:
    """The note on an axis that repeats the columns of the table."""
    return f"{axis['source']}: {axis['motor']}"


def check(recipe: Recipe | str | Path, store: str | Path) -> Summary:
    """Steps of a recipe on a store with their cost, without the blocks that earlier runs have computed.

    Raises
    ------
    RecipeError, StoreError, IncompleteError
        See :func:`plan`.
    """
    made, name = _planned(recipe, store)
    return Summary(*_plan_parts(made, name, store))


def plan(
    recipe: Recipe | str | Path,
    store: str | Path,
    *,
    workers: int | None = None,
    memory_limit: str | None = None,
    cluster: str | None = None,
) -> Summary:
    """Cost of a recipe on a store: tasks, memory of a worker, bytes and files. No pixel is read.

    Parameters
    ----------
    recipe : name, path or Recipe
    store : path
    workers : int, optional
        Workers of the run. By default 0, which is this process, for a scan of less than 200 MB of uncompressed counts,
        else one for each core.
    memory_limit : str, optional
        Memory of a worker, such as "2GiB". By default an even share of the memory of this machine.
    cluster : name or path, optional
        Configuration that sets workers and memory.

    Returns
    -------
    Summary
        ``as_dict()["fits"]`` is False for a run that exceeds the memory of a worker or the free space, and
        ``as_dict()["refused"]`` then gives the reason.

    Raises
    ------
    RecipeError
        Unknown recipe, or a step that requires variables that are neither in the store nor written by an earlier step.
    StoreError
        Not a store.
    IncompleteError
        The raw data are incomplete.

    Examples
    --------
    >>> dfxm_dask.plan("maps", "scan.zarr")    # doctest: +SKIP
    """
    return planned(recipe, store, workers=workers, memory_limit=memory_limit, cluster=cluster)[0]


def planned(
    recipe: Recipe | str | Path,
    store: str | Path,
    *,
    workers: int | None,
    memory_limit: str | None,
    cluster: str | None,
) -> tuple[Summary, DfxmError | None]:
    """The summary of :func:`plan`, and the error of a run that does not fit."""
    from dfxm_dask.run.checks.forecast import forecast, refuse_unfit
    from dfxm_dask.run.clusters.cluster import read_cluster
    from dfxm_dask.run.execute import starts_workers

    made, name = _planned(recipe, store)
    if cluster and "://" in cluster:
        raise RecipeError(
            f"cluster {cluster}", "does not publish its workers before a run", "give --workers and --memory-limit"
        )
    count, limit = read_cluster(cluster).sized(workers, memory_limit).limits()
    count = count if starts_workers(made, cluster, workers) else 0  # as the command run does
    found, refused = forecast(made), None
    try:
        refuse_unfit(made, found, limit)
    except DfxmError as error:
        refused = error
    facts, *parts = _plan_parts(made, name, store)
    facts |= {
        "to_do": {
            "passes": [asdict(one) for one in found.passes],
            "tasks": found.tasks,
            "memory_bytes": found.memory_bytes,
            "disk_bytes": found.disk_bytes,
            "files": found.files,
        },
        "workers": count,
        "worker_memory_bytes": limit,
        "fits": refused is None,
        "refused": refused and str(refused),
    }
    parts += _forecast_parts(found, count, limit)
    return Summary(facts, *parts, *([f"DOES NOT FIT: {refused}"] if refused else [])), refused


def _planned(recipe: Recipe | str | Path, store: str | Path) -> tuple[Plan, str]:
    from dfxm_dask.run.execute import plan as make
    from dfxm_dask.run.recipe import Recipe, read_recipe

    asked = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    return make(asked, store), asked.name


def _plan_parts(made: Plan, recipe: str, store: str | Path) -> tuple[Any, ...]:
    """Facts of a plan, and the parts that show them."""
    steps = [
        {
            "step": step.name,
            "group": step.group,
            "blocks": len(step.blocks),
            "unit": step.unit,
            "memory_bytes": step.memory_bytes,
            "bytes_read": step.bytes_read,
            "bytes_written": step.bytes_written,
            "fused_with": step.fused_with,
        }
        for step in made.steps
    ]
    facts = {
        "recipe": recipe,
        "store": str(store),
        "steps": steps,
        "left_out": [{"step": step, "reason": reason} for step, reason in made.left_out],
        "remarks": made.remarks,
        **{name: getattr(made, name) for name in ("tasks", "memory_bytes", "bytes_read", "bytes_written")},
    }
    words: tuple[Callable[[Any], Any], ...] = (str, str, int, str, megabytes, megabytes, megabytes, ", ".join)
    return (
        facts,
        Table(
            f"{recipe} on {store}",
            ("step", "group", "blocks", "unit", "memory of a task", "read", "written", "in one pass with"),
            [tuple(shown(value) for shown, value in zip(words, step.values(), strict=True)) for step in steps],
            (2, 4, 5, 6),
        ),
        *(f"{step}: will be left out, {reason}" for step, reason in made.left_out),
        *(f"NOTE: {text}" for text in made.remarks),
        f"in total: {many(made.tasks, 'task')}, each up to {megabytes(made.memory_bytes)} of memory; "
        f"{megabytes(made.bytes_read)} to read, {megabytes(made.bytes_written)} to write",
    )


def _forecast_parts(found: Forecast, workers: int, limit: int) -> list[str | Table]:
    """Cost of the passes of a run that remain."""
    if not found.passes:
        return ["all blocks are on disk: a run has nothing to compute"]
    rows = [(" + ".join(one.steps), one.blocks, megabytes(one.disk_bytes), one.files) for one in found.passes]
    where = f"on {many(workers, 'worker')}" if workers else "in this process"
    return [
        Table("still to compute", ("pass", "blocks", "on disk", "files and folders"), rows, (1, 2, 3)),
        f"still to compute: {many(found.tasks, 'task')} {where}, each with "
        f"{megabytes(found.memory_bytes)} of {megabytes(limit)} of memory (by declaration); "
        f"{megabytes(found.disk_bytes)} in {found.files} files and folders",
    ]


def verify(
    store: str | Path,
    *,
    deep: int = 0,
    seed: int | None = None,
    repair: bool = False,
    client: Any = None,
    publish: tuple[Callable[[Event], None], ...] | None = None,
) -> Summary:
    """Faults of a store: sizes and checksums of all files, and blocks computed again.

    Parameters
    ----------
    store : path
    deep : int
        Number of random blocks to compute again and compare.
    seed : int, optional
        Of the random choice.
    repair : bool
        Recompute damaged results by the recipe that the store records.
    client : distributed.Client, optional
        Reads files, and repairs, in parallel.
    publish : tuple of callables, optional
        Receive the events of a repair. By default a progress bar, see :func:`dfxm_dask.run_recipe`.

    Returns
    -------
    Summary
        ``as_dict()["sound"]`` is False if faults remain; ``as_dict()["faults"]`` lists them.

    Raises
    ------
    StoreError
        Not a store.
    LockedError
        With ``repair``: a run is active on the store.

    Examples
    --------
    >>> dfxm_dask.verify("scan.zarr", deep=2).as_dict()["sound"]    # doctest: +SKIP
    True
    """
    from dfxm_dask.run.checks.verify import verify as look

    found = look(store, deep=deep, seed=seed, repair=repair, client=client, publish=publish)
    again = f", {many(len(found.recomputed), 'block')} recomputed" if deep else ""
    checked = f"{many(found.files, 'file')} of blocks, {megabytes(found.bytes)}{again} in {duration(found.seconds)}"
    facts = asdict(found) | {
        "store": str(store),
        "sound": not found.faults,
        "faults": [{**asdict(fault), "text": str(fault)} for fault in found.faults],
        "repaired": [{**asdict(fault), "text": str(fault)} for fault in found.repaired],
    }
    return Summary(
        facts,
        *(f"REPAIRED  {fault}" for fault in found.repaired),
        *(f"WRONG     {fault}" for fault in found.faults),
        f"{store}: {many(len(found.faults), 'fault') if found.faults else 'sound'}; {checked}",
    )


def report(store: str | Path, out: str | Path | None = None) -> Summary:
    """Page of a store as one HTML file: findings, pictures, missing parts, and how each step was computed.

    Parameters
    ----------
    store : path
    out : path, optional
        The page. By default ``<store>.html`` beside the store. A JSON file with the same facts goes beside the page.

    Returns
    -------
    Summary
        Findings and state of the store, with the paths ``page`` and ``json``.

    Raises
    ------
    StoreError
        Not a store, or a page that cannot be written at this path.

    Examples
    --------
    >>> dfxm_dask.report("scan.zarr")    # doctest: +SKIP
    """
    from dfxm_dask.view.report import scan_page
    from dfxm_dask.view.store_facts import measured

    page, beside, record = scan_page(store, out)
    rows = [(one["quantity"], measured(one)) for one in record["numbers"]]
    title = " in ".join(filter(None, ("findings", record["shown_layer"])))
    return Summary(
        {"page": page, "json": beside, **record},
        *([Table(title, ("quantity", "value"), rows, (1,))] if rows else []),
        f"page:     {page}",
        f"for programs: {beside}",
        *([] if record["complete"] else ["INCOMPLETE: the page names the missing parts"]),
    )


def doctor(folder: str | Path = ".", cluster: str | Path | None = None) -> Summary:
    """State of packages, codecs, memory, GPU and batch system, and fitness of a folder for stores.

    Parameters
    ----------
    folder : path
        Folder for stores. Probes are written into it and removed.
    cluster : name or path, optional
        Cluster to check as well.

    Raises
    ------
    RecipeError
        Unknown cluster, or a wrong configuration.
    """
    from dfxm_dask.run.checks.doctor import doctor as look

    found = look(folder, cluster)
    counts = {state: sum(finding.state == state for finding in found) for state in ("ok", "warn", "fail")}
    folder = Path(folder).resolve()
    rows = [(finding.name, finding.state, finding.found, finding.remedy) for finding in found]
    return Summary(
        {"folder": folder, "findings": [asdict(finding) for finding in found], "counts": counts},
        Table(f"doctor for {folder}", ("subject", "state", "finding", "remedy"), rows),
        ", ".join(f"{number} {state}" for state, number in counts.items()),
    )
