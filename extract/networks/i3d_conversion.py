"""Rename and transpose I3D's arrays from DeepMind's (TensorFlow's, Flax's) layout to ours."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

LOGITS = "logits.conv3d"
"""The classifier, which the network for features lacks: a 1 x 1 x 1 convolution with a bias."""

BRANCH = re.compile(r"Branch_([0-3])/Conv3d_0[ab]_([13])x\2")


def from_deepmind(variables: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict, in the names of pytorch-i3d, of Flax's ``params`` and ``batch_stats``.

    Kernels (T, H, W, in, out) become (out, in, T, H, W), and statistics (1, 1, 1, 1, C) become
    (C,). The batch norms were trained without a scale, which is 1.

    Raises:
        KeyError, ValueError: an array is missing, or a layer has an unknown name.
    """
    statistics = _layers(variables["batch_stats"])
    state = {}
    for layer, arrays in _layers(variables["params"]).items():
        state[f"{layer}.conv3d.weight"] = _kernel(arrays["Conv_0"]["kernel"])
        if f"{layer}.conv3d" == LOGITS:
            state[f"{LOGITS}.bias"] = _values(arrays["Conv_0"]["bias"])
            continue
        moving = statistics[layer]["BatchNorm_0"]
        state[f"{layer}.bn.bias"] = bias = _values(arrays["BatchNorm_0"]["bias"])
        state[f"{layer}.bn.weight"] = torch.ones_like(bias)
        state[f"{layer}.bn.running_mean"] = _values(moving["mean"])
        state[f"{layer}.bn.running_var"] = _values(moving["var"])
    return state


def _layers(tree: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Our name -> the arrays of each convolution unit."""
    layers: dict[str, Mapping[str, Any]] = {}
    for layer, content in tree.items():
        if layer.startswith("Mixed_"):
            layers |= {f"{layer}.{_branch(name)}": unit for name, unit in content.items()}
        else:
            layers["logits" if layer.startswith("Logits/") else layer] = content
    return layers


def _branch(name: str) -> str:
    """``Branch_1/Conv3d_0b_3x3`` -> ``b1b``.

    The kernel decides between a and b: DeepMind's code calls Mixed_5b's b2b ``Conv3d_0a_3x3``.
    """
    if not (match := BRANCH.fullmatch(name)):
        raise ValueError(f"unknown layer {name!r}")
    branch, kernel = match.groups()
    if branch == "0":
        return "b0"
    return f"b{branch}" + ("b" if branch == "3" or kernel == "3" else "a")


def _kernel(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.transpose(4, 3, 0, 1, 2).copy())


def _values(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.reshape(-1).copy())
