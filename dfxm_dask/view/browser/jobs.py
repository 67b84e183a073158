"""Commands that the page starts: training, and recipes. One at a time; results only by the command's own commit."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from dfxm_dask.errors import InputError
from dfxm_dask.run.recipe import recipe_path
from dfxm_dask.store.integrity.files import replace_file
from dfxm_dask.view.browser.labels import labels_path

LINES = 200  # of output that are kept
CODE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if a shell started the server with &
from dfxm_dask.cli import main
main()
"""
COMMAND = (sys.executable, "-c", CODE)
RECIPES = ("weak_beam", "weak_beam_volume", "maps")


def weights_path(store: Path) -> Path:
    """Weights trained on the labels of a store."""
    return store.resolve().with_name(store.resolve().name + ".weights.safetensors")


def with_weights(recipe: str, store: Path) -> Path:
    """The recipe beside the store whose weak-beam images follow from the weights trained on its labels.

    Raises
    ------
    InputError
        There are no weights, or the recipe has no step ``classify_beams``.
    """
    if not weights_path(store).exists():
        raise InputError("run", "there are no weights yet", "train first")
    content = yaml.safe_load(recipe_path(recipe).read_text(encoding="utf-8"))
    changed = {"classify_beams": {"method": "lcnn", "weights": str(weights_path(store))}}
    changed["integrate_beams"] = {"method": "patch"}
    if not any("classify_beams" in step for step in content["steps"]):
        raise InputError(f"recipe {recipe}", "has no step classify_beams", "use weak_beam")
    for step in content["steps"]:
        for name in step:
            if name in changed:
                step[name] = (step[name] or {}) | changed[name]
    content["name"] = f"{content['name']}_labelled"
    path = store.resolve().with_name(f"{store.resolve().name}.{content['name']}.yaml")
    replace_file(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
    return path


def arguments_of(job: Any, store: Path) -> list[str]:
    """Arguments of the command line for a job of the page.

    Raises
    ------
    InputError
    """
    kind = job.get("kind") if isinstance(job, dict) else None
    if kind == "train":
        labels = labels_path(store)
        if not labels.exists():
            raise InputError("train", "there is no label", "draw boxes of weak and strong beam on two layers or more")
        return ["train", str(store), "--labels", str(labels), "--out", str(weights_path(store)), "--overwrite"]
    if kind == "run":
        recipe = job.get("recipe")
        if recipe not in RECIPES:
            raise InputError(f"recipe {recipe!r}", "is not offered here", f"use {', '.join(RECIPES)}")
        file = with_weights(str(recipe), store) if job.get("weights") else recipe
        return ["run", str(file), str(store), "--overwrite"]
    raise InputError(f"job {kind!r}", "is unknown", "use train or run")


class Jobs:
    """At most one command at a time, with the last lines of its output."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.lines: collections.deque[str] = collections.deque(maxlen=LINES)
        self.state: dict[str, Any] = {"running": False, "command": "", "code": None, "seconds": 0.0}
        self.started = 0.0

    def start(self, job: Any, store: Path) -> dict[str, Any]:
        """Start a command.

        Raises
        ------
        InputError
            Another command is running, or the job is unknown.
        """
        arguments = arguments_of(job, store)
        with self.lock:
            if self.process is not None and self.process.poll() is None:
                raise InputError("job", "another command is running", "wait for it or cancel it")
            self.lines.clear()
            self.started = time.monotonic()
            environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "120"}
            self.process = subprocess.Popen(
                [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                start_new_session=True, env=environment,
            )  # fmt: skip
            self.state = {"running": True, "command": "dfxm-dask " + " ".join(arguments), "code": None, "seconds": 0.0}
            threading.Thread(target=self._follow, args=(self.process,), daemon=True).start()
        return self.now()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.lines.append(line.rstrip("\n")[:400])
        code = process.wait()
        with self.lock:
            self.state |= {"running": False, "code": code, "seconds": time.monotonic() - self.started}

    def cancel(self) -> dict[str, Any]:
        """Interrupt the command, as Ctrl-C does: a run that is interrupted can be resumed."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        return self.now()

    def now(self) -> dict[str, Any]:
        """State and output of the last command."""
        seconds = time.monotonic() - self.started if self.state["running"] else self.state["seconds"]
        return {**self.state, "seconds": round(seconds, 1), "lines": list(self.lines)}

    def close(self) -> None:
        """Interrupt a running command and wait for it."""
        self.cancel()
        if self.process is not None:
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
