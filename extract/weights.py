"""Pretrained weights: find, download, verify and load them; nothing is ever unpickled.

A network is built up to the endpoint asked for, and must find every one of its layers in the file;
what the file holds beyond that is not needed. Weights are identified by a digest over the tensors
that are used, so the same network in a ``.pt`` and a ``.safetensors`` file is the same.
"""

import hashlib
import http.client
import math
import os
import pickle
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from extract.errors import UserError
from extract.store import replace_file

DOWNLOAD_BLOCK = 1 << 20
TIMEOUT_SECONDS = 30


class WeightsError(UserError):
    """Weights cannot be had, are not what they claim to be, or do not fit the network."""


@dataclass(frozen=True)
class WeightsSource:
    """Where a backbone's official weights are, and how a download is checked."""

    url: str
    file_name: str
    git_blob_sha1: str | None
    """Name of the file's content in its git repository; None where none is published."""
    licence: str


@dataclass(frozen=True)
class Weights:
    """The weights in a network."""

    name: str
    """``random:SEED``, or the path of the file."""
    digest: str
    """sha256 over names, shapes and values of the tensors used."""
    trained: bool


Progress = Callable[[int, int | None], None]
"""Called with the bytes downloaded so far and their total, where it is known."""


def cache_folder() -> Path:
    """Where downloads are kept: $VIGIL_CACHE, else $XDG_CACHE_HOME/vigil, else ~/.cache/vigil."""
    if folder := os.environ.get("VIGIL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vigil"


def load_weights(
    network: nn.Module,
    weights: str,
    source: WeightsSource,
    progress: Progress | None = None,
) -> Weights:
    """Fill a network with weights, and say which.

    Args:
        network: built up to the endpoint asked for.
        weights: ``auto`` (cache, then download), ``random`` or ``random:SEED`` (untrained), or the
            path of a state dict (``.pt``, ``.pth``, ``.pyth``) or ``.safetensors`` file.
        source: the backbone's official weights, for ``auto``.
        progress: told how a download goes.

    Raises:
        WeightsError: names the file, what is wrong with it, and the remedy.
    """
    if weights == "random" or weights.startswith("random:"):
        seed = _seed(weights.partition(":")[2] or "0")
        _fill_at_random(network, seed)
        return Weights(f"random:{seed}", state_digest(network), trained=False)
    path = (fetch_weights(source, progress) if weights == "auto" else Path(weights)).absolute()
    load_state(network, read_state(path), str(path))
    return Weights(str(path), state_digest(network), trained=True)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise WeightsError(f"seed {text!r} of random weights is no number: use random:0")
    return int(text)


def _fill_at_random(network: nn.Module, seed: int) -> None:
    """He initialisation, every tensor from its own seed: the same at every endpoint.

    Every filter has mean 0, as trained ones nearly have: it then answers to edges and motion
    instead of brightness.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
                parameter.normal_(0, math.sqrt(2 / parameter[0].numel()), generator=generator)
                parameter.sub_(parameter.mean(dim=tuple(range(1, parameter.ndim)), keepdim=True))


def _used_state(network: nn.Module) -> dict[str, Tensor]:
    """The entries of the state dict that matter: not the counters of batch norm."""
    state = network.state_dict()
    return {name: state[name] for name in state if not name.endswith("num_batches_tracked")}


def state_digest(network: nn.Module) -> str:
    """sha256 over names, shapes and float32 values of the tensors in a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_used_state(network).items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, without what training programs wrap around them.

    Raises:
        WeightsError: no such file, no tensors in it, or it would have to be unpickled.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file (auto downloads the official one)")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is no plain state dict and would have to be unpickled, which can run any "
            "program: save its state dict as .safetensors"
        ) from error
    except Exception as error:  # of every type, depending on where the damage lies
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(
            f"{path} cannot be read as weights ({reason}): fetch it again"
        ) from error
    for wrapper in ("state_dict", "model_state", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    state = {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    if not state:
        raise WeightsError(f"{path} holds no tensors: give a state dict or a .safetensors file")
    return state


def load_state(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copy into a network every tensor it needs.

    Raises:
        WeightsError: names the layers that are missing, of another shape, or not finite.
    """
    needed = _used_state(network)
    missing = sorted({_layer_of(key) for key in needed if key not in state})
    if missing:
        raise WeightsError(
            f"{name} lacks the layers {', '.join(missing)}: give complete weights, or stop "
            "before them with --endpoint"
        )
    for key, tensor in needed.items():
        if state[key].shape != tensor.shape:
            raise WeightsError(
                f"{name}: {key} has the shape {tuple(state[key].shape)}, the network needs "
                f"{tuple(tensor.shape)}: these are the weights of another network"
            )
        if not torch.isfinite(state[key]).all():
            raise WeightsError(f"{name}: {key} holds values that are not finite: fetch it again")
    network.load_state_dict({key: state[key] for key in needed}, strict=False)


def _layer_of(key: str) -> str:
    """A unit's name stands for its convolution and its batch norm."""
    return key.rpartition(".")[0].removesuffix(".conv3d").removesuffix(".bn")


def cached_weights(source: WeightsSource) -> Path:
    """Where the official weights lie once they are downloaded."""
    return cache_folder() / source.file_name


def fetch_weights(source: WeightsSource, progress: Progress | None = None) -> Path:
    """The path of the official weights, from the cache or else downloaded into it.

    Raises:
        WeightsError: they cannot be downloaded; says how to bring them by hand.
    """
    path = cached_weights(source)
    if path.is_file():
        check_identity(path, source)
        return path
    partial = path.with_name(path.name + ".download")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(source.url, partial, progress)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"the weights could not be downloaded ({reason}): fetch {source.url} on another "
            f"machine and save it as {path}, give --weights PATH, or use --weights random to try "
            "the program without trained features"
        ) from error
    try:
        check_identity(partial, source)
    except WeightsError:
        partial.unlink()
        raise
    with replace_file(path) as temporary:
        partial.replace(temporary)
    return path


def _download(url: str, partial: Path, progress: Progress | None) -> None:
    """Download to a file, going on where an earlier try broke off."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing is left to download
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with partial.open("ab" if resumed else "wb") as file:
            while block := response.read(DOWNLOAD_BLOCK):
                file.write(block)
                have += len(block)
                if progress:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection broke off after {have} of {total} bytes; run again")


def check_identity(path: Path, source: WeightsSource) -> None:
    """Compare a file's content with what is published of it; some sources publish nothing.

    Raises:
        WeightsError: the content is not the published one.
    """
    if source.git_blob_sha1 is None:
        return
    actual = git_blob_sha1(path)
    if actual != source.git_blob_sha1:
        raise WeightsError(
            f"{path} is not the file published at {source.url} (git blob {actual}, not "
            f"{source.git_blob_sha1}): remove it if it is still there, and fetch it again"
        )


def git_blob_sha1(path: Path) -> str:
    """The name git gives a file's content: sha1 of ``blob <size>``, a zero byte, the bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(DOWNLOAD_BLOCK):
            digest.update(block)
    return digest.hexdigest()
