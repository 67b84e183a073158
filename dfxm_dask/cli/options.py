"""Parts that commands share: text read as values, options of all commands that compute, completion, output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.shell_completion import CompletionItem

from dfxm_dask.errors import DfxmError, StoppedError, StoreError

if TYPE_CHECKING:
    from dfxm_dask.run.events import Subscriber
    from dfxm_dask.run.recipe import Recipe
    from dfxm_dask.view.tables import Summary

PARTIAL = 3
CLUSTER = "NAME|FILE|tcp://..."


class _File(click.Path):
    """A path. An empty text is refused: it would mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) == "" or "\0" in str(value):
            self.fail("the path is empty or contains a zero byte", param, ctx)
        return super().convert(value, param, ctx)


FILE = _File(path_type=Path)


class Commands(click.Group):
    """Commands that report an error as one line on stderr, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StoppedError as error:
            from dfxm_dask.schema import printable

            click.echo(f"INCOMPLETE: {printable(' '.join(str(error).split()))}", err=True)
            raise SystemExit(PARTIAL) from None
        except DfxmError as error:
            from dfxm_dask.schema import printable

            raise click.ClickException(printable(" ".join(str(error).split()))) from error
        except BrokenPipeError:
            raise  # the reader has closed the pipe: click ends silently
        except OSError as error:
            raise click.ClickException(_refused(error, ctx)) from error
        except ValueError as error:
            # Dask reads the user's settings when it is imported.
            if not str(error).startswith("A dask config file"):
                raise
            raise click.ClickException(f"{' '.join(str(error).split())}; correct or move that file") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which they are used


def _refused(error: OSError, ctx: click.Context) -> str:
    """An error of the operating system as one line with a remedy."""
    from dfxm_dask.schema import printable

    where = " to ".join(str(name) for name in (error.filename, error.filename2) if name) or f"{ctx.invoked_subcommand}"
    reason = " ".join(str(error.strerror or error).split())
    remedy = "check that the path exists, that you may read and write it, and that the disk has free space"
    if "temporary directory" in reason:
        remedy = "set TMPDIR to a folder that you can write"
    return printable(f"{where}: {reason}; {remedy}")


def split_pair(text: str, what: str, convert: Callable[[str], Any], between: str = ",") -> tuple[Any, Any]:
    """Two values with a separator between them."""
    try:
        first, second = text.split(between)
        return convert(first.strip()), convert(second.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not {what}") from None


def read_roi(_: Any, __: Any, text: str | None) -> tuple[int, int, int, int] | None:
    """``y0:y1,x0:x1`` as four pixel numbers."""
    if text is None:
        return None
    y, x = split_pair(text, "y0:y1,x0:x1", lambda part: split_pair(part, "y0:y1,x0:x1", int, ":"))
    return *y, *x


def read_pixel_size(_: Any, __: Any, text: str | None) -> tuple[float, float] | None:
    """``Y,X`` in micrometres."""
    return None if text is None else split_pair(text, "Y,X in um, such as 0.2,0.06", float)


def read_shape(_: Any, __: Any, text: str | None) -> tuple[int, int] | None:
    """``Y,X`` in pixels."""
    return None if text is None else split_pair(text, "Y,X in pixels, such as 512,512", int)


def read_hkl(_: Any, __: Any, text: str | None) -> tuple[int, ...] | None:
    """``H,K,L`` as three whole numbers."""
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not H,K,L, such as 0,0,2 or -1,1,-1") from None


def read_goniometer(_: Any, __: Any, text: str | None) -> dict[str, float] | None:
    """``omega=A,eta=B`` as angles by motor."""
    if text is None:
        return None
    what = "a list of MOTOR=DEGREE, such as omega=6.43,eta=20.23"
    pairs = [split_pair(part, what, str, "=") for part in text.split(",")]
    try:
        return {motor: float(angle) for motor, angle in pairs}
    except ValueError:
        raise click.BadParameter(f"{text!r} is not {what}") from None


def crystal_options(function: Callable[..., None]) -> Callable[..., None]:
    """Options of commands that record the crystal and its setting in a store."""
    from dfxm_dask.cli.parameters import FieldType

    function = click.option(
        "--rotation-axis",
        metavar="Y,X",
        callback=read_pixel_size,
        help="Position of the rotation axis of omega in the frame, in um, to join reflections. [default: its middle]",
    )(function)
    function = click.option(
        "--frame",
        type=click.Choice(["laboratory", "sample"]),
        help="Axes of the pixels, to join reflections. laboratory: omega turns the sample against the pixels.",
    )(function)
    function = click.option("--energy", type=float, metavar="KEV", help="Photon energy, in keV.")(function)
    function = click.option(
        "--goniometer",
        metavar="omega=A,eta=B,mu=C",
        callback=read_goniometer,
        help="Setting of the reflection, in degree, to join reflections. Motors: mu, omega, eta, theta.",
    )(function)
    function = click.option(
        "--hkl", metavar="H,K,L", callback=read_hkl, help="Reflection of the scan, for g·b of boundaries."
    )(function)
    return click.option(
        "--lattice",
        metavar="{parameter: A, x: [h, k, l], z: [h, k, l]}",
        type=FieldType(dict),
        help="Crystal, for Burgers vectors of boundaries: lattice parameter A in um, and the crystal directions along"
        " the axes x (beam) and z (up) of the store. Add `kind: bcc` for a bcc crystal. [default kind: fcc]",
    )(function)


def read_layers(_: Any, __: Any, text: str | None) -> list[float] | None:
    """``0,1,2`` as positions of layers."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers in um, such as 0,1,2") from None


