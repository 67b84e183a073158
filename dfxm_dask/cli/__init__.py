"""The command line. Exit codes: 0 complete, 1 error, 2 wrong usage, 3 incomplete.

Commands with ``--json`` print one JSON document on stdout, and nothing else. Numbers are numbers, NaN is null,
keys that end in ``bytes`` or ``seconds`` give their unit, other quantities have ``unit`` beside them. Errors are one
line on stderr; stdout then stays empty, except for `plan` and `doctor`, which print their findings with exit code 1.

Heavy packages (dask, xarray, zarr, matplotlib) load inside the commands that need them, so that help appears at once.
"""

from __future__ import annotations

import click

from dfxm_dask import __version__
from dfxm_dask.cli.checks import check, doctor, plan_run, verify
from dfxm_dask.cli.design import design
from dfxm_dask.cli.guide import guide
from dfxm_dask.cli.identify import identify, visibility
from dfxm_dask.cli.nights import follow, nightly, report
from dfxm_dask.cli.options import Commands
from dfxm_dask.cli.pictures import figures, view
from dfxm_dask.cli.reflections import join
from dfxm_dask.cli.runs import explain, reduce, reductions, run, train
from dfxm_dask.cli.scans import calibrate, demo, formats, info, ingest, simulate
from dfxm_dask.cli.volumes import compare, export
from dfxm_dask.surroundings import command_line


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dfxm-dask")
def cli() -> None:
    """Reduce dark-field X-ray microscopy scans to labelled maps.

    Scans may be larger than memory.

    \b
    A first look:
      dfxm-dask demo
    Your own scan:
      dfxm-dask ingest scan.h5 scan.zarr
      dfxm-dask run maps scan.zarr
      dfxm-dask figures scan.zarr figures

    \b
    Completion of commands, options and names by the Tab key (or zsh_source, fish_source):
      eval "$(_DFXM_DASK_COMPLETE=bash_source dfxm-dask)"

    Exit codes: 0 complete, 1 error, 2 wrong usage, 3 incomplete.
    """


def main() -> None:
    """The entry point ``dfxm-dask``."""
    command_line()
    cli(prog_name="dfxm-dask")


for command in (
    demo,
    simulate,
    ingest,
    formats,
    calibrate,
    join,
    info,
    check,
    plan_run,
    run,
    follow,
    reduce,
    verify,
    train,
    reductions,
    explain,
    doctor,
    view,
    figures,
    report,
    compare,
    visibility,
    identify,
    export,
    nightly,
    design,
    guide,
):
    cli.add_command(command)
