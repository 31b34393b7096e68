"""The table of methods, by name. Importing this module does not import torch."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vigil.model.settings import Settings

if TYPE_CHECKING:
    from vigil.model.detector import Detector

METHODS = {
    "joint": "vigil.model.joint",
    "joint_plus": "vigil.model.joint_plus",
    "sultani": "vigil.model.baselines.sultani",
    "rtfm": "vigil.model.baselines.rtfm",
    "zhang": "vigil.model.baselines.zhang",
    "dubey": "vigil.model.baselines.dubey",
    "bn_wvad": "vigil.model.baselines.bn_wvad",
    "ur_dmu": "vigil.model.baselines.ur_dmu",
    "zhu": "vigil.model.baselines.zhu",
    "svm": "vigil.model.baselines.svm",
    "knn": "vigil.model.baselines.knn",
    "hasan": "vigil.model.baselines.hasan",
    "lu": "vigil.model.baselines.lu",
    "zhong": "vigil.model.baselines.zhong",
    "distribution": "vigil.model.distribution",
}
"""Name -> the module that defines it as ``METHOD``; imported only when requested."""

DEFAULT_METHOD = "joint"


@dataclass(frozen=True)
class Method:
    """How to build a detector."""

    model: type[Settings]
    """Settings of its layers."""
    loss: type[Settings]
    """Settings of its losses."""
    detector: "type[Detector]"
    """Built from both and the shape of its input."""


def find_method(name: str) -> Method:
    """Return the method with a name.

    Raises:
        ValueError: no method has this name; the message lists the names.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r} is unknown: use one of {', '.join(METHODS)}")
    method: Method = importlib.import_module(METHODS[name]).METHOD
    return method
