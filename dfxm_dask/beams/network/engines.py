"""Engines that run a network on patches: torch on a processor or a GPU, or onnxruntime where it is there and faster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dfxm_dask.beams.network.networks import STRONG, WEAK, one_thread
from dfxm_dask.beams.network.onnx_model import expressible, is_compact, onnx_model
from dfxm_dask.beams.patches import patch_starts
from dfxm_dask.errors import InputError
from dfxm_dask.schema import nearest

if TYPE_CHECKING:
    import torch

Engine = Literal["auto", "torch", "onnxruntime"]
Answer = Callable[[np.ndarray], np.ndarray]

ENGINES = ("auto", "torch", "onnxruntime")

BATCH = {"torch": (128, 16), "onnxruntime": (32, 4)}
"""Patches at a time, of the compact network and of others, whose features are larger (our choice, by measurement)."""

DEVICE_BATCH = 2048
"""Patches at a time on a GPU: more than a frame of 2160 × 2560 pixels has (our choice)."""


def chosen(net: torch.nn.Module, engine: str = "auto", device: str = "auto") -> tuple[str, str]:
    """The engine that runs a network, and the device that it runs on.

    Parameters
    ----------
    net : torch.nn.Module
    engine : "auto", "torch" or "onnxruntime"
        "auto" takes onnxruntime on a processor, for the architectures compact and published, where it is installed.
    device : str
        "auto" takes a GPU where torch sees one, unless onnxruntime is asked for. "cpu" or "cuda".

    Returns
    -------
    (str, str)
        Such as ("onnxruntime", "cpu"). The same for one network on one machine, whatever ran before.

    Raises
    ------
    InputError
        An unknown engine, one that is not installed, one that does not know the layers of the network or the device,
        or a GPU where there is none.

    Notes
    -----
    Patches of 64 px in a second on one core, over those of the published network patch by patch by torch (160 to 270
    in a second of a Xeon of 2.5 GHz with AVX-512), as ``scripts/benchmark.py networks`` finds them with torch 2.13 and
    onnxruntime 1.31; medians of processor time on a machine that had other work, too:

    ===========================  =====  ===========
    network                      torch  onnxruntime
    ===========================  =====  ===========
    compact, alone                  86          215
    compact, from raw counts        75          127
    published, alone, batched      3.2          7.1
    ===========================  =====  ===========

    So onnxruntime is faster for both. Other architectures were not measured and are left to torch. Nothing was
    measured on a GPU.
    """
    if engine not in ENGINES:
        raise InputError(
            f"engine {engine!r}", f"is unknown{nearest(engine, ENGINES)}", f"use one of {', '.join(ENGINES)}"
        )
    if engine == "onnxruntime" and device not in ("auto", "cpu"):
        raise InputError(f"engine onnxruntime on {device}", "runs on a processor only", "use torch, or device cpu")
    if engine == "onnxruntime" and not _installed():
        raise InputError(
            "engine onnxruntime", "is not installed", "install dfxm_dask[fast], or let engine be auto or torch"
        )
    if engine == "onnxruntime":
        onnx_model(net)  # refuses what it has no words for
        return "onnxruntime", "cpu"
    place = _device(device)
    faster = engine == "auto" and place == "cpu" and _installed() and expressible(net)
    return ("onnxruntime" if faster else "torch"), place


def engine_of(net: torch.nn.Module, engine: str = "auto", device: str = "auto") -> str:
    """Engine, version and device of a call of :func:`dfxm_dask.beams.network.inference.predict`, for the record.

    Parameters
    ----------
    net, engine, device
        As of :func:`chosen`.

    Returns
    -------
    str
        Such as "torch 2.13.0 on cpu". Results of one such text are the same to the last bit on one kind of processor.

    Raises
    ------
    InputError
        As of :func:`chosen`.

    Examples
    --------
    >>> from dfxm_dask.beams.network.networks import compact
    >>> engine_of(compact(), "torch", "cpu").split()[0]
    'torch'
    """
    name, place = chosen(net, engine, device)
    return f"{name} {version(name)} on {place}"


def batch_of(net: torch.nn.Module, engine: str) -> int:
    """Patches that an engine takes at a time."""
    return BATCH[engine][0 if is_compact(net) else 1]


def answers(net: torch.nn.Module, engine: str) -> Answer:
    """Log-odds of weak beam of a batch on a processor, as a function of patches (n, channel, y, x), float32.

    Parameters
    ----------
    net : torch.nn.Module
        Not changed. What it is made into for onnxruntime is kept once per process and weights.
    engine : "torch" or "onnxruntime"

    Returns
    -------
    callable
        Gives an array (n,), float32.
    """
    if engine == "onnxruntime":
        session = _session(onnx_model(net))
        return lambda patches: _odds(session.run(None, {"patches": patches})[0])
    import torch

    ready = for_inference(net)

    def answer(patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), one_thread():
            given = torch.from_numpy(patches).contiguous(memory_format=torch.channels_last)
            return _odds(ready(given).numpy())

    return answer


def for_inference(net: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network for use without training, on the processor.

    Channels lie last and the ReLUs work in place: fresh megabytes for each of them, which the system hands out page by
    page, would cost as much as the convolutions.
    """
    import torch

    ready = copy.deepcopy(net).eval()
    for part in ready.modules():
        if isinstance(part, torch.nn.ReLU):
            part.inplace = True
    return ready.to("cpu", memory_format=torch.channels_last)  # type: ignore[call-overload]


