"""The REST API: results, videos, events and verdicts as JSON. `/api/openapi.json` describes it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from starlette.responses import JSONResponse

from vigil.data.classes import NORMAL
from vigil.pipeline.scoring.results import result_content
from vigil.pipeline.serving.rest_models import (
    MAX_ROWS,
    Answer,
    EventRow,
    Events,
    GivenVerdict,
    GivenVerdicts,
    ResultsRow,
    Verdicts,
    VideoRow,
    Videos,
)
from vigil.pipeline.serving.site import SharedResults, Site
from vigil.pipeline.serving.snapshot import Snapshot
from vigil.pipeline.serving.verdict_store import Verdict

Offset = Annotated[int, Query(ge=0, lt=2**53)]
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS)]
Version = Annotated[
    str | None,
    Query(description="Of the results; numbers of another version may mean something else."),
]


class AsciiJson(JSONResponse):
    """JSON in ASCII: names that are not UTF-8 stay what they are."""

    def render(self, content: object) -> bytes:
        """The content as bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def make_router(site: Site) -> APIRouter:
    """The routes of the API for a site."""
    router = APIRouter(prefix="/api", default_response_class=AsciiJson)

    def find(name: str) -> SharedResults:
        found = site.find(name)
        if found is None:
            raise HTTPException(404, f"There are no results {name!a}.")
        return found

    @router.get("/results", response_model=list[ResultsRow])
    def list_results() -> AsciiJson:
        """All results of the site."""
        return AsciiJson([results_row(one) for one in site.members])

    @router.get("/results/{name}/videos", response_model=Videos)
    def list_videos(
        name: str, version: Version = None, offset: Offset = 0, limit: Limit = 100
    ) -> AsciiJson:
        """Videos with answers, by name."""
        found = snapshot_of(find(name), version)
        rows = [video_row(number, found) for number in range(len(found.videos))]
        return _part("videos", found, rows, offset, limit)

    @router.get("/results/{name}/videos/{number}", response_model=dict[str, Any])
    def show_video(name: str, number: int, version: Version = None) -> AsciiJson:
        """Everything known of a video: what its JSON file in RESULTS holds."""
        found = snapshot_of(find(name), version)
        if not 0 <= number < len(found.videos):
            raise HTTPException(404, f"There is no video {number}.")
        return AsciiJson(result_content(found.videos[number]))

    @router.get("/results/{name}/events", response_model=Events)
    def list_events(
        name: str,
        version: Version = None,
        video: Annotated[str | None, Query(description="Name of a video.")] = None,
        class_name: str | None = None,
        min_score: Annotated[float, Query(ge=0, le=1)] = 0,
        offset: Offset = 0,
        limit: Limit = 100,
    ) -> AsciiJson:
        """Events, by video and time."""
        found = snapshot_of(find(name), version)
        rows = [
            row
            for row in event_rows(found)
            if (video is None or row["video"] == video)
            and (class_name is None or row["class_name"] == class_name)
            and row["peak_score"] >= min_score
        ]
        return _part("events", found, rows, offset, limit)

    @router.get("/results/{name}/verdicts", response_model=Verdicts)
    def list_verdicts(
        name: str,
        since: Annotated[
            int, Query(ge=0, lt=2**53, description="Only later changes, with empty ones.")
        ] = 0,
    ) -> AsciiJson:
        """Verdicts of everybody."""
        last, verdicts = find(name).verdicts.since(since)
        return AsciiJson({"last": last, "verdicts": [asdict(one) for one in verdicts]})

    @router.put("/results/{name}/verdicts", response_model=Answer)
    def put_verdicts(name: str, given: GivenVerdicts) -> AsciiJson:
        """Keep verdicts; each replaces an earlier one of the same person on the same event."""
        return AsciiJson(keep(find(name), given.verdicts))

    return router


def snapshot_of(shared: SharedResults, version: str | None) -> Snapshot:
    """The results of a version.

    Raises:
        HTTPException: it is not there any more.
    """
    found = shared.at(version)
    if found is None:
        raise HTTPException(410, "The results have changed since: load them again.")
    return found


def results_row(shared: SharedResults) -> dict[str, Any]:
    """What a list of results says of one."""
    found = shared.now()
    reviewed = {
        (one.video, one.start_frame, one.stop_frame) for one in shared.verdicts.all() if one.verdict
    }
    return {
        "name": shared.name,
        "version": found.version,
        "created_at": found.results.manifest["created_at"],
        "problem": shared.problem,
        "num_videos": len(found.videos),
        "num_events": sum(len(one.events) for one in found.videos),
        "num_failures": len(found.results.failures),
        "num_reviewed": len(reviewed & found.events),
    }


def video_row(number: int, found: Snapshot) -> dict[str, Any]:
    """What a list of videos says of one."""
    result = found.videos[number]
    names = [name for name in VideoRow.model_fields if name != "number"]
    return {"number": number, **{name: getattr(result, name) for name in names}}


def event_rows(found: Snapshot) -> list[dict[str, Any]]:
    """A row per event, by video and time."""
    names = [name for name in EventRow.model_fields if "number" not in name and name != "video"]
    return [
        {
            "video_number": video_number,
            "number": number,
            "video": result.video,
            **{name: getattr(event, name) for name in names},
        }
        for video_number, result in enumerate(found.videos)
        for number, event in enumerate(result.events, start=1)
    ]


def keep(shared: SharedResults, given: Sequence[GivenVerdict]) -> dict[str, Any]:
    """Keep verdicts on events of the results, and tell which were refused."""
    events = shared.now().events
    kept, refused = [], []
    for index, one in enumerate(given):
        if reason := why_not(one, events):
            refused.append({"index": index, "reason": reason})
        else:
            kept.append(as_kept(one))
    num_kept = shared.verdicts.put(kept)
    return {"kept": num_kept, "older": len(kept) - num_kept, "refused": refused}


def why_not(one: GivenVerdict, events: set[tuple[str, int, int]]) -> str:
    """Why a verdict cannot be kept; empty if it can."""
    if (one.video, one.start_frame, one.stop_frame) not in events:
        return "there is no such event"
    if one.verdict == "right" and not one.true_class:
        return "a right event needs its true_class"
    if one.true_class == NORMAL:
        return f"an event that is {NORMAL} is wrong, not right"
    if one.true_class and one.verdict != "right":
        return "only a right event has a true_class"
    return ""


def as_kept(one: GivenVerdict) -> Verdict:
    """A verdict as the database has it; a clock that is fast must not outrank later ones."""
    moment = min(one.reviewed_at.astimezone(UTC), datetime.now(UTC))
    written = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Verdict(**{**one.model_dump(), "reviewed_at": written})


def _part(
    key: str, found: Snapshot, rows: Sequence[dict[str, Any]], offset: int, limit: int
) -> AsciiJson:
    return AsciiJson(
        {"version": found.version, "total": len(rows), key: rows[offset : offset + limit]}
    )
