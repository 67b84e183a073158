"""Help and completion of the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from dfxm_dask import cli


def test_help__loads_nothing_heavy() -> None:
    heavy = "{'dask', 'distributed', 'xarray', 'matplotlib', 'zarr', 'numba', 'pydantic', 'rich'} & set(sys.modules)"
    code = "import sys; sys.argv[1:] = ['--help']\nfrom dfxm_dask.cli import main\n"
    code += f"try: main()\nfinally: assert not {heavy}, {heavy}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dark-field X-ray microscopy" in done.stdout


@pytest.mark.parametrize("name", list(cli.cli.commands))
def test_help__is_there_for_every_command(name: str) -> None:
    result = CliRunner().invoke(cli.cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help__lists_every_command_with_a_whole_sentence() -> None:
    listed = CliRunner().invoke(cli.cli, ["--help"]).stdout.split("Commands:")[1].strip().splitlines()
    assert len(listed) == len(cli.cli.commands)
    assert [line for line in listed if line.endswith("...") or not line.endswith(".")] == []


def test_completion__has_a_script_and_names() -> None:
    script = CliRunner().invoke(cli.cli, prog_name="dfxm-dask", env={"_DFXM_DASK_COMPLETE": "zsh_source"})
    assert script.exit_code == 0
    assert "#compdef dfxm-dask" in script.stdout

    def names(*words: str) -> list[str]:
        *before, part = words
        found = ShellComplete(cli.cli, {}, "dfxm-dask", "_DFXM_DASK_COMPLETE").get_completions(before, part)
        return [item.value for item in found]

    assert names("run", "weak") == ["weak_beam", "weak_beam_volume"]
    assert names("explain", "mom") == names("reduce", "mom") == ["moment_errors", "moments"]
    assert names("reduce", "moments", "--back") == ["--background"]
    assert "al002" in names("simulate", "")
