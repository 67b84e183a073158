"""Trained networks on disk: weights as safetensors, and their description as JSON beside it.

Nothing is ever unpickled. The JSON contains the SHA-256 of the weights.
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
"""Largest size of a file of weights in bytes; the limit of its header and of its JSON is 16 MiB. Ours have some
thousand bytes (our choice)."""
LARGEST_HEADER = 1 << 24
MOST_OPTIONS, LARGEST_OPTION = 64, 1 << 16
"""Number of values in the options of an architecture, and the largest value (our choice)."""

NORMALISATION: dict[str, Any] = {
    "counts": "log(1 + max(counts - dark, 0))",
    "frame": "mean 0 and standard deviation 1 over lit pixels",
}
"""Input of a network, as text: it does not depend on the brightness of the training data."""

FACTS = ("architecture", "normalisation", "training", "scores", "temperature")

SETTLED = 2.0
"""Seconds since the last change of a file after which its stamp is reliable: two changes within one tick of the clock
of a file system have equal stamps (our choice)."""

_LOADED: dict[str, tuple[torch.nn.Module, dict[str, Any]]] = {}
_STAMPS: dict[Path, tuple[tuple[int, ...], str]] = {}


def _beside(path: Path) -> Path:
    """The JSON file that belongs to weights."""
    return path.with_suffix(".json")


def _write(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
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
    """Save weights as ``NAME.safetensors`` with ``NAME.json`` beside it, and return the path.

    Parameters
    ----------
    path : path
        Ends in .safetensors.
    net : torch.nn.Module
        The network to save.
    architecture : mapping
        ``name`` and ``options`` of :func:`dfxm_dask.beams.network.networks.network`.
    normalisation, training, scores : mappings
        Input of the network, its training data, and its scores; values that JSON can represent.
    temperature : float
        Divisor of the logits that calibrates the probabilities.
    patch : int, pixel
        Edge of the patches used for training.
    channels : int
        Images per patch.

    Raises
    ------
    InputError
        Another suffix, weights that do not belong to the architecture, a temperature that is not positive, or values
        that JSON cannot represent.
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
        raise InputError(f"weights {path}", f"do not belong to {dict(architecture)}", "give the architecture of net")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise InputError(f"weights {path}", "contain numbers that are not finite", "train with a smaller rate")
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
            f"weights {path}", f"values that JSON cannot represent: {error}", "give plain text and numbers"
        ) from (error)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, content)
    _write(_beside(path), text.encode() + b"\n")
    return path


def _content(path: Path) -> bytes:
    """Bytes of a weights file; pickles are refused."""
    if path.suffix.lower() in PICKLED:
        raise InputError(
            f"weights {path}",
            "are a pickle, which can execute arbitrary code",
            "save them as safetensors where you trust them",
        )
    if not path.is_file():
        raise InputError(f"weights {path}", "the file does not exist", "check the path, or use shipped('compact')")
    if path.stat().st_size > LARGEST:
        raise InputError(f"weights {path}", f"have {path.stat().st_size} bytes", "give weights of at most 1 GiB")
    content = path.read_bytes()
    # The header of safetensors may also be 0x80 + 256 k bytes long, but then a brace follows its length.
    opcodes = content[:1] == b"\x80" and content[1:2] <= b"\x05" and content[8:9] != b"{"
    if opcodes or content[:4] == b"PK\x03\x04":
        raise InputError(
            f"weights {path}",
            "are a pickle with another suffix, which can execute arbitrary code",
            "save them as safetensors where you trust them",
        )
    return content


def _damaged(path: Path, found: str) -> InputError:
    """Error for weights that are damaged."""
    return InputError(f"weights {path}", found, "copy both files again, or train again")


