"""Trained networks on disk: weights as safetensors, and all that is known of them as JSON beside it.

Nothing is ever unpickled. The two files know each other: the JSON holds the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfxm_dask.beams.network.networks import CLASSES, count_parameters, network
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH, nearest

if TYPE_CHECKING:
    import torch

FORMAT = "dfxm_dask weights 1"
FOLDER = Path(__file__).parent / "trained"

PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".bin")
LARGEST = 1 << 30
"""Bytes of a file of weights, and 16 MiB of its header and of its JSON: ours have some thousand (our choice)."""
LARGEST_HEADER = 1 << 24
MOST_OPTIONS, LARGEST_OPTION = 64, 1 << 16
"""Numbers in the options of an architecture, and the largest of them (our choice)."""

NORMALISATION: dict[str, Any] = {
    "counts": "log(1 + max(counts - dark, 0))",
    "frame": "mean 0 and standard deviation 1 over lit pixels",
}
"""What a network expects, in words: nothing about brightness is carried over from the training data."""

FACTS = ("architecture", "normalisation", "training", "scores", "temperature")

SETTLED = 2.0
"""Seconds since the last change of a file after which its stamp is trusted: two changes within one tick of the clock of
a file system look like one (our choice)."""

_LOADED: dict[str, tuple[torch.nn.Module, dict[str, Any]]] = {}
_STAMPS: dict[Path, tuple[tuple[int, ...], str]] = {}


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save(
    path: str | Path,
    net: torch.nn.Module,
    *,
    architecture: Mapping[str, Any],
    normalisation: Mapping[str, Any] = NORMALISATION,
    training: Mapping[str, Any],
    scores: Mapping[str, Any],
    temperature: float,
    patch: int = PATCH,
    channels: int = 1,
) -> Path:
    """Path of the weights, written as ``NAME.safetensors`` with ``NAME.json`` beside it.

    Parameters
    ----------
    path : path
        Ends in .safetensors.
    net : torch.nn.Module
        What is to be kept.
    architecture : mapping
        ``name`` and ``options`` of :func:`dfxm_dask.beams.network.networks.network`.
    normalisation, training, scores : mappings
        What the network expects, what it was trained on, and what it reached; anything that JSON can say.
    temperature : float
        By which logits are divided so that probabilities are calibrated.
    patch : int, pixel
        Edge of the patches that it was trained on.
    channels : int
        Images per patch.

    Raises
    ------
    InputError
        Another suffix, weights that are not of the architecture, a temperature that is not positive, or facts that
        JSON cannot say.
    """
    import torch
    from safetensors.torch import save as as_bytes

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"weights {path}", f"end in {path.suffix!r}", "name the file with .safetensors")
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError("temperature", f"is {temperature}", "give a positive number")
    tensors = {
        name: value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in net.state_dict().items()
    }
    wanted = network(architecture["name"], **architecture.get("options", {})).state_dict()
    if {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in tensors.items()}:
        raise InputError(f"weights {path}", f"are not those of {dict(architecture)}", "say what was built")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise InputError(f"weights {path}", "hold numbers that are not finite", "train with a smaller rate")
    content = as_bytes(tensors)
    facts = {
        "format": FORMAT,
        "sha256": hashlib.sha256(content).hexdigest(),
        "patch": patch,
        "channels": channels,
        "classes": list(CLASSES),
        "parameters": count_parameters(net),
        **dict(zip(FACTS, (architecture, normalisation, training, scores, float(temperature)), strict=True)),
    }
    try:
        text = json.dumps(facts, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"weights {path}", f"facts that JSON cannot say: {error}", "give plain words and numbers"
        ) from (error)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, content)
    _write(_beside(path), text.encode() + b"\n")
    return path


def _content(path: Path) -> bytes:
    if path.suffix.lower() in PICKLED:
        raise InputError(
            f"weights {path}",
            "are a pickle, which runs whatever its author wrote into it",
            "save them as safetensors where you trust them",
        )
    if not path.is_file():
        raise InputError(f"weights {path}", "there is no such file", "check the path, or use shipped('compact')")
    if path.stat().st_size > LARGEST:
        raise InputError(f"weights {path}", f"have {path.stat().st_size} bytes", "give weights of at most 1 GiB")
    content = path.read_bytes()
    # The header of safetensors may be 0x80 + 256 k bytes long, too, but then a brace follows its length.
    opcodes = content[:1] == b"\x80" and content[1:2] <= b"\x05" and content[8:9] != b"{"
    if opcodes or content[:4] == b"PK\x03\x04":
        raise InputError(
            f"weights {path}",
            "are a pickle under another name, which runs whatever its author wrote into it",
            "save them as safetensors where you trust them",
        )
    return content


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"weights {path}", found, "copy both files again, or train again")


def _header(path: Path, content: bytes) -> dict[str, Any]:
    """Names, types, shapes and places of the tensors; checked here so that a foreign file is told from a cut one."""
    if len(content) < 8:
        raise _damaged(path, f"have {len(content)} bytes, too few for safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    if length > LARGEST_HEADER or content[8:9] not in (b"{", b""):
        raise InputError(f"weights {path}", "are no safetensors file", "give what dfxm-dask train wrote")
    try:
        header = json.loads(content[8 : 8 + length])
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise _damaged(path, "have a header that cannot be read") from None
    if not isinstance(end, int) or len(content) != 8 + length + end:
        raise _damaged(
            path, f"have {len(content)} bytes instead of {8 + length + end if isinstance(end, int) else end}"
        )
    return tensors


def facts(path: str | Path) -> dict[str, Any]:
    """What is known of weights: the JSON beside them, checked.

    Raises
    ------
    InputError
        Absent, not ours, or of another format.
    """
    path = _beside(Path(path))
    if not path.is_file():
        raise InputError(
            f"weights {path.with_suffix('.safetensors')}", f"{path.name} is not beside them", "copy both files"
        )
    if path.stat().st_size > LARGEST_HEADER:
        raise _damaged(path, f"have {path.stat().st_size} bytes")
    try:
        known = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _damaged(path, "are no JSON") from None
    if not isinstance(known, dict) or known.get("format") != FORMAT:
        found = known.get("format") if isinstance(known, dict) else type(known).__name__
        raise InputError(f"weights {path}", f"are of format {found!r}, not {FORMAT!r}", "train again")
    absent = [name for name in (*FACTS, "sha256", "patch", "channels", "classes") if name not in known]
    if absent:
        raise _damaged(path, f"do not say {', '.join(absent)}")
    if known["classes"] != list(CLASSES):
        raise InputError(f"weights {path}", f"know the classes {known['classes']}", f"train on {list(CLASSES)}")
    temperature, architecture = known["temperature"], known["architecture"]
    positive = isinstance(temperature, int | float) and math.isfinite(temperature) and temperature > 0
    named = isinstance(architecture, dict) and isinstance(architecture.get("options", {}), dict)
    if not positive or not named or not isinstance(architecture.get("name"), str):
        raise _damaged(path, f"say temperature {temperature!r} and architecture {architecture!r}")
    return known


def digest(path: str | Path) -> str:
    """SHA-256 of weights and of what is known of them, as hexadecimal digits.

    Raises
    ------
    InputError
        A file that is absent, or a pickle.
    """
    path = Path(path)
    return _digest(_content(path), facts(path))


def _digest(content: bytes, known: Mapping[str, Any]) -> str:
    total = hashlib.sha256(hashlib.sha256(content).digest())
    total.update(json.dumps(known, sort_keys=True).encode())
    return total.hexdigest()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes whenever one of both files does: None where one is absent, or was changed only just now.

    The time of change of the entry is among it, which nobody can set back, unlike that of its content.
    """
    try:
        both = [os.stat(path), os.stat(_beside(path))]
    except OSError:
        return None
    if time.time() - max(s.st_ctime for s in both) < SETTLED:
        return None
    return tuple(n for s in both for n in (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns))


