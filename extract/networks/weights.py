"""Read, check and load pretrained weights, without ever executing code that a file contains.

A network is built up to the requested endpoint, and the file must contain all its layers; anything
else in it is ignored. Weights are identified by a digest over the tensors used, so a ``.pt`` and a
``.safetensors`` file of the same weights are equal.
"""

import hashlib
import math
import pickle
import zipfile
import zlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vigil.extract.networks.download import Progress, WeightsError, WeightsSource
from vigil.extract.networks.named_weights import find_weights, is_random, require_file

MAX_SEED_DIGITS = 18
NORMS = (nn.BatchNorm3d, nn.LayerNorm)


@dataclass(frozen=True)
class Weights:
    """The weights in a network."""

    name: str
    """``random:SEED``, or the path of the file."""
    digest: str
    """sha256 over names, shapes and values of the tensors used."""
    trained: bool


def load_weights(
    network: nn.Module,
    weights: str,
    sources: Sequence[WeightsSource],
    progress: Progress | None = None,
) -> Weights:
    """Fill a network with weights and return their identity.

    Args:
        network: built up to the requested endpoint.
        weights: ``random`` or ``random:SEED`` (untrained), or ``auto``, a name or the path of a
            state dict (``.pt``, ``.pth``, ``.pyth``) or ``.safetensors`` file, as `find_weights`
            reads them.
        sources: of the backbone's published weights.
        progress: called as a download advances.

    Raises:
        WeightsError: the weights are unusable; the message names file, fault and remedy.
    """
    if is_random(weights):
        seed = _seed(weights.partition(":")[2] or "0")
        _fill_at_random(network, seed)
        return Weights(f"random:{seed}", state_digest(network), trained=False)
    path = find_weights(weights, sources, progress).absolute()
    layer_names = ChainMap(*(dict(source.layer_names) for source in sources))
    load_state(network, _renamed(read_state(path), layer_names), str(path))
    return Weights(str(path), state_digest(network), trained=True)


def _renamed(state: Mapping[str, Tensor], layer_names: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename the layers of a state dict to the network's names."""
    renamed = {}
    for key, tensor in state.items():
        layer, dot, kind = key.rpartition(".")
        renamed[layer_names.get(layer, layer) + dot + kind] = tensor
    return renamed


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > MAX_SEED_DIGITS:
        raise WeightsError(
            f"seed {text!r} of random weights is not a whole number of at most {MAX_SEED_DIGITS} "
            "digits: use random:0"
        )
    return int(text)


def _fill_at_random(network: nn.Module, seed: int) -> None:
    """He initialisation; each tensor has its own seed, so it is the same at every endpoint.

    Every filter has mean 0, as trained ones nearly do, so it responds to edges and motion instead
    of brightness. Biases and tokens are 0; norms keep their initial values.
    """
    with torch.no_grad():
        for layer, module in network.named_modules():
            for name, parameter in module.named_parameters(layer, recurse=False):
                if parameter.ndim > 1:
                    _fill_filters(parameter, zlib.crc32(f"{seed}/{name}".encode()))
                elif not isinstance(module, NORMS):
                    parameter.zero_()


def _fill_filters(parameter: nn.Parameter, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameter.normal_(0, math.sqrt(2 / parameter[0].numel()), generator=generator)
    if parameter[0].numel() > 1:
        parameter.sub_(parameter.mean(dim=tuple(range(1, parameter.ndim)), keepdim=True))


def _used_state(network: nn.Module) -> dict[str, Tensor]:
    """The learned entries of the state dict: not counters and indices, which are integers."""
    return {
        name: value for name, value in network.state_dict().items() if value.is_floating_point()
    }


def state_digest(network: nn.Module) -> str:
    """`tensors_digest` of the learned tensors in a network."""
    return tensors_digest(_used_state(network))


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, unwrapped from what training programs store.

    Raises:
        WeightsError: the file does not exist, holds no tensors, or would have to be unpickled.
    """
    require_file(path)
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            _refuse_bomb(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a plain state dict and would have to be unpickled, which can execute "
            "any code: save its state dict as .safetensors"
        ) from error
    except Exception as error:  # of any type, depending on the damage
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
        name.removeprefix("module."): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not state:
        raise WeightsError(f"{path} holds no tensors: give a state dict or a .safetensors file")
    return state


def _refuse_bomb(path: Path) -> None:
    """Refuse a file that would fill the memory: torch never compresses the tensors it stores.

    Raises:
        ValueError: the parts of the file unpack to more bytes than the file has.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > (size := path.stat().st_size):
            raise ValueError(f"its {size} bytes unpack to {unpacked}")


def load_state(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copy every tensor that a network needs into it.

    Raises:
        WeightsError: a layer is missing, of another kind or shape, or not finite; names it.
    """
    needed = _used_state(network)
    missing = sorted({_layer_of(key) for key in needed if key not in state})
    if missing:
        raise WeightsError(
            f"{name} lacks the layers {', '.join(missing)}: give complete weights, or choose an "
            "endpoint before them"
        )
    for key, tensor in needed.items():
        if state[key].layout != torch.strided or not state[key].is_floating_point():
            raise WeightsError(f"{name}: {key} is not a plain tensor of floats: give other weights")
        if state[key].shape != tensor.shape:
            raise WeightsError(
                f"{name}: {key} has the shape {tuple(state[key].shape)}, but the network needs "
                f"{tuple(tensor.shape)}: these are the weights of another network"
            )
        if not torch.isfinite(state[key].float()).all():
            raise WeightsError(f"{name}: {key} holds values that are not finite: fetch it again")
    network.load_state_dict({key: state[key] for key in needed}, strict=False)


def _layer_of(key: str) -> str:
    """The layer of a tensor; the convolution and the batch norm of a unit share its name."""
    return key.rpartition(".")[0].removesuffix(".conv3d").removesuffix(".bn")
