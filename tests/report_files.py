"""Read back the scripts of a report as the browser does."""

import json
import re
from pathlib import Path
from typing import Any


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
