"""Tables of all events and of all segments as Parquet, for DuckDB, pandas, Polars or Spark.

pyarrow is optional, so it is imported when a table is written. A table is written in pieces, so
that the memory it takes does not grow with the number of videos.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vigil.extract.files import replace_file
from vigil.pipeline.scoring.formats.events_in_words import valid_text
from vigil.pipeline.scoring.results import Results

PIECE_ROWS = 50_000

_RANGE = {
    "start_frame": "int64",
    "stop_frame": "int64",
    "start_seconds": "double",
    "stop_seconds": "double",
}
_EVENTS = {
    "video": "string",
    **_RANGE,
    "peak_score": "double",
    "class": "string",
    "class_probability": "double",
    "start_clock": "string",
    "stop_clock": "string",
    "class_shares": "probabilities",
    "actions": "probabilities",
    "clip": "string",
}
_SEGMENTS = {
    "video": "string",
    "segment": "int64",
    **_RANGE,
    "score": "double",
    "class_probabilities": "probabilities",
}


def write_events_table(path: Path, results: Results) -> None:
    """Write a row per event, in the order of `events.csv`."""
    _write(path, _EVENTS, _event_rows(results))


def write_segments_table(path: Path, results: Results) -> None:
    """Write a row per segment, also those without frames, the videos by decreasing peak score."""
    _write(path, _SEGMENTS, _segment_rows(results))


def _event_rows(results: Results) -> Iterator[dict[str, Any]]:
    for result in results.videos:
        for event in result.events:
            row = {name: getattr(event, name) for name in _EVENTS if hasattr(event, name)}
            shares = [(valid_text(name), share) for name, share in event.class_shares.items()]
            yield row | {
                "video": valid_text(result.video),
                "class": valid_text(event.class_name),
                "class_shares": shares,
                "actions": [(one.name, one.probability) for one in event.actions],
                "clip": valid_text(event.clip.path) if event.clip else None,
            }


def _segment_rows(results: Results) -> Iterator[dict[str, Any]]:
    for result in results.videos:
        video, of_classes = valid_text(result.video), result.segment_class_probabilities
        named = {valid_text(name): values for name, values in (of_classes or {}).items()}
        for index, segment in enumerate(result.segments):
            row = {name: getattr(segment, name) for name in _SEGMENTS if hasattr(segment, name)}
            probabilities = [(name, values[index]) for name, values in named.items()]
            yield row | {
                "video": video,
                "segment": index,
                "class_probabilities": None if of_classes is None else probabilities,
            }


def _write(path: Path, columns: dict[str, str], rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as a table with these columns, of the named types of pyarrow."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    named = {"probabilities": pa.map_(pa.string(), pa.float64())}
    kinds = {name: named.get(kind) or pa.type_for_alias(kind) for name, kind in columns.items()}
    schema = pa.schema(kinds)
    with replace_file(path) as partial, ParquetWriter(partial, schema, compression="zstd") as table:
        while piece := list(islice(rows, PIECE_ROWS)):
            table.write_table(pa.Table.from_pylist(piece, schema))
