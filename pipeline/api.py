"""The functions of `import vigil`: what the commands of the same names do, for a Python program.

They run the code of the commands, print nothing and never exit. What a user can put right raises
`UserError`; videos that fail are in the result, since they do not stop the others.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias, TypeVar, cast

from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.store import VideoFeatures, read_features
from vigil.pipeline import checkpoint as checkpoints
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.evaluation.command import EvaluatedRun, evaluate_run
from vigil.pipeline.explaining.command import explain_video
from vigil.pipeline.explaining.explanation import Explanation
from vigil.pipeline.extraction.command import ExtractionReport, extract_requested
from vigil.pipeline.keywords import Options, in_keywords, options_of, parameters_of
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.options import (
    EvaluateOptions,
    ExplainOptions,
    ExtractOptions,
    ScoreOptions,
    TrainOptions,
)
from vigil.pipeline.progress import Listener, Progress, told_to
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.command import request_of, score_videos
from vigil.pipeline.scoring.results import Results, VideoResult, read_results
from vigil.pipeline.training.command import train_run

__all__ = [
    "Checkpoint",
    "EvaluatedRun",
    "Event",
    "Explanation",
    "ExtractionReport",
    "FailedVideo",
    "Progress",
    "Results",
    "UserError",
    "VideoFeatures",
    "VideoResult",
    "evaluate",
    "explain",
    "extract",
    "load_checkpoint",
    "load_features",
    "load_results",
    "score",
    "train",
]

Path_: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = Path_ | Iterable[Path_]
Function = TypeVar("Function", bound=Callable[..., Any])


KEYWORDS = {
    name: parameter
    for kind in (ScoreOptions, ExtractOptions, TrainOptions, EvaluateOptions, ExplainOptions)
    for name, parameter in parameters_of(kind).items()
}
"""Those of all functions, since the message of one may advise to call another."""


def _nobody(progress: Progress) -> None:
    """Take no notice of progress."""


def _with_keywords_of(kind: type[Any]) -> Callable[[Function], Function]:
    """Give a function the keywords of options: in its signature, which help() shows, and errors."""

    def sign(function: Function) -> Function:
        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            try:
                return function(*arguments, **keywords)
            except UserError as error:
                error.args = (in_keywords(str(error), KEYWORDS),)
                raise

        own = signature(function)
        named = [one for one in own.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        rest = [one for name, one in parameters_of(kind).items() if name not in own.parameters]
        call.__signature__ = own.replace(parameters=[*named, *rest])  # type: ignore[attr-defined]
        return cast(Function, call)

    return sign


def _checked(kind: type[Options], keywords: Mapping[str, Any], function: str) -> Options:
    """Options from keywords, as `options_of` builds them, checked as the command's are."""
    chosen = options_of(kind, keywords, function)
    check_options(chosen)
    return chosen


def _folder(out: Path_ | None) -> AbstractContextManager[Path_]:
    """The folder that a caller names, or one that is removed at the end."""
    return TemporaryDirectory() if out is None else nullcontext(out)


@_with_keywords_of(ScoreOptions)
def score(
    videos: Paths,
    checkpoint: Path_ | None = None,
    out: Path_ | None = None,
    *,
    progress: Listener | None = None,
    **options: Any,
) -> Results:
    """Score videos: their labels, events and scores, and which of them failed.

    Args:
        videos: folders, video files, patterns, lists of them or addresses, one or several.
        checkpoint: folder of a run or of one of its checkpoints; None for the detector that ships
            with vigil.
        out: folder for results, report and features, as vigil score writes them, from which an
            interrupted call continues; None to keep no files.
        progress: called with a `Progress` now and then.
        **options: the flags of vigil score, such as ``threshold=0.7`` and ``device="cpu"``.

    Raises:
        UserError: there are no videos, or the checkpoint or an option cannot be used.
        TypeError: an option is unknown.
        OSError: a folder cannot be written.
    """
    with _folder(out) as folder, told_to(progress or _nobody):
        given: dict[str, Any] = {"videos": videos, "checkpoint": checkpoint, "out": folder}
        given |= {"thumbnails": out is not None, **options}  # without a folder nobody sees them
        chosen = _checked(ScoreOptions, given, "score")
        return score_videos(chosen, request_of(chosen))


