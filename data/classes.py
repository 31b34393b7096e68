"""Ordered class names: the only place that knows them. Class index 0 is always normal."""

from collections.abc import Sequence

from extract.errors import UserError

NORMAL = "Normal"

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
    """The class that a folder or label means: `NORMAL` for every way to say so, else the name."""
    return NORMAL if name.lower() in _NORMAL_NAMES else name


def class_index(class_names: Sequence[str], class_name: str, video: str = "a video") -> int:
    """The index of a class, 0 for normal; ``video`` is who has it, for the message.

    Raises:
        UnknownClassError: names the class, the video and the classes there are.
    """
    if class_name not in class_names:
        raise UnknownClassError(
            f"class {class_name!r} of {video} is unknown here: the classes are "
            f"{', '.join(class_names)}; correct the annotation, leave the video out, or train "
            "with this class"
        )
    return class_names.index(class_name)
