"""What the REST API takes and gives, as its OpenAPI description has it."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field

MAX_ROWS = 1000
"""Rows of an answer, and verdicts of a request."""
Number = Annotated[int, Field(ge=0, lt=2**53)]


class ResultsRow(BaseModel):
    """A RESULTS folder."""

    name: str = Field(description="In the addresses of this API.")
    version: str = Field(description="Changes when videos or events do, and their numbers with it.")
    created_at: str
    problem: str = Field(description="Why newer files cannot be read; empty if they can.")
    num_videos: int
    num_events: int
    num_failures: int
    num_reviewed: int = Field(description="Events with a verdict of anybody.")


class VideoRow(BaseModel):
    """A video."""

    number: int
    video: str
    label: str
    label_probability: float
    peak_score: float
    duration_seconds: float
    num_events: int
    warnings: list[str]


class EventRow(BaseModel):
    """An event."""

    video_number: int
    number: int = Field(description="In its video, from 1.")
    video: str
    start_frame: int
    stop_frame: int
    start_seconds: float
    stop_seconds: float
    peak_score: float
    class_name: str
    class_probability: float
    start_clock: str | None
    stop_clock: str | None


class GivenVerdict(BaseModel):
    """What a person says of an event; empty verdict and note take back what was said before."""

    video: str = Field(max_length=4096)
    start_frame: Number
    stop_frame: Number
    reviewer: str = Field(min_length=1, max_length=100, pattern=r"^\S(.*\S)?$")
    verdict: Literal["", "right", "wrong"]
    true_class: str = Field("", max_length=200, description="Of a right event; else empty.")
    note: str = Field("", max_length=2000)
    reviewed_at: AwareDatetime


class KeptVerdict(BaseModel):
    """A verdict as it is kept."""

    video: str
    start_frame: int
    stop_frame: int
    reviewer: str
    verdict: Literal["", "right", "wrong"]
    true_class: str
    note: str
    reviewed_at: str


class Videos(BaseModel):
    """Videos by name."""

    version: str
    total: int
    videos: list[VideoRow]


class Events(BaseModel):
    """Events by video and time."""

    version: str
    total: int
    events: list[EventRow]


class Verdicts(BaseModel):
    """Verdicts in the order of their last change."""

    last: int = Field(description="Number of the last change, for `since`.")
    verdicts: list[KeptVerdict]


class GivenVerdicts(BaseModel):
    """Verdicts to keep."""

    verdicts: list[GivenVerdict] = Field(max_length=MAX_ROWS)


class Refused(BaseModel):
    """A verdict that is not kept."""

    index: int = Field(description="In the request, from 0.")
    reason: str


class Answer(BaseModel):
    """What became of given verdicts."""

    kept: int
    older: int = Field(description="Not kept, because that person has said something since.")
    refused: list[Refused]