@_with_keywords_of(ExtractOptions)
def extract(
    videos: Paths, out: Path_, *, progress: Listener | None = None, **options: Any
) -> ExtractionReport:
    """Extract the features of videos into a folder of feature files: which are there, which failed.

    Args:
        videos: folders, video files, patterns, lists of them or addresses, one or several.
        out: folder for the feature files, from which an interrupted call continues.
        progress: called with a `Progress` now and then.
        **options: the flags of vigil extract, such as ``endpoint="Mixed_4d"``.

    Raises:
        UserError: there are no videos, or weights, options or folder cannot be used.
        TypeError: an option is unknown.
        OSError: a folder cannot be written.
    """
    with told_to(progress or _nobody):
        given = {"videos": videos, "out": out, **options}
        return extract_requested(_checked(ExtractOptions, given, "extract"))


@_with_keywords_of(TrainOptions)
def train(
    features: Path_,
    annotations: Paths | None,
    out: Path_,
    *,
    progress: Listener | None = None,
    **options: Any,
) -> Checkpoint:
    """Train on a folder of features, and return the checkpoint of the best epoch.

    Args:
        features: folder of feature files.
        annotations: label files, one or several, of which only the classes are read; None if the
            folder of each video names its class.
        out: folder for the run.
        progress: called with a `Progress` after each epoch.
        **options: the flags of vigil train: ``config``, or ``method`` and settings of a recipe such
            as ``epochs=60``.

    Raises:
        UserError: the data, an option or the run folder cannot be used.
        TypeError: an option is unknown.
        OSError: a folder cannot be written.
    """
    with told_to(progress or _nobody):
        given = {"features": features, "annotations": annotations, "out": out, **options}
        chosen = _checked(TrainOptions, given, "train")
        train_run(chosen)
        return checkpoints.load_checkpoint(chosen.out)


@_with_keywords_of(EvaluateOptions)
def evaluate(run: Path_, features: Path_, annotations: Paths, **options: Any) -> EvaluatedRun:
    """Evaluate a run on features with annotated frames: measures, and scores beside the truth.

    Args:
        run: folder of a run or of one of its checkpoints.
        features: folder of feature files.
        annotations: files with anomalous frame ranges, one or several.
        **options: the flags of vigil evaluate, such as ``bootstrap=0``.

    Raises:
        UserError: run, features or annotations are missing, damaged or do not match.
        TypeError: an option is unknown.
        OSError: a folder cannot be written.
    """
    with told_to(_nobody):
        given = {"run": run, "features": features, "annotations": annotations, **options}
        return evaluate_run(_checked(EvaluateOptions, given, "evaluate"))


@_with_keywords_of(ExplainOptions)
def explain(
    video: Path_,
    checkpoint: Path_ | None = None,
    out: Path_ | None = None,
    *,
    progress: Listener | None = None,
    **options: Any,
) -> Explanation:
    """Explain why a moment of a video has its score: where, when, and what resembles it.

    Args:
        video: a video file, or a folder of pictures.
        checkpoint: folder of a run or of one of its checkpoints; None for the detector that ships
            with vigil.
        out: folder for explain.html, its figures and the features, as vigil explain writes them;
            None to keep no files.
        progress: called with a `Progress` now and then, while the video is extracted.
        **options: the flags of vigil explain, such as ``at=75.5`` and ``class_name="Fighting"``.

    Raises:
        UserError: the video cannot be decoded, there is no such moment or class, or the model
            cannot be explained.
        TypeError: an option is unknown.
        OSError: a folder cannot be written.
    """
    with _folder(out) as folder, told_to(progress or _nobody):
        given = {"video": video, "checkpoint": checkpoint, "out": folder, **options}
        return explain_video(_checked(ExplainOptions, given, "explain"), with_page=out is not None)


def load_features(path: Path_) -> VideoFeatures:
    """Read the feature file of one video, checking its bytes.

    Raises:
        UserError: it is missing, not a feature file, or damaged.
    """
    return read_features(Path(path))


def load_checkpoint(path: Path_, which: str = "best") -> Checkpoint:
    """Load the config and the model of a run or of one of its checkpoints; runs no code of it.

    Args:
        path: folder of the run or checkpoint.
        which: of a run, ``best`` or ``last``.

    Raises:
        UserError: it is missing or damaged.
    """
    return checkpoints.load_checkpoint(Path(path), which)


def load_results(folder: Path_) -> Results:
    """Read what `score` or vigil score wrote into a folder.

    Raises:
        UserError: it is missing, unfinished or damaged.
    """
    return read_results(Path(folder))
