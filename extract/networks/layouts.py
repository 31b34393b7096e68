"""The endpoints and layers of I3D and C3D, apart from the networks, which need torch."""

I3D = {
    "Conv3d_1a_7x7": (32, 64),
    "MaxPool3d_2a_3x3": (32, 64),
    "Conv3d_2b_1x1": (32, 64),
    "Conv3d_2c_3x3": (32, 192),
    "MaxPool3d_3a_3x3": (32, 192),
    "Mixed_3b": (32, 256),
    "Mixed_3c": (32, 480),
    "MaxPool3d_4a_3x3": (16, 480),
    "Mixed_4b": (16, 512),
    "Mixed_4c": (16, 512),
    "Mixed_4d": (16, 512),
    "Mixed_4e": (16, 528),
    "Mixed_4f": (16, 832),
    "MaxPool3d_5a_2x2": (8, 832),
    "Mixed_5b": (8, 832),
    "Mixed_5c": (8, 1024),
    "AvgPool": (7, 1024),
}
"""Endpoint -> (time positions, channels) for 64 frames, in the order of the network."""

MAX = ":max"
"""After the name of a layer: its maximum over height and width instead of the mean."""

I3D_JOINED = tuple(
    name + pooled for name in I3D if name.startswith("Mixed_") for pooled in (MAX, "")
)
"""What can be read in one pass, in order. Of a layer the mean comes last, because Kinetics actions
are read from the end."""


def layer_of(endpoint: str) -> str:
    """The layer that an endpoint reads."""
    return endpoint.removesuffix(MAX)


C3D = {"fc6": (4, 4096)}
"""The same of C3D."""

C3D_CHANNELS = {
    "conv1": (3, 64),
    "conv2": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
"""Convolution -> channels in and out."""

C3D_PUBLIC_NAMES = {
    **{f"{name}.conv": name for name in C3D_CHANNELS},
    "conv1a.conv": "conv1",
    "conv2a.conv": "conv2",
    **dict(
        zip(
            (f"features.{index}" for index in (0, 3, 6, 8, 11, 13, 16, 18)),
            C3D_CHANNELS,
            strict=True,
        )
    ),
    "classifier.0": "fc6",
}
"""Layer names in files converted from Caffe -> names here, which the first conversion introduced.

Names with ``.conv`` are MMAction2's; ``features`` and ``classifier`` come from a plain sequence, as
in ``c3d-pretrained.pth``. In all of them fc6 takes channels, height and width in this order.
"""
