"""The page of an explanation, `explain.html`, and its figures as files beside it."""

from pathlib import Path

from vigil.extract.segments import segment_ranges
from vigil.pipeline.explaining.explanation import Explanation
from vigil.pipeline.explaining.figures import Steps, plot_places, plot_times
from vigil.pipeline.logs import printable
from vigil.pipeline.pages import embedded, render_page
from vigil.pipeline.scores.spans import seconds_at
from vigil.pipeline.starter import is_starter
from vigil.pipeline.text_files import write_text

PAGE_NAME, PLACES_NAME, TIMES_NAME = "explain.html", "explain-places.png", "explain-times.png"


def write_explanation(folder: Path, found: Explanation) -> None:
    """Write the figures and the page.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    plot_places(folder / PLACES_NAME, found.pictures)
    _plot_times(folder / TIMES_NAME, found)
    result, moment = found.result, found.moment
    page = render_page(
        PAGE_NAME,
        video=printable(result.video),
        checkpoint=printable(str(found.checkpoint.folder)),
        label=result.label,
        threshold=result.threshold,
        threshold_rule=result.threshold_rule,
        moment=moment.segment,
        event=moment.event,
        is_left_out=moment.is_left_out,
        normal_class=found.checkpoint.config.class_names[0],
        num_events=result.num_events,
        explained=found.class_name,
        speaks_against=found.speaks_against,
        bag_score=found.attribution.score,
        has_spans=result.span_frames is not None,
        places=embedded(folder / PLACES_NAME),
        times=embedded(folder / TIMES_NAME),
        num_pictures=len(found.pictures),
        layer=found.layer,
        endpoint=found.features.spec.endpoint,
        views=result.views,
        attentions=list(found.attribution.attentions),
        method=found.checkpoint.config.recipe.method,
        classifies=found.checkpoint.config.recipe.classifies,
        rows=found.highest_segments,
        actions=found.actions,
        nearest=found.nearest,
        is_starter=is_starter(found.checkpoint.model_digest),
        warnings=result.warnings,
    )
    write_text(folder / PAGE_NAME, page)


def _plot_times(path: Path, found: Explanation) -> None:
    result, moment = found.result, found.moment.segment
    bag, offset = found.bag.features, found.bag.start_frame
    edges = segment_ranges(bag.num_frames_decoded, bag.spec.num_segments)
    segment_seconds = seconds_at(found.features, edges + offset)
    scores = Steps(found.timeline.seconds, found.timeline.scores.scores)
    plot_times(
        path,
        scores,
        result.threshold,
        [(event.start_seconds, event.stop_seconds) for event in result.events],
        (moment.start_seconds, moment.stop_seconds),
        found.evidence_over_time,
        {
            name: Steps(segment_seconds, weights)
            for name, weights in found.attribution.attentions.items()
        },
    )
