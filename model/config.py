"""The settings of the joint model and of its losses, with the paper's values as defaults.

The paper is Majhi et al., "Weakly-supervised Joint Anomaly Detection and Classification", FG 2021.
Importing this module does not import torch: the command line is built from it.
"""

from dataclasses import dataclass
from typing import Literal

from vigil.model.settings import FrontConfig, Settings, require

DetectionActivation = Literal["linear", "relu"]


@dataclass(frozen=True)
class ModelConfig(FrontConfig):
    """The layers of the joint model. With all stages off it is l1 of the paper's ablation."""

    temporal: bool = True
    """Stage 1, an LSTM over the segments beside the features themselves (the paper's l2)."""
    second_attention: bool = True
    """Stage 4, attention for classification computed from the detector (the paper's l3)."""
    first_attention: bool = True
    """Stage 2, attention over segments before both heads (the paper's l4, the whole model)."""
    lstm_size: int = 1024
    """Width of the LSTM."""
    attention_size: int = 1024
    """Width of the global latent of the first attention."""
    detection_size: int = 96
    """Width of the detector's hidden layer, the latent that the second attention reads."""
    second_attention_size: int = 24
    """Width per segment of the second attention."""
    classification_size: int = 256
    """Width of the classifier's hidden layer."""
    dropout: float = 0.6
    """Share of units that both heads drop in training."""
    detection_activation: DetectionActivation = "linear"
    """Activation of the detector's hidden layer; the authors' program uses none."""


@dataclass(frozen=True)
class LossConfig(Settings):
    """The weights of the losses (the paper, section III)."""

    detection_weight: float = 0.9
    """Share of the detection loss; the classification loss has the rest."""
    attention_weight: float = 1e-3
    """Weight of the attention loss."""
    smoothness_weight: float = 8e-5
    """Weight of the squared differences of neighbouring scores in anomalous videos."""
    sparsity_weight: float = 8e-5
    """Weight of the summed scores of anomalous videos."""
    margin: float = 1.0
    """By how much an anomalous video's highest score should exceed a normal video's."""
    dense_penalty: float = 0.0
    """Weight of the squared weights of all dense layers; the authors' program uses 1e-3."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        share = self.detection_weight
        require(share <= 1, "detection_weight", share, "from 0 to 1")
