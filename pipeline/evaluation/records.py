"""The stored results of an evaluation: scores with their ground truth, and a record of each use.

`scores.json` is read by comparisons. `evaluations.csv` in a run gets one line each time that one of
its checkpoints is evaluated on annotated videos, because figures become optimistic if the same test
set is evaluated often while settings change.

Legend: S segments, K classes (normal has index 0).
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import dacite
import numpy as np

from vigil.data.classes import NORMAL
from vigil.extract.errors import UserError
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.run_folder import SCORES_NAME, USES_NAME
from vigil.pipeline.scores.alarms import VideoAlarms
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.metrics import Pieces
from vigil.pipeline.text_files import read_csv, read_json, write_csv, write_json

USES_HEADER = "created_at checkpoint model_digest features num_videos"
FORMAT, FORMAT_VERSION = "vigil-scores", 1

logger = logging.getLogger(__name__)


class StoredScoresError(UserError):
    """A score file is missing or damaged."""


@dataclass(frozen=True)
class ScoredVideo:
    """The scores of a video's segments that hold frames, and the truth about these frames."""

    video: str
    class_name: str
    """The true class."""
    label: str
    """The predicted class."""
    peak_score: float
    segment_scores: tuple[float, ...]
    num_anomalous: tuple[int, ...]
    """Anomalous frames of each segment; all 0 if that is not known."""
    num_normal: tuple[int, ...]
    frames_known: bool
    """Whether it is known which frames are anomalous."""
    alarms: VideoAlarms | None = None
    """None if frames or times are unknown, and in scores of earlier versions."""

    @property
    def pieces(self) -> Pieces:
        """The frames as counts per score."""
        return Pieces(
            np.array(self.segment_scores),
            np.array(self.num_anomalous, np.int64),
            np.array(self.num_normal, np.int64),
        )

    @property
    def is_anomalous(self) -> bool:
        """Whether the true class is not normal."""
        return self.class_name != NORMAL

    @property
    def truth(self) -> tuple[object, ...]:
        """Everything that is the same for all models that scored the video."""
        return self.video, self.num_anomalous, self.num_normal


def write_scores(
    folder: Path,
    videos: Sequence[EvaluatedVideo],
    class_names: Sequence[str],
    alarms: Sequence[VideoAlarms],
    made_of: str = "",
) -> None:
    """Write the scores of evaluated videos to a folder.

    Args:
        folder: created if missing.
        videos: with truth and scores.
        class_names: of the checkpoint.
        alarms: of each video; empty if they are unknown.
        made_of: digest of everything the scores depend on, to recognise them later.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    content = []
    if alarms and len(alarms) != len(videos):
        raise ValueError(f"{len(alarms)} counts of alarms for {len(videos)} videos")
    for index, video in enumerate(videos):
        pieces = video.pieces
        content.append(
            {
                "video": video.video,
                "class_name": class_names[video.class_index],
                "label": class_names[video.label_index],
                "peak_score": video.peak_score,
                "segment_scores": pieces.scores.tolist(),
                "num_anomalous": pieces.num_anomalous.tolist(),
                "num_normal": pieces.num_normal.tolist(),
                "frames_known": video.truth is not None,
                "alarms": asdict(alarms[index]) if alarms else None,
            }
        )
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "made_of": made_of}
    write_json(folder / SCORES_NAME, {**header, "videos": content})


def read_scores(folder: Path) -> tuple[ScoredVideo, ...]:
    """The scores written by `write_scores`, sorted by video name.

    Raises:
        StoredScoresError: the scores are missing or damaged.
    """
    path = folder / SCORES_NAME
    try:
        content = read_json(path)
        if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"it is not {FORMAT} version {FORMAT_VERSION}")
        reading = dacite.Config(strict=True, cast=[tuple])
        videos = [dacite.from_dict(ScoredVideo, one, reading) for one in content["videos"]]
    except FileNotFoundError as error:
        raise StoredScoresError(f"{path} is missing: run vigil evaluate first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, dacite.DaciteError) as error:
        raise StoredScoresError(f"{path} is damaged ({error}): run vigil evaluate again") from error
    return tuple(sorted(videos, key=lambda video: video.video))


def made_of(folder: Path) -> str | None:
    """The digest that was given to `write_scores` for a folder; None without readable scores."""
    try:
        return str(read_json(folder / SCORES_NAME).get("made_of", ""))
    except (OSError, ValueError, AttributeError):
        return None


def lacks_alarms(folder: Path) -> bool:
    """Whether the scores in a folder are of an earlier version, which did not count alarms."""
    return any("alarms" not in video for video in read_json(folder / SCORES_NAME).get("videos", ()))


def record_use(checkpoint: Checkpoint, features: Path, num_videos: int) -> None:
    """Record in a checkpoint's run that it was evaluated now, and on which features.

    If the record is damaged or cannot be written, only a warning is logged.
    """
    folder = checkpoint.folder.absolute()
    path = folder.parent / USES_NAME
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = [now, folder.name, checkpoint.model_digest, str(features.absolute()), str(num_videos)]
    try:
        rows = [list(row.values()) for row in read_csv(path)] if path.is_file() else []
        write_csv(path, USES_HEADER, [*rows, row])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning(
            "%s cannot be extended (%s), so this use was not recorded: move it away", path, reason
        )
