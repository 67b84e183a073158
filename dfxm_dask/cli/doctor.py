"""The command that looks at the installation, the machine and the place where stores are to lie."""

from __future__ import annotations

from pathlib import Path

import click

from dfxm_dask.cli.options import FILE


@click.command()
@click.argument("folder", type=FILE, default=Path())
@click.option("--cluster", metavar="NAME|FILE", help="Look at this cluster, too.")
def doctor(folder: Path, cluster: str | None) -> None:
    """Look at packages, codecs, memory, GPU and batch system, and whether FOLDER is good for stores.

    Only a folder of probes is written into FOLDER, and removed again. Exit code 1 says that something fails.
    """
    from dfxm_dask.run.checks.doctor import doctor as look
    from dfxm_dask.view.tables import say, show_table

    findings = look(folder, cluster)
    rows = [(finding.name, finding.state, finding.found, finding.remedy) for finding in findings]
    show_table(f"doctor for {folder.resolve()}", ("what", "state", "found", "what to do"), rows)
    count = {state: sum(finding.state == state for finding in findings) for state in ("ok", "warn", "fail")}
    say(", ".join(f"{number} {state}" for state, number in count.items()))
    if count["fail"]:
        raise SystemExit(1)
