"""`vigil explain`: score one video, and write why a moment of it got its score."""

from vigil.extract.engine.dispatch import Engine
from vigil.extract.errors import UserError
from vigil.extract.locks import locked
from vigil.extract.networks.class_activation import map_layer
from vigil.extract.networks.weights import Weights
from vigil.extract.store import feature_path, read_features
from vigil.extract.views import view_names
from vigil.pipeline.checkpoint import CheckpointConfig, load_checkpoint
from vigil.pipeline.explaining.explanation import Explanation, explain
from vigil.pipeline.explaining.page import PAGE_NAME, write_explanation
from vigil.pipeline.extraction.command import extract_videos, find_requested, rebuild_engine
from vigil.pipeline.failures import exit_code
from vigil.pipeline.options import ExplainOptions
from vigil.pipeline.scoring.command import FEATURES_FOLDER
from vigil.pipeline.starter import checkpoint_folder


class NotExtractedError(UserError):
    """The video cannot be decoded; extraction has logged why."""


def run_explain(options: ExplainOptions) -> int:
    """Extract the video if need be, score it, and write the explanation.

    Returns:
        The exit code: 0, or 4 if the video cannot be decoded.

    Raises:
        UserError: there is no such video, moment or class, or the model cannot be explained.
    """
    try:
        explain_video(options)
    except NotExtractedError:
        return exit_code(1, 0)
    print(options.out / PAGE_NAME)
    return 0


def explain_video(options: ExplainOptions, with_page: bool = True) -> Explanation:
    """Extract a video if need be, score it, and explain a moment of it.

    Args:
        options: of the command.
        with_page: whether to write the page and its figures, too.

    Raises:
        NotExtractedError: it cannot be decoded.
        UserError: there is no such video, moment or class, or the model cannot be explained.
        OSError: the folder cannot be written.
    """
    trained = load_checkpoint(checkpoint_folder(options.checkpoint), options.which)
    checkpoint = trained.with_static("compute")  # what a clip shows explains its own feature only
    class_index = _class_index(checkpoint.config, options.class_name)
    found = find_requested([options.video], options.compute)
    if len(found.videos) != 1:
        raise UserError(f"{options.video} holds {len(found.videos)} videos: name one of them")
    (video,) = found.videos
    engine = _engine(checkpoint.config, options)
    store = options.out / FEATURES_FOLDER
    with locked(options.out, store):
        report = extract_videos(found, store, engine, options.overwrite)
        if report.failures:
            raise NotExtractedError(f"{video.name} has no features: {report.failures[0].reason}")
        features = read_features(feature_path(store, video.name))
        explanation = explain(checkpoint, video, features, engine, options, class_index)
        if with_page:
            write_explanation(options.out, explanation)
    return explanation


def _class_index(config: CheckpointConfig, name: str | None) -> int | None:
    if name is None:
        return None
    if not config.recipe.classifies:
        raise UserError(f"method {config.recipe.method} names no classes: leave out --class-name")
    if name not in config.class_names[1:]:
        raise UserError(
            f"the model knows no class {name!r}: use one of {', '.join(config.class_names[1:])}"
        )
    return config.class_names.index(name)


def _engine(config: CheckpointConfig, options: ExplainOptions) -> Engine:
    """The engine for features of the checkpoint's spec, with clips, if it can be explained."""
    backbone, endpoint = config.spec.backbone, config.spec.endpoint
    if config.spec.origin is None:
        map_layer(backbone, endpoint)
    used = Weights(config.weights_name, config.spec.weights_digest, config.weights_trained)
    views = view_names(options.views)
    return rebuild_engine(config.spec, used, options.weights, views, options.compute, True)
