"""Ordered class names, defined only here. Class index 0 is always normal."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from vigil.extract.errors import UserError

NORMAL = "Normal"
ANOMALY = "Anomaly"
"""The class of anomalous videos without a named class; a named class, if known, replaces it."""

UCF_CRIME: tuple[str, ...] = (
    NORMAL,
    "Abuse",
    "Arrest",
    "Arson",
    "Assault",
    "Burglary",
    "Explosion",
    "Fighting",
    "RoadAccidents",
    "Robbery",
    "Shooting",
    "Shoplifting",
    "Stealing",
    "Vandalism",
)

# The codes in the names of XD-Violence's videos.
_XD_VIOLENCE_CODES = {
    "A": NORMAL,
    "B1": "Fighting",
    "B2": "Shooting",
    "B4": "Riot",
    "B5": "Abuse",
    "B6": "CarAccident",
    "G": "Explosion",
}
XD_VIOLENCE: tuple[str, ...] = tuple(_XD_VIOLENCE_CODES.values())

_XD_VIOLENCE_NAME = re.compile(r".+__#.*_label_([A-Z0-9]+(?:-[A-Z0-9]+)*)")
_UBNORMAL_NAME = re.compile(r"(ab)?normal_scene_\d+_scenario_?\d+(?:_(?:\d+|fog|smoke|fire))*")
# There are 13 cameras. Videos of the original training set have three digits and are normal.
_SHANGHAITECH_NAME = re.compile(r"(?:0[1-9]|1[0-3])_\d{3}(\d?)")
_EXTENSION = re.compile(r"\.[A-Za-z]\w{1,3}$")

# The folders in which UCF-Crime's lists and archives keep normal videos, in lower case.
_NORMAL_NAMES = frozenset(
    {
        NORMAL.lower(),
        "training_normal_videos_anomaly",
        "testing_normal_videos_anomaly",
        "normal_videos_event",
        "normal_videos_for_event_recognition",
    }
)


class UnknownClassError(UserError):
    """A video has a class that the model was not trained on."""


def canonical_class(name: str) -> str:
    """The class that a folder or label stands for: `NORMAL` for its variants, else the name."""
    return NORMAL if name.lower() in _NORMAL_NAMES else name


def classes_in_name(video: str) -> tuple[str, ...]:
    """The classes that a dataset encodes in a video's name, the main one first, or ().

    These are XD-Violence (``..._label_B1-B2-G``, in the order of importance), UBnormal
    (``abnormal_scene_...``) and, only for a name without a folder, ShanghaiTech (``01_0014``).
    """
    name = _EXTENSION.sub("", PurePosixPath(video).name)
    if match := _XD_VIOLENCE_NAME.fullmatch(name):
        codes = [code for code in match[1].split("-") if code != "0"]
        if codes and set(codes) <= _XD_VIOLENCE_CODES.keys():
            return tuple(dict.fromkeys(_XD_VIOLENCE_CODES[code] for code in codes))
    if match := _UBNORMAL_NAME.fullmatch(name):
        return (ANOMALY if match[1] else NORMAL,)
    if "/" not in video and (match := _SHANGHAITECH_NAME.fullmatch(name)):
        return (ANOMALY if match[1] else NORMAL,)
    return ()


def class_index(class_names: Sequence[str], class_name: str, video: str = "a video") -> int:
    """The index of a class, 0 for normal; ``video`` is only for the error message.

    Raises:
        UnknownClassError: names the class, the video and the known classes.
    """
    if class_name not in class_names:
        raise UnknownClassError(
            f"class {class_name!r} of {video} is unknown: the classes are "
            f"{', '.join(class_names)}; correct the annotation, leave the video out, or train "
            "with this class"
        )
    return class_names.index(class_name)
