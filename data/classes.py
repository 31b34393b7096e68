"""Ordered class names, defined only here. Class index 0 is always normal."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from vigil.extract.errors import UserError
from vigil.extract.source import composed

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

# What archives add to the name of a class: part of a split, kind of file, task, number. UCF-Crime's
# are Training-Normal-Videos-Part-1, Testing_Normal_Videos_Anomaly, Normal_Videos_event and
# Normal_Videos_for_Event_Recognition. The task follows the videos: Normal_Anomaly is no such name.
_BEFORE_CLASS = r"\d*(?:train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?)?"
_AFTER_CLASS = (
    r"(?:(?:videos?|clips?|footage|recordings?)(?:anomaly(?:detection)?)?)?"
    r"(?:(?:for)?events?(?:recognition)?)?(?:class|folder|train(?:ing)?|test(?:ing)?)?"
    r"(?:part\d*)?"
)
_NORMAL_NAME = re.compile(rf"{_BEFORE_CLASS}normals?{_AFTER_CLASS}\d*")
_CLASS_NAME = re.compile(rf"{_BEFORE_CLASS}(.*?)s?{_AFTER_CLASS}")
_SOUNDS_NORMAL = re.compile(r"(?<!ab)(?<!non)(?<!not)(?<!un)normal|(?:non|not|no)anomal")


class UnknownClassError(UserError):
    """A video has a class that the model was not trained on."""


def canonical_class(name: str) -> str:
    """The class that a folder or label stands for: `NORMAL` for its variants, else the name."""
    return NORMAL if _NORMAL_NAME.fullmatch(_letters(name)) else composed(name)


def doubtful_classes(class_names: Iterable[str]) -> list[str]:
    """A warning for each class that may be normal, and for those that may be one class."""
    names = sorted(set(class_names) - {NORMAL})
    warnings = [
        f"the class {name!r} counts as an anomaly, although its name sounds normal: if it is, "
        f"call it {NORMAL}"
        for name in names
        if _SOUNDS_NORMAL.search(_letters(name))
    ]
    alike = defaultdict(list)
    for name in names:
        match = _CLASS_NAME.fullmatch(_letters(name))
        alike[(match and match[1]) or name].append(name)
    return warnings + [
        f"{' and '.join(map(repr, group))} count as different classes, although their names are "
        "alike: if they are one class, give them one name"
        for group in alike.values()
        if len(group) > 1
    ]


def _letters(name: str) -> str:
    """A name in lower case and without spaces, punctuation and symbols."""
    lower = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in lower if unicodedata.category(char)[0] not in "ZPS")


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
    known = list(map(composed, class_names))
    if composed(class_name) not in known:
        raise UnknownClassError(
            f"class {class_name!r} of {video} is unknown: the classes are "
            f"{', '.join(class_names)}; correct the annotation, leave the video out, or train "
            "with this class"
        )
    return known.index(composed(class_name))
