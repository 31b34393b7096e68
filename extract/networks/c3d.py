"""C3D (Tran et al., Learning spatiotemporal features with 3D convolutional networks, ICCV 2015).

It sees 16 consecutive frames at a time, so a clip of 64 has four time positions. The feature is fc6
after its ReLU, as in Sultani et al. (CVPR 2018). Legend: B batch, T frames, P = T / 16.
"""

from torch import Tensor, nn
from torch.nn import functional

from vigil.extract.networks.layouts import C3D_CHANNELS as CHANNELS

INPUT_FRAMES = 16


class C3D(nn.Module):
    """C3D up to fc6."""

    def __init__(self, _endpoint: str = "fc6") -> None:
        """Build the network, its weights not yet loaded; fc6 is the only endpoint."""
        super().__init__()
        for name, (num_in, num_out) in CHANNELS.items():
            self.add_module(name, nn.Conv3d(num_in, num_out, 3, padding=1))
        self.fc6 = nn.Linear(8192, 4096)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, 112, 112), T a multiple of 16 -> (B, P, 4096) float32."""
        batch_size, _, num_frames, height, width = x.shape
        x = x.reshape(batch_size, 3, -1, INPUT_FRAMES, height, width).transpose(1, 2).flatten(0, 1)
        for name in CHANNELS:
            x = functional.relu(self.get_submodule(name)(x))
            if name == "conv1":
                x = functional.max_pool3d(x, (1, 2, 2))
            elif name == "conv5b":
                x = functional.max_pool3d(x, 2, padding=(0, 1, 1))
            elif not name.endswith("a"):
                x = functional.max_pool3d(x, 2)
        x = functional.relu(self.fc6(x.flatten(1)))
        return x.float().reshape(batch_size, num_frames // INPUT_FRAMES, -1)
