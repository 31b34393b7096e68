"""An explanation: everything found about why a moment of a video has its score."""

import logging
from dataclasses import dataclass, replace

from vigil.extract.engine.dispatch import Engine
from vigil.extract.networks.class_activation import Activations
from vigil.extract.source import SourceVideo
from vigil.extract.store import VideoFeatures
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.explaining.attribution import Attribution, attribute
from vigil.pipeline.explaining.moment import Bag, Moment, bag_around, find_moment
from vigil.pipeline.explaining.nearest import Neighbour, find_nearest
from vigil.pipeline.explaining.places import Picture, find_pictures
from vigil.pipeline.option_values import read_moment, read_span, read_threshold
from vigil.pipeline.options import ExplainOptions
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.spans import Timeline
from vigil.pipeline.scores.video_scoring import score_video
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.scoring.score_store import video_result
from vigil.pipeline.scoring.thresholds import threshold_for

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a moment of a video has its score."""

    checkpoint: Checkpoint
    features: VideoFeatures
    result: VideoResult
    timeline: Timeline
    moment: Moment
    class_name: str | None
    """The class whose logit is explained; None: the score is."""
    bag: Bag
    attribution: Attribution
    layer: str
    """At which the pictures were made."""
    pictures: list[Picture]
    nearest: list[Neighbour] | None
    """None: no features of training videos were given."""


def explain(
    checkpoint: Checkpoint,
    video: SourceVideo,
    features: VideoFeatures,
    engine: Engine,
    options: ExplainOptions,
    class_index: int | None,
) -> Explanation:
    """Explain a moment of a video.

    Args:
        checkpoint: with its model on the CPU.
        video: whose frames are read again.
        features: of it, with clips.
        engine: whose network made the features.
        options: of the command.
        class_index: of the class whose logit is explained; None: the score is.

    Raises:
        UserError: there is no such moment, or it cannot be explained.
    """
    config, views = checkpoint.config, list(engine.views)
    threshold, why = threshold_for(config, video.name, read_threshold(options.threshold))
    span = read_span(options.span)
    timeline = score_video(checkpoint, video.name, features, views, threshold, span)
    rule = EventRule(threshold=threshold)
    result = video_result(checkpoint, video.name, features, timeline, rule, views, video.path)
    result = replace(result, threshold_rule=why)
    moment = find_moment(result, read_moment(options.at))
    place = moment.segment
    bag = bag_around(features, timeline.span_frames, place.start_frame, place.stop_frame)
    pooling = config.recipe.features
    attribution = attribute(checkpoint.model, bag, views, pooling, class_index)
    (network,) = engine.networks
    activations = Activations(network, config.spec.time_pool, engine.devices[0])
    log.info("computing where in the frames the score comes from, at %s", activations.layer)
    pictures = find_pictures(video, features, bag, views, attribution, activations)
    nearest = None
    if options.features is not None:
        nearest = find_nearest(checkpoint, bag, views, options.features)
    return Explanation(
        checkpoint=checkpoint,
        features=features,
        result=result,
        timeline=timeline,
        moment=moment,
        class_name=options.class_name,
        bag=bag,
        attribution=attribution,
        layer=activations.layer,
        pictures=pictures,
        nearest=nearest,
    )
