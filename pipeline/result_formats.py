"""The formats of results: their names, and what some of them need.

What writes them is in `pipeline.scoring.writers`, which has rows for each of these.
"""

from importlib.util import find_spec

from vigil.extract.errors import UserError

FORMATS = {
    "json": "all that is known of a video, from which every other format is made; always written",
    "csv": "a table of the videos, and one of the events",
    "html": "the report",
    "parquet": "a table of all events, and one of all segments",
    "srt": "subtitles for players",
    "vtt": "subtitles for browsers",
    "edl": "edit decision list (CMX3600) for video editors",
    "chapters": "chapters for FFmpeg",
    "cvat": "annotations to correct in CVAT",
    "label-studio": "annotations to correct in Label Studio",
    "coco": "videos, classes and events, like COCO",
}
"""Name, as in ``--format`` -> what it is."""
ALWAYS = "json"
DEFAULT_FORMATS = (ALWAYS, "csv", "html")


def read_formats(text: str) -> tuple[str, ...]:
    """Parse the value of ``--format``: names of formats separated by commas; json is always there.

    Raises:
        UserError: a name is unknown, or a format needs a package that is not installed.
    """
    names = tuple(dict.fromkeys((ALWAYS, *(name.strip() for name in text.split(",")))))
    for name in names:
        if name not in FORMATS:
            raise UserError(
                f"format {name!r} is unknown: use {', '.join(FORMATS)}; several are separated by "
                "commas"
            )
    if "parquet" in names and find_spec("pyarrow") is None:
        raise UserError(
            "format parquet needs pyarrow, which is not installed: run pip install "
            "'vigil-video[parquet]'"
        )
    return names
