"""The provenance of results: the options of the command and facts about the checkpoint."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from vigil.pipeline.checkpoint import Checkpoint


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """The facts that results record about their checkpoint, as JSON."""
    config = checkpoint.config
    return {
        "path": str(checkpoint.folder),
        "model_digest": checkpoint.model_digest,
        "epoch": config.epoch,
        "seed": config.seed,
        "class_names": list(config.class_names),
        "threshold": config.threshold,
        "threshold_rule": config.threshold_rule,
        "weights_name": config.weights_name,
        "weights_trained": config.weights_trained,
        "spec": asdict(config.spec),
        "spec_digest": config.spec.digest,
    }


def as_json(value: object) -> Any:
    """Convert options to JSON values: dataclasses to objects, paths to text."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value
