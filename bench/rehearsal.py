"""`python -m bench.rehearsal`: the reproduction of UCF-Crime at full size, on generated features.

The features have the names, folders and frame counts of UCF-Crime's videos in its archives, but
their values are random numbers, shifted in anomalous segments. Every command thus meets the real
size and the real names, but the resulting figures are meaningless.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import tyro

from bench.rehearsal_features import Drawing, draw_features
from vigil.data.annotations import Annotation, load_annotations
from vigil.extract.errors import UserError
from vigil.extract.store import feature_path, write_features
from vigil.extract.views import view_names
from vigil.pipeline import cli
from vigil.pipeline.tables.method_table import load_table, recipe_of_row
from vigil.pipeline.text_files import write_text

LISTS = {"train": "Anomaly_Train.txt", "test": "Anomaly_Test.txt"}
TRUTH = "Temporal_Anomaly_Annotation.txt"
COPIES = ("action_splits/train_001.txt", "action_splits/test_001.txt")
"""Lists whose normal videos are in the archives a second time, in a folder of their own."""
FRAME_COUNTS = "Test_video_name_UCF.npy", "Test_frame_number_UCF.npy"
"""Names of the test videos without extension, and their frames, in the same order."""

PARTS_OF_ARCHIVE = {
    1: ("Abuse", "Arrest", "Arson", "Assault"),
    2: ("Burglary", "Explosion", "Fighting"),
    3: ("RoadAccidents", "Robbery", "Shooting"),
    4: ("Shoplifting", "Stealing", "Vandalism"),
}


@dataclass(frozen=True)
class Options:
    """Generate features for all of UCF-Crime, and run vigil reproduce on them."""

    annotations: Path
    """Folder with UCF-Crime's official lists; optionally action_splits and Test_*_UCF.npy."""
    out: Path
    """Folder of the features, the runs and the table; existing features are kept."""
    config: Path = Path("configs/table1.toml")
    """Table to choose rows from."""
    rows: tuple[str, ...] = ("l1: two heads", "l4: l3 + first attention")
    """Names of these rows."""
    seeds: int = 1
    """Number of seeds for each row."""
    epochs: int = 5
    """Epochs of each training."""
    lstm_size: int = 64
    """Size of the joint model's LSTM and of its attention; 1024 in the paper."""
    channels: int = 1024
    """Values per segment; 1024 as I3D's, averaged over time."""
    views: Literal["center", "five"] = "five"
    """Views of the test videos."""
    bootstrap: int = 1000
    """Bootstrap resamples for the confidence intervals."""
    seed: int = 0
    """Seed of the generated features."""


def main(options: Options) -> int:
    """Generate features, reproduce, print the time of each stage; return the exit code."""
    features, table = options.out / "features", options.out / "table.toml"
    started = time.monotonic()
    write_text(table, table_of(options))
    num_drawn = draw(options, features)
    seconds = time.monotonic() - started
    lists = [str(options.annotations / name) for name in (*LISTS.values(), TRUTH)]
    command = ["reproduce", "ucf_crime", "--features", str(features), "--annotations", *lists]
    command += ["--config", str(table), "--out", str(options.out / "reproduction")]
    command += ["--views", options.views, "--bootstrap", str(options.bootstrap)]
    exit_code = cli.main(command)
    print(f"drawn {num_drawn}")
    print(f"draw_seconds {seconds:.0f}")
    return exit_code


def draw(options: Options, folder: Path) -> int:
    """Write the missing feature files; return their number."""
    drawing = Drawing(options.channels, options.seed)
    frames = frame_counts(options.annotations)
    truth = {one.video: one for one in load_annotations([options.annotations / TRUTH])}
    copies = copied_names(options.annotations)
    num_drawn = 0
    for part, name in LISTS.items():
        for annotation in load_annotations([options.annotations / name]):
            base = PurePosixPath(annotation.video)
            known = truth.get(base.name, annotation) if part == "test" else annotation
            views = view_names(options.views if part == "test" else "center")
            for video in places(annotation, part, copies):
                path = feature_path(folder, video)
                if not path.exists():
                    content = draw_features(drawing, video, known, frames.get(base.stem), views)
                    write_features(path, content)
                    num_drawn += 1
    return num_drawn


def places(annotation: Annotation, part: str, copies: set[str]) -> Iterator[str]:
    """Yield the paths of a listed video in the archives."""
    name = PurePosixPath(annotation.video).name
    if annotation.is_anomalous:
        number = next(n for n, names in PARTS_OF_ARCHIVE.items() if annotation.class_name in names)
        yield f"Anomaly-Videos-Part-{number}/{annotation.class_name}/{name}"
    elif part == "train":
        yield f"Training-Normal-Videos-Part-1/{name}"  # or 2: the lists do not distinguish
    else:
        yield f"Testing_Normal_Videos_Anomaly/{name}"
        if name in copies:
            yield f"Normal_Videos_event/{name}"


def table_of(options: Options) -> str:
    """The chosen rows of the table with fewer seeds, epochs and units, as TOML.

    Raises:
        UserError: the table cannot be used, or has no such row.
    """
    config = load_table(options.config)
    chosen = [row for row in config.rows if row.name in options.rows]
    if len(chosen) < len(options.rows):
        names = ", ".join(row.name for row in config.rows)
        raise UserError(f"{options.config} lacks some of --rows: its rows are {names}")
    content: dict[str, Any] = {
        "title": "Rehearsal: generated features, meaningless figures",
        "seeds": options.seeds,
        "reference": config.reference if config.reference in options.rows else "",
        "every": {
            **config.every,
            "training": {**config.every.get("training", {}), "epochs": options.epochs},
        },
        "rows": [],
    }
    size = {"lstm_size": options.lstm_size, "attention_size": options.lstm_size}
    for row in chosen:
        recipe = (options.config.parent / row.recipe).absolute()
        changes = dict(row.changes)
        if recipe_of_row(config, row, options.config).method == "joint":
            changes["model"] = {**changes.get("model", {}), **size}
        content["rows"].append(
            {
                "name": row.name,
                "recipe": str(recipe),
                "changes": changes,
                "published": row.published,
            }
        )
    return "".join(f"{name} = {_toml(value)}\n" for name, value in content.items())


def _toml(value: object) -> str:
    """A value as TOML with inline tables; strings, numbers and booleans are as in JSON."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(name)} = {_toml(item)}" for name, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def copied_names(folder: Path) -> set[str]:
    """The file names of the videos that the archives contain twice."""
    paths = [folder / name for name in COPIES]
    listed = load_annotations([path for path in paths if path.is_file()])
    return {PurePosixPath(one.video).name for one in listed if not one.is_anomalous}


def frame_counts(folder: Path) -> dict[str, int]:
    """Name of a test video without extension -> its frames; empty if the files are missing."""
    names, counts = (folder / name for name in FRAME_COUNTS)
    if not (names.is_file() and counts.is_file()):
        return {}
    pairs = zip(np.load(names).tolist(), np.load(counts).tolist(), strict=True)
    return dict(pairs)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.rehearsal")))
    except UserError as error:
        sys.exit(f"error: {error}")
