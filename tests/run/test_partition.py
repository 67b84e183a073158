"""A network that breaks in mid-run: driver and scheduler on one host, the workers on another one.

The hosts are two network namespaces joined by a cable. What submits jobs is a stand-in for SLURM that starts the job
script on the other host, so that everything else is as on a cluster: set-up, TLS, time-outs, lives of workers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfxm_dask.run.execute import run_recipe
from tests.stores import contents, raw_store

LAYERS = 16
RECIPE = "name: late\nsteps:\n  - moments: {background: 60}\n  - slow_sum: {seconds: 0.3}\n"
SETUP = """
kind: slurm
jobs: 1
workers_per_job: 2
memory: 1GiB
walltime: "01:00:00"
interface: cable
shared_directory: %s
"""
SBATCH = """#!/bin/bash
if [ "$1" = --test-only ]; then cat >/dev/null; exit 0; fi
script=$(mktemp -p %s job.XXXX)
cp "$1" "$script"
setsid ip netns exec %s bash "$script" >>"$script.out" 2>&1 </dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = "#!/bin/bash\nkill -TERM -- -$1 2>/dev/null\n"
SQUEUE = '#!/bin/bash\nfor process in $(pgrep -f %s/job.); do echo "$process RUNNING"; done\n'
DRIVER = """
import sys
from dfxm_dask.errors import DfxmError
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import load_plugin

setup, plugin, recipe, store = sys.argv[1:]


def say(event):
    print(type(event).__name__, flush=True)


if __name__ == "__main__":
    load_plugin(plugin)
    with open_cluster(setup, plugins=(plugin,)) as client:
        client.wait_for_workers(2, timeout=60)
        report = run_recipe(recipe, store, client=client, publish=(say,))
        print("complete" if report.complete else "not complete", flush=True)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces, joined by an interface that is called ``cable`` on both."""
    if sys.platform != "linux" or os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs Linux, root and iproute2")
    near, far = f"dfxm-near-{os.getpid()}", f"dfxm-far-{os.getpid()}"
    try:
        try:
            ip("netns", "add", near)
            ip("netns", "add", far)
            ip("link", "add", "cable", "netns", near, "type", "veth", "peer", "name", "cable", "netns", far)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        for host, address in ((near, "198.51.100.1/30"), (far, "198.51.100.2/30")):
            ip("-netns", host, "address", "add", address, "dev", "cable")
            ip("-netns", host, "link", "set", "lo", "up")
            ip("-netns", host, "link", "set", "cable", "up")
        yield near, far
    finally:
        for host in (near, far):
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)


@pytest.mark.parametrize("seconds", [pytest.param(k, marks=pytest.mark.slow) for k in (10, 20, 60)])
def test_run_recipe__goes_on_after_a_partition(
    hosts: tuple[str, str], slow_plugin: Path, tmp_path: Path, seconds: int
) -> None:
    near, far = hosts
    raw_store(tmp_path, layers=LAYERS, shape=(5,), size=(32, 32)).rename(tmp_path / "cut.zarr")
    shutil.copytree(tmp_path / "cut.zarr", tmp_path / "serial.zarr")
    files = {"recipe.yaml": RECIPE, "slurm.yaml": SETUP % tmp_path, "driver.py": DRIVER}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run_recipe(tmp_path / "recipe.yaml", tmp_path / "serial.zarr")
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in {"sbatch": SBATCH % (tmp_path, far), "scancel": SCANCEL, "squeue": SQUEUE % tmp_path}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)

    driver = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            near,
            sys.executable,
            *(str(tmp_path / n) for n in ("driver.py", "slurm.yaml")),
            str(slow_plugin),
            *(str(tmp_path / n) for n in ("recipe.yaml", "cut.zarr")),
        ],
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    hang = threading.Timer(seconds + 240, driver.kill)
    hang.start()
    said: list[str] = []
    done = 0
    try:
        assert driver.stdout
        for line in driver.stdout:
            said.append(line)
            done += line == "BlockDone\n"
            if done == 3:
                done += 1
                ip("-netns", far, "link", "set", "cable", "down")
                time.sleep(seconds)
                during = len(ledger_lines(tmp_path / "cut.zarr"))
                ip("-netns", far, "link", "set", "cable", "up")
        assert driver.wait(timeout=10) == 0, "".join(said)
    finally:
        hang.cancel()
        if driver.poll() is None:
            driver.kill()
            driver.wait()
        driver.stdout.close()
        for process in subprocess.run(["ip", "netns", "pids", far], capture_output=True, text=True).stdout.split():
            subprocess.run(["kill", "-KILL", process], capture_output=True, check=False)
    assert said[-1] == "complete\n", "".join(said)
    assert during < 2 * (LAYERS + 1), "the network broke after the run"
    blocks = [(line["step"], line["block"]) for line in ledger_lines(tmp_path / "cut.zarr") if "block" in line]
    assert len(blocks) == len(set(blocks)) == 2 * LAYERS
    assert contents(tmp_path / "cut.zarr") == contents(tmp_path / "serial.zarr")


def ledger_lines(store: Path) -> list[dict[str, Any]]:
    """Lines of all ledgers of results, with the step that each belongs to."""
    found = [p for p in store.rglob(".ledger/*.jsonl") if "raw" not in p.parts]
    return [{"step": p.stem, **json.loads(line)} for p in found for line in p.read_text().splitlines() if line]