def _header(path: Path, content: bytes) -> dict[str, Any]:
    """Names, types, shapes and offsets of the tensors, checked to distinguish a foreign file from a truncated one."""
    if len(content) < 8:
        raise _damaged(path, f"have {len(content)} bytes, too few for safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    if length > LARGEST_HEADER or content[8:9] not in (b"{", b""):
        raise InputError(f"weights {path}", "are not a safetensors file", "give a file written by dfxm-dask train")
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
    """Description of weights: the JSON beside them, checked.

    Raises
    ------
    InputError
        The file is missing, was not written by this package, or has another format.
    """
    path = _beside(Path(path))
    if not path.is_file():
        raise InputError(
            f"weights {path.with_suffix('.safetensors')}", f"{path.name} is not beside them", "copy both files"
        )
    if path.stat().st_size > LARGEST_HEADER:
        raise _damaged(path, f"have {path.stat().st_size} bytes")
    try:
        described = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _damaged(path, "are not JSON") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        kind = described.get("format") if isinstance(described, dict) else type(described).__name__
        raise InputError(f"weights {path}", f"are of format {kind!r}, not {FORMAT!r}", "train again")
    absent = [name for name in (*FACTS, "sha256", "patch", "channels", "classes") if name not in described]
    if absent:
        raise _damaged(path, f"lack {', '.join(absent)}")
    if described["classes"] != list(CLASSES):
        raise InputError(f"weights {path}", f"have the classes {described['classes']}", f"train on {list(CLASSES)}")
    temperature, architecture = described["temperature"], described["architecture"]
    positive = isinstance(temperature, int | float) and math.isfinite(temperature) and temperature > 0
    named = isinstance(architecture, dict) and isinstance(architecture.get("options", {}), dict)
    if not positive or not named or not isinstance(architecture.get("name"), str):
        raise _damaged(path, f"have temperature {temperature!r} and architecture {architecture!r}")
    return described


def digest(path: str | Path) -> str:
    """SHA-256 of weights and their description, as hexadecimal digits.

    Raises
    ------
    InputError
        A file that is missing, or a pickle.
    """
    path = Path(path)
    return _digest(_content(path), facts(path))


def _digest(content: bytes, described: Mapping[str, Any]) -> str:
    """SHA-256 of the content of weights and their description."""
    total = hashlib.sha256(hashlib.sha256(content).digest())
    total.update(json.dumps(described, sort_keys=True).encode())
    return total.hexdigest()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Numbers that change whenever one of both files does; None if one is missing or was changed only just now.

    They include the change time of the inode, which cannot be set back, unlike that of the content.
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
    """Load a trained network with its description.

    Parameters
    ----------
    path : path
        Path of the safetensors file, with its JSON beside it.
    patch : int, pixel, optional
        Edge of the patches to classify.
    channels : int, optional
        Images per patch.
    architecture : str, optional
        Required architecture.

    Returns
    -------
    network : torch.nn.Module
        On the processor, for inference. One object per process and digest: do not train it further.
    facts : dict
        ``architecture``, ``normalisation``, ``training``, ``scores``, ``temperature``, ``patch``, ``channels``,
        ``classes``, ``parameters``, ``sha256``, ``digest``.

    Raises
    ------
    InputError
        A pickle; a file that is missing, truncated, changed or foreign; weights that do not belong to their
        architecture; an architecture, patch size or number of channels other than the requested one.
    """
    path = Path(path).absolute()
    stamp = _stamp(path)
    if stamp is not None and _STAMPS.get(path, ((), ""))[0] == stamp:
        net, described = _LOADED[_STAMPS[path][1]]
        _check(path, described, patch, channels, architecture)
        return net, described
    content, described = _content(path), facts(path)
    _check(path, described, patch, channels, architecture)
    key = _digest(content, described)
    if key not in _LOADED:
        _LOADED[key] = _built(path, content, described), {**described, "digest": key}
    if stamp is not None and _stamp(path) == stamp:  # otherwise they changed while they were read
        _STAMPS[path] = stamp, key
    return _LOADED[key]


def _check(
    path: Path, described: Mapping[str, Any], patch: int | None, channels: int | None, architecture: str | None
) -> None:
    """Refuse weights for another patch size, number of channels or architecture."""
    for name, wanted in (("patch", patch), ("channels", channels), ("architecture", architecture)):
        actual = described[name]["name"] if name == "architecture" else described[name]
        if wanted is not None and actual != wanted:
            raise InputError(f"weights {path} for {name} {wanted}", f"are for {actual}", "choose or train others")


def _built(path: Path, content: bytes, described: Mapping[str, Any]) -> torch.nn.Module:
    """Build the network of the weights for inference, after all checks."""
    header = _header(path, content)
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise _damaged(path, f"are not those that {_beside(path).name} describes")
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    architecture, options = described["architecture"]["name"], described["architecture"].get("options", {})
    values = [n for each in options.values() for n in (each if isinstance(each, list) else [each])]
    if len(values) > MOST_OPTIONS or not all(isinstance(n, int | float) and abs(n) <= LARGEST_OPTION for n in values):
        raise _damaged(path, f"have architecture {str(described['architecture'])[:200]}")
    try:
        with torch.device("meta"):  # shapes alone, without memory: sizes in the JSON are unchecked
            wanted = network(architecture, **options).state_dict()
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, f"have architecture {described['architecture']}, which cannot be built") from None
    shapes = {name: list(value.shape) for name, value in wanted.items()}
    actual = {name: entry.get("shape") for name, entry in header.items()}
    if shapes != actual:
        odd = sorted(set(shapes) ^ set(actual)) or [name for name in shapes if shapes[name] != actual[name]]
        raise InputError(
            f"weights {path}",
            f"do not belong to {described['architecture']}: {', '.join(odd[:3])}",
            "copy both files again",
        )
    first = next(value for value in wanted.values() if value.ndim == 4)
    if first.shape[1] != described["channels"]:
        raise _damaged(path, f"have {first.shape[1]} channels instead of {described['channels']}")
    net = network(architecture, **options)
    try:
        net.load_state_dict(from_bytes(content))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise _damaged(path, f"cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not all(bool(torch.isfinite(value).all()) for value in net.state_dict().values()):
        raise _damaged(path, "contain numbers that are not finite")
    return net.eval()


def shipped(name: str = "compact") -> Path:
    """Path of weights that are part of the package.

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
