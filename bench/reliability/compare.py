"""The contents of files in a form that is equal for equal runs: all but times of creation."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigil.extract.files import LOCK_NAME
from vigil.pipeline.checkpoint import CONFIG_NAME
from vigil.pipeline.run_folder import TENSORBOARD_NAME

TIMES = frozenset({"created_at", "content_digest"})
"""Names of what differs between equal runs; the digest in a checkpoint covers its time, too."""


def feature_content(path: Path) -> dict[str, tuple[Any, ...]]:
    """Name of each dataset and attribute -> its type, shape and value."""
    content = {}
    with h5py.File(path) as file:
        nodes: dict[str, Any] = {name: file.attrs[name] for name in set(file.attrs) - TIMES}
        file.visititems(
            lambda name, node: nodes.update(
                {f"/{name}": node[()]} if hasattr(node, "dtype") else {}
            )
        )
    for name, value in nodes.items():
        array = np.asarray(value)
        plain = array.tolist() if array.dtype.kind == "O" else array.tobytes()
        content[name] = array.dtype.str, array.shape, plain
    return content


def training_content(run: Path) -> dict[str, Any]:
    """Relative path of each file of a training -> its content without times of creation.

    Curves for TensorBoard are left out, because every start writes a new file of them.
    """
    content: dict[str, Any] = {}
    for path in run.rglob("*"):
        name = path.relative_to(run)
        if not path.is_file() or name.name == LOCK_NAME or name.parts[0] == TENSORBOARD_NAME:
            continue
        content[str(name)] = path.read_bytes()
        if name.name == CONFIG_NAME:
            config = json.loads(content[str(name)])
            content[str(name)] = {key: config[key] for key in config.keys() - TIMES}
    return content
