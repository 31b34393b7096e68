"""The settings of the joint model and of its losses, with the paper's values as defaults.

The paper is Majhi et al., "Weakly-supervised Joint Anomaly Detection and Classification", FG 2021.
Importing this module does not import torch: the command line is built from it.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

DetectionActivation = Literal["linear", "relu"]
TimePool = Literal["none", "mean"]


def require(valid: bool, name: str, value: object, allowed: str) -> None:
    """Refuse a setting.

    Raises:
        ValueError: it is not valid; names the setting, its value and what is allowed.
    """
    if not valid:
        raise ValueError(f"{name} = {value!r} is not allowed: it must be {allowed}")


def require_literal(name: str, value: object, literal: Any) -> None:
    """Refuse a value that is not one of a ``Literal``'s.

    Raises:
        ValueError: names the setting, its value and what is allowed.
    """
    choices = get_args(literal)
    require(value in choices, name, value, f"one of {', '.join(map(repr, choices))}")


@dataclass(frozen=True)
class ModelConfig:
    """The layers of the joint model. With all stages off it is l1 of the paper's ablation."""

    temporal: bool = True
    """Stage 1, an LSTM over the segments beside the features themselves (the paper's l2)."""
    second_attention: bool = True
    """Stage 4, attention of classification drawn from the detector (the paper's l3)."""
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
    """Activation of the detector's hidden layer; the authors' program has none."""
    time_pool: TimePool = "none"
    """mean: average the stored time positions of a segment first; a fraction of the weights."""
    standardize: bool = False
    """Bring every dimension to mean 0 and deviation 1 of the training split first."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        for field in fields(self):
            if field.name.endswith("_size"):
                size = getattr(self, field.name)
                require(size >= 1, field.name, size, "at least 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        require_literal("detection_activation", self.detection_activation, DetectionActivation)
        require_literal("time_pool", self.time_pool, TimePool)


@dataclass(frozen=True)
class LossConfig:
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
    """By how much an anomalous video's highest score is to exceed a normal video's."""
    dense_penalty: float = 0.0
    """Weight of the squared weights of all dense layers; the authors' program has 1e-3."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        share = self.detection_weight
        require(0 <= share <= 1, "detection_weight", share, "from 0 to 1")
        for field in fields(self):
            value = getattr(self, field.name)
            require(0 <= value < math.inf, field.name, value, "a number from 0 up")
