"""The contents of files in a form that is equal for equal runs: all but times of creation."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigil.extract.files import LOCK_NAME
from vigil.extract.store import SUFFIX
from vigil.pipeline.run_folder import TENSORBOARD_NAME
from vigil.pipeline.scoring.report.page import REPORT_NAME
from vigil.pipeline.scoring.results import MANIFEST_NAME

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
    from vigil.pipeline.checkpoint import CONFIG_NAME  # it loads torch

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


def results_content(results: Path) -> dict[str, Any]:
    """Relative path of each file of results -> its content.

    The manifest and the report are left out: they say when and how long a run was.
    """
    left_out = {LOCK_NAME, MANIFEST_NAME, REPORT_NAME}
    return {
        str(path.relative_to(results)): (
            feature_content(path) if path.suffix == SUFFIX else path.read_bytes()
        )
        for path in results.rglob("*")
        if path.is_file() and path.name not in left_out
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names whose contents are not equal, or that only one of two runs has."""
    missing = object()
    return sorted(
        name
        for name in one.keys() | other.keys()
        if one.get(name, missing) != other.get(name, missing)
    )
