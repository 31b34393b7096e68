"""Class activation: which places of a clip a score comes from, by Grad-CAM at a layer.

Grad-CAM (Selvaraju et al., ICCV 2017) weights the channels of a layer's map with the gradient of a
score by them. It averages that gradient over the map first, which is exact if the features are
averages over the map too, but not for maxima: their gradient is at the one place that has the
maximum. So the gradient of each place is kept (HiResCAM, Draelos and Carin, arXiv 2011.08891):

    activation(t, y, x) = sum over channels c of map(c, t, y, x) * d score / d map(c, t, y, x)

The layer is the earliest that features are read from, so that all of the score passes through it.
Legend: T time positions of a feature, C channels, t, h, w the sides of a map.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import COMMA
from vigil.extract.networks.combinations import Network
from vigil.extract.networks.layouts import layer_of
from vigil.extract.networks.placement import FromPixels

LAYERS = {
    "c3d": "conv5b",
    "r3d_18": "layer4",
    "mc3_18": "layer4",
    "r2plus1d_18": "layer4",
    "s3d": "features",
    "i3d_r50": "blocks.5",
    "slow_r50": "blocks.4",
    "csn_r101": "blocks.4",
    "x3d_s": "blocks.4",
    "x3d_m": "blocks.4",
}
"""Backbone -> its last layer with maps, before what is pooled; i3d has endpoints instead."""
BEFORE = {"AvgPool": "Mixed_5c"}
"""Endpoint of i3d without a layer of its own -> the layer that it pools."""


def map_layer(backbone: str, endpoint: str) -> str:
    """The name of the layer whose map the features of an endpoint are read from.

    Raises:
        UserError: no such layer is known, as for networks of tokens or of two paths.
    """
    if backbone == "i3d":
        layer = layer_of(endpoint.split(COMMA)[0])
        return BEFORE.get(layer, layer)
    if backbone not in LAYERS:
        raise UserError(
            f"{backbone!r} cannot be explained in space: use a model trained on features of "
            + ", ".join(("i3d", *LAYERS))
        )
    return LAYERS[backbone]


@dataclass(frozen=True, eq=False)
class Activation:
    """What a clip's view adds to a score, place by place."""

    places: npt.NDArray[np.float64]
    """(t, h, w), of either sign."""
    features: npt.NDArray[np.float64]
    """(T, C) the clip's feature, computed anew in float32."""


class Activations:
    """Computes class activations with a network, in its plain form in float32."""

    def __init__(self, network: Network, time_pool: str, device: torch.device) -> None:
        """Prepare a copy of the network.

        Args:
            network: with its weights.
            time_pool: of the features' spec, none or mean.
            device: to compute on.

        Raises:
            UserError: as in `map_layer`.
        """
        backbone = network.backbone
        self.layer = map_layer(backbone.name, network.endpoint)
        self._select, self._device = backbone.select, device
        self._averages = time_pool == "mean"
        module = copy.deepcopy(network.module)
        self._network = FromPixels(module, backbone.pixels, torch.float32).to(device)
        self._watched: nn.Module = module.get_submodule(self.layer)

    def of(self, view: Tensor, gradient: npt.NDArray[np.float64]) -> Activation:
        """Return the activation of a clip's view.

        Args:
            view: (64, H, W, 3) uint8.
            gradient: (T, C) of the score by the clip's feature.
        """
        maps: list[Tensor] = []

        def begin_at(_module: nn.Module, _input: Any, output: Tensor) -> Tensor:
            maps.append(output.detach().requires_grad_())
            return maps[-1]

        frames = self._select(view.to(self._device)[None].contiguous())
        hook = self._watched.register_forward_hook(begin_at)
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
        try:
            with torch.enable_grad(), exact:
                features = self._network(frames)[0]
                if self._averages:
                    features = features.mean(dim=0, keepdim=True)
                weights = torch.from_numpy(gradient).to(features)
                (slope,) = torch.autograd.grad((features * weights).sum(), maps)
        finally:
            hook.remove()
        places = (maps[0].detach() * slope).double().movedim(0, 1)  # c3d has pieces of a clip here
        summed = places.flatten(1, 2).sum(dim=0)
        return Activation(summed.cpu().numpy(), features.detach().double().cpu().numpy())
