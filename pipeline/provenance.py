"""Where results come from: the options of the command and the facts about a checkpoint."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint import CONFIG_NAME, Checkpoint, existing_checkpoint


def describe_checkpoint(path: Path, checkpoint: Checkpoint, which: str = "best") -> dict[str, Any]:
    """What results say about the checkpoint ``which`` of the run at a path, as JSON."""
    folder = existing_checkpoint(path) or existing_checkpoint(path / which) or path
    config = checkpoint.config
    return {
        "path": str(folder),
        "model_digest": json.loads((folder / CONFIG_NAME).read_bytes())["model_digest"],
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
    """Options as JSON takes them: dataclasses as objects, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value