def load(
    path: str | Path, *, patch: int | None = None, channels: int | None = None, architecture: str | None = None
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A trained network with its training record.

    Parameters
    ----------
    path : path
        Of the safetensors file; the JSON must lie beside it.
    patch : int, pixel, optional
        Edge of the patches to classify.
    channels : int, optional
        Images per patch.
    architecture : str, optional
        What it must be.

    Returns
    -------
    network : torch.nn.Module
        On the processor, for inference. One per process and digest: do not train it further.
    facts : dict
        ``architecture``, ``normalisation``, ``training``, ``scores``, ``temperature``, ``patch``, ``channels``,
        ``classes``, ``parameters``, ``sha256``, ``digest``.

    Raises
    ------
    InputError
        A pickle; a file that is absent, cut, changed or foreign; weights that are not of their architecture; another
        architecture, patch size or number of channels than asked for.
    """
    path = Path(path).absolute()
    stamp = _stamp(path)
    if stamp is not None and _STAMPS.get(path, ((), ""))[0] == stamp:
        net, known = _LOADED[_STAMPS[path][1]]
        _check(path, known, patch, channels, architecture)
        return net, known
    content, known = _content(path), facts(path)
    _check(path, known, patch, channels, architecture)
    key = _digest(content, known)
    if key not in _LOADED:
        _LOADED[key] = _built(path, content, known), {**known, "digest": key}
    if stamp is not None and _stamp(path) == stamp:  # else they changed while they were read
        _STAMPS[path] = stamp, key
    return _LOADED[key]


def _check(
    path: Path, known: Mapping[str, Any], patch: int | None, channels: int | None, architecture: str | None
) -> None:
    for name, asked in (("patch", patch), ("channels", channels), ("architecture", architecture)):
        found = known[name]["name"] if name == "architecture" else known[name]
        if asked is not None and found != asked:
            raise InputError(f"weights {path} for {name} {asked}", f"are for {found}", "choose or train others")


def _built(path: Path, content: bytes, known: Mapping[str, Any]) -> torch.nn.Module:
    """The network that weights are of, for inference; everything about them is checked."""
    header = _header(path, content)
    if hashlib.sha256(content).hexdigest() != known["sha256"]:
        raise _damaged(path, f"are not the ones that {_beside(path).name} tells of")
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    architecture, options = known["architecture"]["name"], known["architecture"].get("options", {})
    values = [n for each in options.values() for n in (each if isinstance(each, list) else [each])]
    if len(values) > MOST_OPTIONS or not all(isinstance(n, int | float) and abs(n) <= LARGEST_OPTION for n in values):
        raise _damaged(path, f"say architecture {str(known['architecture'])[:200]}")
    try:
        with torch.device("meta"):  # shapes alone, without memory: what JSON says may be any size
            wanted = network(architecture, **options).state_dict()
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, f"say architecture {known['architecture']}, which cannot be built") from None
    shapes = {name: list(value.shape) for name, value in wanted.items()}
    found = {name: entry.get("shape") for name, entry in header.items()}
    if shapes != found:
        odd = sorted(set(shapes) ^ set(found)) or [name for name in shapes if shapes[name] != found[name]]
        raise InputError(
            f"weights {path}", f"are not of {known['architecture']}: {', '.join(odd[:3])}", "copy both files again"
        )
    first = next(value for value in wanted.values() if value.ndim == 4)
    if first.shape[1] != known["channels"]:
        raise _damaged(path, f"take {first.shape[1]} channels, and are said to take {known['channels']}")
    net = network(architecture, **options)
    try:
        net.load_state_dict(from_bytes(content))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise _damaged(path, f"cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not all(bool(torch.isfinite(value).all()) for value in net.state_dict().values()):
        raise _damaged(path, "hold numbers that are not finite")
    return net.eval()


def shipped(name: str = "compact") -> Path:
    """Path of weights that come with the package.

    Raises
    ------
    InputError
        An unknown name.

    Examples
    --------
    >>> shipped("compact").name
    'compact.safetensors'
    """
    names = sorted(p.stem for p in FOLDER.glob("*.safetensors"))
    if name not in names:
        raise InputError(f"shipped weights {name!r}", f"are unknown{nearest(name, names)}", f"use {', '.join(names)}")
    return FOLDER / f"{name}.safetensors"
