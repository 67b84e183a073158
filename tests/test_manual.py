"""README and manual: every Python block compiles and names what exists, every command and option exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.cli.guide import chapters
from dfxm_dask.run.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "dfxm_dask/guide"
PAGES = [ROOT / "README.md", *sorted(GUIDE.glob("*.md"))]
RESULTS = [ROOT / f"{folder}.md" for folder in ("scripts/bench/RESULTS", "scripts/evaluate/RESULTS", "tests/README")]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"\bdfxm-dask (?=[a-z-])([^`\n#|]+)")


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text("utf-8")) if name == language]


def fault_of_command(text: str, *, whole: bool = True) -> str:
    """What click refuses in a command line: its name and options, and the values where the command is whole."""
    words = [word for word in shlex.split(text.strip().rstrip(",.;:)")) if word not in ("...", "[options]")]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"no command {words[0]}"
        command, words = found, words[1:]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
    if unknown:
        return f"no option {unknown[0]}"
    try:
        if whole and not isinstance(command, click.Group):
            command.parse_args(click.Context(command, resilient_parsing=False), list(words))
    except click.UsageError as error:
        return error.format_message()
    return ""


def faults_of_python(text: str) -> list[str]:
    """Names of dfxm_dask, and arguments of its functions, that do not exist."""
    faults = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dfxm_dask"):
            module = importlib.import_module(node.module or "")
            faults += [f"{node.module}.{a.name}" for a in node.names if not hasattr(module, a.name)]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dfxm_dask":
            faults += [] if node.attr in dfxm_dask.__all__ else [f"dfxm_dask.{node.attr}"]
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("dfxm_dask."):
            function = getattr(dfxm_dask, node.func.attr, None) if isinstance(node.func, ast.Attribute) else None
            known = inspect.signature(function).parameters if function else {}
            open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values()) if function else True
            given = [word.arg for word in node.keywords if word.arg and word.arg not in known]
            faults += [] if open_ended else [f"{ast.unparse(node.func)}({word}=)" for word in given]
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_pages__name_only_what_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    assert [(c, fault) for c in COMMAND.findall(text) if (fault := fault_of_command(c, whole=False))] == []
    whole = [c for block in blocks(page, "shell") for c in COMMAND.findall(block)]
    assert [(c, fault) for c in whole if (fault := fault_of_command(c))] == []
    assert [fault for block in blocks(page, "python") for fault in faults_of_python(block)] == []
    for block in blocks(page, "yaml"):
        if "steps:" in block:
            assert parse_recipe(block, page).steps


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("run maps scan.zarr --workers 2", ""),
        ("runs maps scan.zarr", "no command runs"),
        ("run maps scan.zarr --worker 2", "no option --worker"),
        ("run maps scan.zarr --workers two", "is not a valid integer"),
        ("reduce kam scan.zarr --radius 2", ""),
        ("ingest SOURCE... STORE --rio Y0:Y1", "no option --rio"),
    ],
)
def test_pages__the_check_finds_faults(text: str, fault: str) -> None:
    found = fault_of_command(text)
    assert fault in found
    assert bool(fault) == bool(found)
    assert sorted(faults_of_python("import dfxm_dask\ndfxm_dask.openscan()\ndfxm_dask.open_scan('a', chunk=1)")) == [
        "dfxm_dask.open_scan(chunk=)",
        "dfxm_dask.openscan",
    ]


def test_pages__links_lead_somewhere() -> None:
    found = 0
    for page in [*PAGES, *RESULTS]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
            found += 1
    assert found > 20


def test_readme__is_short_and_shows_one_picture() -> None:
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 8000
    assert text.count(b"![") == 1


def test_guide__contents_are_the_chapters() -> None:
    assert sorted(chapters()) == sorted(p.stem for p in GUIDE.glob("*.md") if p.stem != "index")
    listed = CliRunner().invoke(cli, ["guide"]).output
    assert all(name in listed and title in listed for name, title in chapters().items())


def test_guide__shows_a_chapter_and_refuses_others() -> None:
    shown = CliRunner().invoke(cli, ["guide", "first-scan"])
    assert shown.output.strip() == (GUIDE / "first_scan.md").read_text("utf-8").strip()
    refused = CliRunner().invoke(cli, ["guide", "second_scan"])
    assert refused.exit_code == 1
    assert "choose one of first_scan, beamline" in refused.output


def test_public_names__have_a_command_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in cli.commands if f"`{name}`" not in table] == []


def test_site__has_every_public_name() -> None:
    pages = runpy.run_path(str(ROOT / "scripts/website/pages.py"))["api_pages"]()
    listed = {
        name
        for text in pages.values()
        for name in re.findall(r"^\.\. auto(?:function|class):: dfxm_dask\.(\w+)", text, re.M)
    }
    assert listed == {*dfxm_dask.__all__} - {"__version__"}
    assert all(f"`{room}`" in pages["index"] for room in pages if room != "index")


def test_examples__are_run_by_tests() -> None:
    tests = "".join(p.read_text() for p in (ROOT / "tests/scenarios").glob("*.py"))
    names = [p.name for p in (ROOT / "scripts/examples").glob("*.py")]
    assert len(names) == 4
    assert [name for name in names if name not in tests] == []
