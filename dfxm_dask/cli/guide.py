"""The command that shows the manual."""

from __future__ import annotations

import re
from importlib.resources import files

import click

GUIDE = files("dfxm_dask") / "guide"


def chapters() -> dict[str, str]:
    """Titles of the chapters by name, in the order of the list of contents."""
    (contents,) = re.findall(r"```\{toctree\}\n(?::[^\n]*\n)*([a-z_\n]*)```", (GUIDE / "index.md").read_text("utf-8"))
    return {
        name: (GUIDE / f"{name}.md").read_text("utf-8").partition("\n")[0].lstrip("# ") for name in contents.split()
    }


@click.command()
@click.argument("chapter", required=False)
def guide(chapter: str | None) -> None:
    """Show a CHAPTER of the manual, or list the chapters."""
    import sys

    from dfxm_dask.errors import InputError
    from dfxm_dask.view.tables import say, show_table, terminal

    known = chapters()
    if chapter is None:
        show_table("manual", ("chapter", "title"), list(known.items()))
        say("Read one: dfxm-dask guide first_scan")
        return
    name = chapter.lower().replace("-", "_").removesuffix(".md")
    if name not in known:
        raise InputError(f"chapter {chapter!r} of the manual", "does not exist", f"choose one of {', '.join(known)}")
    text = (GUIDE / f"{name}.md").read_text("utf-8")
    if not sys.stdout.isatty():
        click.echo(text)
        return
    from rich.markdown import Markdown

    terminal().print(Markdown(text))
