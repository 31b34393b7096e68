"""JSON and CSV files, written atomically and read strictly; times as people read them.

Names in them are untrusted and may contain anything a file system allows, commas and line breaks
included. Tables quote them, and bytes that are not UTF-8 survive a round trip.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vigil.extract.files import replace_file


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with replace_file(path) as partial:
        partial.write_bytes(text.encode("utf-8", errors="surrogateescape"))


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Atomically write JSON that any parser accepts: ASCII, no NaN, indented by two spaces.

    Raises:
        ValueError: the content has a number that is not finite.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file, with the restrictions of `write_json`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such an object; the message gives the reason.
    """
    try:
        content = json.loads(path.read_bytes())
        # Rejects what `write_json` and `write_text` would: NaN, infinity, unpaired surrogates.
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode(errors="surrogateescape")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def write_csv(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    """Write a table atomically; the names in the header are separated by spaces."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header.split())
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a table, each as its cells by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: a row has more or fewer cells than the header, or the quotes do not match.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file, strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has more or fewer cells than the header")
    return rows


def clock_time(seconds: float, round_up: bool = False) -> str:
    """Time in a video as h:mm:ss, rounded down, or up with ``round_up``."""
    minutes, second = divmod(math.ceil(seconds) if round_up else math.floor(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
