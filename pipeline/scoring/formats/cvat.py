"""Annotations for CVAT, as its format "CVAT for video 1.1".

In that format, what lasts is a track; a tag belongs to one frame and to images. Tracks also keep an
event of an hour to two entries, and an annotator moves its ends. A track needs a shape. Since vigil
says when and not where, it is a small box in the corner of the frame.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

from vigil.extract.files import replace_file
from vigil.pipeline.scoring.formats.events_in_words import valid_text
from vigil.pipeline.scoring.results import VideoResult

BOX_PIXELS = 16
_NOT_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_cvat(path: Path, result: VideoResult) -> None:
    """Write a track for each event of a video; frames count as in the result."""
    root = ElementTree.Element("annotations")
    _leaf(root, "version", "1.1")
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    _leaf(task, "name", result.video)
    _leaf(task, "size", str(result.num_frames_decoded))
    _leaf(task, "mode", "interpolation")
    labels = ElementTree.SubElement(task, "labels")
    for name in result.class_probabilities:
        _leaf(ElementTree.SubElement(labels, "label"), "name", name)
    for number, event in enumerate(result.events):
        label = _allowed(event.class_name)
        about = {"id": str(number), "label": label, "source": "auto"}
        track = ElementTree.SubElement(root, "track", about)
        _box(track, event.start_frame, is_over=False)
        if event.stop_frame < result.num_frames_decoded:  # else it lasts to the end
            _box(track, event.stop_frame, is_over=True)
    ElementTree.indent(root)
    with replace_file(path) as partial:
        ElementTree.ElementTree(root).write(partial, encoding="utf-8", xml_declaration=True)


def _leaf(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = _allowed(text)


def _box(track: ElementTree.Element, frame: int, *, is_over: bool) -> None:
    """Add where a track starts, or the first frame after it, which CVAT calls outside."""
    about = {"frame": frame, "keyframe": 1, "outside": int(is_over), "occluded": 0, "z_order": 0}
    about |= {"xtl": 0, "ytl": 0, "xbr": BOX_PIXELS, "ybr": BOX_PIXELS}
    ElementTree.SubElement(track, "box", {name: str(value) for name, value in about.items()})


def _allowed(text: str) -> str:
    """The text with U+FFFD for characters that XML cannot hold, or changes, as carriage returns."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", valid_text(text))
