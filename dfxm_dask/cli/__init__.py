"""The command line. Exit codes: 0 done, 1 refused, 2 wrong usage, 3 done in part.

Whatever is heavy (dask, xarray, zarr, matplotlib) loads inside the commands that need it: help comes at once.
"""

from __future__ import annotations

import click

from dfxm_dask import __version__
from dfxm_dask.cli.checks import verify
from dfxm_dask.cli.doctor import doctor
from dfxm_dask.cli.guide import guide
from dfxm_dask.cli.nights import nightly, report
from dfxm_dask.cli.options import Commands
from dfxm_dask.cli.pictures import figures
from dfxm_dask.cli.plans import plan_run
from dfxm_dask.cli.runs import check, explain, reduce, reductions, run, train
from dfxm_dask.cli.scans import calibrate, demo, formats, info, ingest, simulate
from dfxm_dask.cli.volumes import compare, export
from dfxm_dask.surroundings import command_line


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dfxm-dask")
def cli() -> None:
    """Dark-field X-ray microscopy scans, larger than memory, reduced to labelled maps.

    A first look: `dfxm-dask demo`. Your own scan: `ingest`, then `run maps`, then `figures`. No scan: `simulate`.
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
    info,
    check,
    plan_run,
    run,
    reduce,
    verify,
    train,
    reductions,
    explain,
    doctor,
    figures,
    report,
    compare,
    export,
    nightly,
    guide,
):
    cli.add_command(command)
