"""Tasks with predictions for Label Studio, whose tag TimelineLabels marks ranges of frames.

Label Studio finds frames by time and a rate, which the task states as ``fps``. It counts them from
1, and its ranges include both ends (https://labelstud.io/tags/timelinelabels).
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.formats.events_in_words import frames_at, valid_text
from vigil.pipeline.scoring.results import Results, VideoResult
from vigil.pipeline.text_files import write_json

CONTROL, OBJECT = "events", "video"
"""The names of the tags in the labelling configuration, as docs/formats.md gives it."""


def write_label_studio(path: Path, results: Results) -> None:
    """Write a task per video, with one prediction that holds its events."""
    write_json(path, [_task(result) for result in results.videos])


def _task(result: VideoResult) -> dict[str, Any]:
    prediction = {
        "model_version": f"vigil {result.spec_digest[:8]}",
        "score": result.peak_score,
        "result": [
            _region(number, event, result.fps) for number, event in enumerate(result.events)
        ],
    }
    place = "/data/local-files/?d=" + quote(result.video.encode(errors="surrogateescape"), safe="/")
    data = {"video": place, "fps": result.fps, "name": valid_text(result.video)}
    return {"data": data, "predictions": [prediction]}


def _region(number: int, event: Event, fps: float) -> dict[str, Any]:
    start, stop = frames_at(event, fps)
    return {
        "id": f"event{number}",
        "type": "timelinelabels",
        "from_name": CONTROL,
        "to_name": OBJECT,
        "value": {
            "ranges": [{"start": start + 1, "end": stop}],
            "timelinelabels": [valid_text(event.class_name)],
        },
        "score": event.peak_score,
    }