def on_device(
    net: torch.nn.Module,
    device: str,
    size: int,
    lit: np.ndarray | None = None,
    precision: torch.dtype | None = None,
) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Log-odds of weak beam of all patches of a frame on a GPU, as a function of the frame and of a table.

    Parameters
    ----------
    net : torch.nn.Module
        Not changed.
    device : str
        Of torch.
    size : int, pixel
        Edge of a patch.
    lit : array (y, x), bool, optional
        Pixels over which raw frames are standardised; all by default.
    precision : torch.dtype, optional
        Of the convolutions: half by default. Means, spreads and the dense layer of the compact network keep single
        precision, since a spread is a small difference of squares.

    Returns
    -------
    callable
        Of a frame (y, x), uint8 or uint16, and the logarithm of every count it can hold; or of a standardised frame,
        float32, and None. Gives an array (patch_y × patch_x,), float32.

    Notes
    -----
    Whole frames travel, from page-locked memory, and are cut and looked up there. Batches never cross a frame.
    """
    import torch

    place, half = torch.device(device), precision or torch.float16
    ready: Any = copy.deepcopy(net).eval().to(place)
    body = ready.features if is_compact(net) else ready
    body.to(half)
    body.register_forward_pre_hook(lambda _, given: (given[0].to(half),))
    body.register_forward_hook(lambda _, given, found: found.float())

    def sent(frame: np.ndarray) -> torch.Tensor:
        dtype = torch.from_numpy(np.empty(0, frame.dtype)).dtype
        page_locked = torch.empty(frame.shape, dtype=dtype, pin_memory=place.type == "cuda")
        page_locked.numpy()[...] = frame
        return page_locked.to(place)

    def looked_up(frame: np.ndarray, table: np.ndarray) -> torch.Tensor:
        # torch cannot index by 16 bits without a sign, so they travel as what they look like with one.
        levels = sent(frame.view(np.int16) if frame.dtype == np.uint16 else frame).int() & (table.size - 1)
        logs = torch.from_numpy(table.astype(np.float64)).to(place)
        pixels = torch.bincount((levels if mask is None else levels[mask]).flatten(), minlength=table.size).double()
        mean = float((pixels * logs).sum() / pixels.sum())
        spread = float(torch.sqrt((pixels * (logs - mean) ** 2).sum() / pixels.sum()))
        if not spread > 1e-6 * max(1.0, abs(mean)):  # as dfxm_dask.beams.patches.standardise
            return torch.zeros(frame.shape, device=place)
        return (logs.float().sub(mean) * (1 / spread))[levels]

    mask = None if lit is None else sent(np.asarray(lit, bool))

    def answer(frame: np.ndarray, table: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            seen = sent(frame) if table is None else looked_up(frame, table)
            rows, columns = (torch.from_numpy(_lines(n, size)).to(place) for n in frame.shape)
            tiles = seen[rows][:, columns].reshape(len(rows) // size, size, len(columns) // size, size)
            patches = tiles.transpose(1, 2).reshape(-1, 1, size, size)
            logits = [ready(part.contiguous(memory_format=torch.channels_last)) for part in patches.split(DEVICE_BATCH)]
            return _odds(torch.cat(logits).cpu().numpy())

    return answer


def _lines(length: int, size: int) -> np.ndarray:
    """Rows, or columns, of all patches one after another; a frame smaller than a patch is continued by reflection."""
    (first,) = patch_starts((length, 1), size)[:1]
    reflected = np.pad(np.arange(length), (0, max(0, size - length)), mode="symmetric")
    return reflected[first[:, None] + np.arange(size)].ravel()


@lru_cache(maxsize=4)
def _session(model: bytes) -> Any:
    """A session of onnxruntime on one thread; one per process and weights."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _odds(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits[:, WEAK] - logits[:, STRONG])


@lru_cache(maxsize=1)
def _installed() -> bool:
    return find_spec("onnxruntime") is not None


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device}", "torch sees no GPU here", "use cpu or auto")
    return device
