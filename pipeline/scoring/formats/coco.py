"""Videos, classes and events as one JSON file like COCO's.

COCO annotates images and has no ranges of time. As in its forms for video, annotations point to
``videos``; each also has a range, and an image, which is the frame where its score is highest.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.formats.events_in_words import valid_text
from vigil.pipeline.scoring.results import Results, SegmentScore, VideoResult
from vigil.pipeline.text_files import write_json


def write_coco(path: Path, results: Results) -> None:
    """Write all videos and events; numbers count from 1, and frames from 0."""
    numbers = {name: number for number, name in enumerate(_class_names(results), start=1)}
    events = list(enumerate(_events(results), start=1))
    content = {
        "info": {
            "description": "events found by vigil",
            "date_created": results.manifest["created_at"],
        },
        "licenses": [],
        "categories": [{"id": n, "name": valid_text(name)} for name, n in numbers.items()],
        "videos": [_video(n, result) for n, result in enumerate(results.videos, start=1)],
        "images": [
            {
                "id": number,
                "video_id": video,
                "file_name": valid_text(result.video),
                "frame_id": peak_frame(result, event),
            }
            for number, (video, result, event) in events
        ],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "video_id": video,
                "category_id": numbers[event.class_name],
                "score": event.peak_score,
                "start_frame": event.start_frame,
                "stop_frame": event.stop_frame,
                "start_seconds": event.start_seconds,
                "stop_seconds": event.stop_seconds,
            }
            for number, (video, _, event) in events
        ],
    }
    write_json(path, content)


def peak_frame(result: VideoResult, event: Event) -> int:
    """The frame in the middle of the event's segment with the highest score."""
    inside = (
        one
        for one in result.segments
        if event.start_frame <= one.start_frame < one.stop_frame <= event.stop_frame
    )
    best: SegmentScore | Event = max(inside, key=lambda one: one.score, default=event)
    return (best.start_frame + best.stop_frame) // 2


def _events(results: Results) -> Iterator[tuple[int, VideoResult, Event]]:
    """Yield each event with its video and the number of that."""
    for number, result in enumerate(results.videos, start=1):
        for event in result.events:
            yield number, result, event


def _class_names(results: Results) -> dict[str, None]:
    """The names of all classes, in the order in which they appear."""
    of_videos = [one.class_probabilities for one in results.videos]
    of_events = [[event.class_name for event in one.events] for one in results.videos]
    return dict.fromkeys(name for names in (*of_videos, *of_events) for name in names)


def _video(number: int, result: VideoResult) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": valid_text(result.video),
        "fps": result.fps,
        "length": result.num_frames_decoded,
        "label": valid_text(result.label),
        "score": result.peak_score,
    }
