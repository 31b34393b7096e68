"""Read back the scripts of a report as the browser does."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from vigil.extract.decode.thumbnails import Photographer
from vigil.extract.engine.album import AlbumWriter
from vigil.pipeline.scoring.strips import THUMBNAILS_FOLDER, write_strips


def read_call(path: Path) -> Any:
    """The JSON that a script passes to the program."""
    return parse_call(path.read_text("ascii"))


def parse_call(text: str) -> Any:
    """The same, of the text of a script."""
    (literal,) = re.fullmatch(r"vigil\.\w+\((?:\d+,)?'(.*)'\);\n", text).groups()
    assert not re.search(r"(?<!\\)(?:\\\\)*'", literal)
    return json.loads(re.sub(r"\\(.)", r"\1", literal))


def read_index(folder: Path) -> dict[str, Any]:
    """The index of the report in RESULTS; its rows as dictionaries, numbers as what they mean."""
    index = read_call(folder / "report" / "index.js")
    tables = {
        name: [dict(zip(index[f"{name[:-1]}_columns"], row, strict=False)) for row in index[name]]
        for name in ("videos", "events", "failures")
    }
    for row in [*tables["videos"], *tables["failures"]]:
        row["camera"] = index["cameras"][row["camera"]]
    for row in tables["videos"]:
        row["label"] = index["classes"][row["label"]]
    for row in tables["events"]:
        row["video"] = tables["videos"][row["video"]]["video"]
        row["class"] = index["classes"][row["class"]]
    return index | tables


def read_details(folder: Path, number: int = 0) -> dict[str, Any]:
    """The details of a video in the report of RESULTS."""
    return read_call(folder / "report" / "videos" / f"{number}.js")


def write_album(folder: Path, result: Any, frames: list[np.ndarray], step: int) -> None:
    """Write the album of a video into RESULTS, of every so many frames, and its events' strips."""
    photographer = Photographer(step)
    assert len(list(photographer.watch(frames))) == len(frames)
    album = AlbumWriter(folder / THUMBNAILS_FOLDER, result.video)
    for sheet in photographer.sheets(is_end=True):
        album.put("drawn", sheet)
    album.finish("drawn", np.arange(len(frames)) / result.fps)
    write_strips(folder, result)