def read_motors(_: Any, __: Any, texts: tuple[str, ...]) -> dict[str, str]:
    """Texts ``motor=axis`` as a mapping."""
    return dict(split_pair(text, "MOTOR=AXIS, such as mu=phi", str, "=") for text in texts)


def read_share(_: Any, __: Any, text: str | None) -> tuple[int, int] | Literal["last"] | None:
    """``i/n`` as a share of a job array, or "last"."""
    if text is None or text == "last":
        return text  # type: ignore[return-value]
    return split_pair(text, "i/n, such as 1/8, or last", int, "/")


def load_plugins(_: Any, __: Any, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """Register the reductions of plug-in files before other options are read."""
    from dfxm_dask.run.recipe import load_plugin

    for file in files:
        try:
            load_plugin(file)
        except DfxmError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
    return files


def plugins_first(words: list[str]) -> list[str]:
    """The arguments of a command with every ``--plugin FILE`` in front, so that its reductions exist for the others."""
    own = words[: words.index("--")] if "--" in words else words
    first: list[str] = []
    rest: list[str] = []
    queue = iter(own)
    for word in queue:
        if word == "--plugin":
            first += [word, *[following for following in (next(queue, None),) if following is not None]]
        else:
            (first if word.startswith("--plugin=") else rest).append(word)
    return [*first, *rest, *words[len(own) :]]


plugin_option = click.option(
    "--plugin",
    "plugins",
    type=FILE,
    multiple=True,
    callback=load_plugins,
    is_eager=True,
    help="Python file that declares further reductions or figures. The file is executed: give only files that you"
    " trust.",
)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")


def answer(found: Summary, as_json: bool) -> None:
    """Print a summary: tables, or one JSON document and nothing else on stdout."""
    if as_json:
        click.echo(found.json())
    else:
        found.show()


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of packaged recipes for the completion of a shell; files where no name fits."""
    from dfxm_dask.sources.source import known_configs

    names = [CompletionItem(name) for name in known_configs("recipes") if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def complete_reduction(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of reductions for the completion of a shell."""
    from dfxm_dask.catalogue import load_reductions

    return [CompletionItem(name) for name in sorted(load_reductions()) if name.startswith(incomplete)]


def complete_preset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of simulated samples for the completion of a shell."""
    from dfxm_dask.phantoms.presets import PRESETS

    return [CompletionItem(name, help=p.summary) for name, p in PRESETS.items() if name.startswith(incomplete)]


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that computes."""
    function = click.option("--overwrite", is_flag=True, help="Recompute steps that are already complete.")(function)
    function = click.option("--events", type=FILE, help="Append all events to this file, as JSON lines.")(function)
    function = click.option(
        "--workers",
        type=click.IntRange(0),
        help="Number of worker processes, or of jobs; 0 computes in this process. [default: 0 for a scan of less than"
        " 200 MB of uncompressed counts, else one per core]",
    )(function)
    return click.option("--cluster", metavar=CLUSTER, help="Cluster that computes. [default: this machine]")(function)


shard_option = click.option(
    "--shard",
    "share",
    metavar="i/n|last",
    callback=read_share,
    help="Compute only this share of the layers, in this process and without network ports, as a task of a job array."
    " The share `last` waits for the others, then computes steps that require all layers, and missing blocks.",
)


def compute(
    recipe: Recipe,
    store: Path,
    plugins: tuple[Path, ...] = (),
    *,
    cluster: str | None,
    workers: int | None,
    events: Path | None,
    overwrite: bool,
    share: tuple[int, int] | Literal["last"] | None = None,
) -> bool:
    """Plan and run a recipe, a small scan in this process, else on a cluster. Returns True for a complete result."""
    from dfxm_dask.run.execute import plan, refuse_share, run_recipe, starts_workers
    from dfxm_dask.run.stopping import heeding_signals

    if cluster and workers == 0:
        raise click.UsageError("--workers 0 computes in this process: leave out --cluster")
    alone = share not in (None, "last")
    refuse_share(share, cluster or workers, overwrite)
    planned = plan(recipe, store)  # errors appear before a cluster starts
    if store.is_dir() and not os.access(store, os.W_OK | os.X_OK):
        raise StoreError(
            f"store {store}", "cannot be written", "copy it to a folder of your own, or request write access"
        )
    with ExitStack() as stack:
        client = None
        if not alone and starts_workers(planned, cluster, workers):
            from dfxm_dask.run.clusters.cluster import open_cluster

            client = stack.enter_context(open_cluster(cluster, workers=workers, plugins=plugins))
        stack.enter_context(heeding_signals())
        publish = subscribers(stack, events)
        report = run_recipe(recipe, store, client=client, publish=publish, overwrite=overwrite, share=share)
    if alone and not (report.stopped or report.quarantined or report.absent):
        return True  # a share is done; a last run computes the rest
    return bool(report.complete)


def subscribers(stack: ExitStack, events: Path | None) -> tuple[Subscriber, ...]:
    """Subscribers to the events of a run: the terminal or log on stderr, and the file of ``--events``."""
    from dfxm_dask.run.events import choose_subscriber, json_lines

    if events:
        with events.open("a"):  # a path that cannot be written is refused before the work
            pass
    shown = stack.enter_context(choose_subscriber(sys.stderr))
    return (shown, json_lines(events)) if events else (shown,)
