"""The results of a RESULTS folder at one moment, and what is sent of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vigil.pipeline.options import VIDEO_EXTENSIONS
from vigil.pipeline.scoring.report.details import Truth
from vigil.pipeline.scoring.report.index import index_of
from vigil.pipeline.scoring.report.page import render_report, script
from vigil.pipeline.scoring.results import Results, VideoResult
from vigil.pipeline.serving.served_files import MEDIA_TYPES, Text, make_text


@dataclass(frozen=True)
class Snapshot:
    """The results at one moment."""

    name: str
    """Of the results, in addresses."""
    folder: Path
    """RESULTS."""
    results: Results
    truth: Truth
    """Video -> its annotation, if any was given."""

    @cached_property
    def videos(self) -> list[VideoResult]:
        """The videos by name: their places in this list are their numbers, in pages and the API."""
        return self.results.by_name

    @cached_property
    def version(self) -> str:
        """Changes whenever a number may mean another video or event."""
        told = hashlib.sha256()
        for result in self.videos:
            ranges = [(event.start_frame, event.stop_frame) for event in result.events]
            told.update(f"{result.video!a}{ranges}\n".encode("ascii"))
        return told.hexdigest()[:16]

    @cached_property
    def events(self) -> set[tuple[str, int, int]]:
        """Video, first frame, and the frame after the last one, of every event."""
        return {
            (result.video, event.start_frame, event.stop_frame)
            for result in self.videos
            for event in result.events
        }

    @cached_property
    def index(self) -> Text:
        """The index of the report, with the version that its numbers are of."""
        content = index_of(self.results, self.folder) | {"version": self.version}
        return make_text(script("index", content), MEDIA_TYPES[".js"])

    @cached_property
    def page(self) -> Text:
        """The page of the report."""
        return self.page_with(())

    def page_with(self, warnings: Sequence[str]) -> Text:
        """The page of the report, with further warnings."""
        manifest = self.results.manifest
        told = {**manifest, "warnings": [*manifest.get("warnings", ()), *warnings]}
        server = f"../../api/results/{self.name}/verdicts"
        page = render_report(replace(self.results, manifest=told), server=server)
        return make_text(page, "text/html")

    def make(self) -> None:
        """Make what many may ask for at the same time, so that it is made once."""
        for text in (self.page, self.index):
            assert text.tag
        assert self.version
        self.events  # noqa: B018

    def source(self, number: int) -> Path | None:
        """The file of a video, behind links, if it is there and has the extension of a video."""
        return video_file(self.videos[number].source)


def video_file(source: str | None) -> Path | None:
    """The file behind a source of results, or None if it cannot be served.

    Results may come from elsewhere and name any file, so only what ends like a video is served.
    """
    if source is None:
        return None
    try:
        path = Path(source).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # not there, NUL in it, links in a circle
        return None
    if path.suffix.lower() not in VIDEO_EXTENSIONS.split(",") or not path.is_file():
        return None
    return path
