"""vigil: raw surveillance video in; labelled, timed answers out.

    import vigil

    results = vigil.score("videos", checkpoint="runs/mine", out="results")
    for event in results.event_table():
        print(event["video"], event["start_seconds"], event["class_name"])

* `score(videos, checkpoint)`, `explain(video, checkpoint)`, `extract(videos, out)`,
  `train(features, annotations, out)` and `evaluate(run, features, annotations)` do what the
  commands of these names do. Their flags are keywords here: --min-seconds 2 is ``min_seconds=2``.
* `load_results(folder)`, `load_features(file)` and `load_checkpoint(folder)` read what they wrote.
* What can be put right raises `UserError`. Messages go to ``logging.getLogger("vigil")``.

docs/python.md is the guide. PyTorch is loaded when one of these is first used, not on import.

`vigil.extract`, `vigil.data`, `vigil.model` and `vigil.pipeline` are the folders beside this one,
reached through links, so that the source tree and the installed package have the same names.
"""

import logging
from types import ModuleType
from typing import TYPE_CHECKING, Any

import vigil.extract as _package

if TYPE_CHECKING:
    from vigil.pipeline.api import (
        Checkpoint,
        EvaluatedRun,
        Event,
        Explanation,
        ExtractionReport,
        FailedVideo,
        Progress,
        Results,
        UserError,
        VideoFeatures,
        VideoResult,
        evaluate,
        explain,
        extract,
        load_checkpoint,
        load_features,
        load_results,
        score,
        train,
    )

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

logging.getLogger(__name__).addHandler(logging.NullHandler())


class _Extract(ModuleType):
    """The package `vigil.extract`, which is a function of that name, too."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        from vigil.pipeline import api

        return api.extract(*arguments, **keywords)


_package.__class__ = _Extract  # importing a package makes it an attribute of this one


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vigil.pipeline import api

    globals()[name] = getattr(api, name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
