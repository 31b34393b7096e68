"""Every backbone of the table: its input and output, and that it equals the library's network.

Those that compute for seconds are marked slow; `make test` skips them.
"""

import warnings

import numpy as np
import pytest
import torch
from fake_backbone import at_half_size
from i3d_reference import relative_error
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms._presets import VideoClassification

from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.placement import place
from vigil.extract.networks.weights import load_weights

CPU = torch.device("cpu")
LIGHT = ("r3d_18", "x3d_s")
ENTRIES = [
    pytest.param(name, marks=() if name in LIGHT else pytest.mark.slow) for name in BACKBONES
]
TORCHVISION_HEADS = {
    "swin3d_t": "head",
    "swin3d_s": "head",
    "swin3d_b": "head",
    "r3d_18": "fc",
    "mc3_18": "fc",
    "r2plus1d_18": "fc",
    "s3d": "classifier.1",
    "mvit_v2_s": "head.1",
}
PYTORCHVIDEO = ("i3d_r50", "slow_r50", "slowfast_r50", "x3d_s", "x3d_m", "csn_r101")


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (2, 3, 8, 14, 14)).astype(np.float32))
    smooth = nn.functional.interpolate(coarse, (64, 224, 224), mode="trilinear")
    return smooth.permute(0, 2, 3, 4, 1).to(torch.uint8).contiguous()


def at_test_size(name):
    """Return the backbone; Swins at half their size, which is four times as fast."""
    return at_half_size(name) if name.startswith("swin") else BACKBONES[name]


def filled(name):
    """The network with random weights, in which every part contributes, unlike in a new one."""
    backbone = BACKBONES[name]
    network = backbone.build(backbone.endpoint(None))
    load_weights(network, "random", backbone.sources)
    generator = torch.Generator().manual_seed(0)
    # Residual sums, and any differences in them, grow with depth; plain sequences fade.
    scale = 1.2 if name in ("i3d", "s3d") else 0.5
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.weight.data.uniform_(0.6 * scale, 1.4 * scale, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            for values in (module.bias.data, module.running_mean):
                values.normal_(0, 0.1, generator=generator)
    return network


def library_features(name, state, views):
    """The mean of the library network's values before its classifier: (B, C)."""
    if name in TORCHVISION_HEADS:
        network = get_model(name, weights=None)
        head, axes = network.get_submodule(TORCHVISION_HEADS[name]), (2, 3, 4)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pytorchvideo.models import hub
        network = getattr(hub, name)(pretrained=False)
        head, axes = network.blocks[-1].proj, (1, 2, 3)
    unexpected = network.load_state_dict(state, strict=False).unexpected_keys
    assert not unexpected
    seen = []
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network.eval()(library_input(name, views))
    (features,) = seen
    return features.mean(dim=axes) if features.ndim == 5 else features


def library_input(name, views):
    """Frames picked and normalised by torchvision, with the documented figures."""
    backbone = at_test_size(name)
    frames = views[:, list(backbone.frame_indices)].permute(0, 1, 4, 2, 3) / 255
    if name in TORCHVISION_HEADS:
        documented = get_model_weights(name).DEFAULT.transforms()
        mean, std = documented.mean, documented.std
    else:  # pytorch.org/hub, facebookresearch_pytorchvideo_*
        mean, std = [0.45] * 3, [0.225] * 3
    size = [backbone.pixels.size] * 2
    clip = VideoClassification(crop_size=size, resize_size=size, mean=mean, std=std)(frames)
    if name != "slowfast_r50":
        return clip
    slow = torch.linspace(0, clip.shape[2] - 1, clip.shape[2] // 4).long()
    return [clip.index_select(2, slow), clip]


@pytest.mark.parametrize("name", ENTRIES)
def test_features_have_the_layout_and_do_not_depend_on_the_batch(name, views):
    backbone = at_test_size(name)
    network = filled(name)
    placed = place(network, backbone, CPU, "fp32", rungs=["plain"])
    both = placed.run(views)
    assert both.shape == (2, *backbone.layout[backbone.endpoint(None)])
    assert both.dtype == torch.float32
    assert both.isfinite().all()
    assert relative_error(both[:1], both[1:]) > 1e-3
    if name in TORCHVISION_HEADS or name in PYTORCHVIDEO:
        alone = library_features(name, network.state_dict(), views[1:])[:, None]
    else:
        alone = placed.run(views[1:])
    assert relative_error(both[1:], alone) < 1e-5
