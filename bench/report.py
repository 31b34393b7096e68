"""`python -m bench.report`: the report of many videos in a browser, with drawn results.

It needs Debian's ``chromium`` and the ``playwright`` of ``.[dev]``. Figures go to standard output.
"""

import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from playwright.sync_api import Page, sync_playwright

from bench.machine import describe
from vigil.extract.decode.thumbnails import COLUMNS, ROWS, Photographer
from vigil.extract.engine.album import ALBUM_NAME, AlbumWriter
from vigil.extract.errors import FailedVideo
from vigil.extract.networks.hardware import select_device
from vigil.pipeline.scores.events import Event, true_runs
from vigil.pipeline.scores.frame_warnings import DamagedFrames
from vigil.pipeline.scoring.report.page import FOLDER_NAME, INDEX_NAME, REPORT_NAME, write_report
from vigil.pipeline.scoring.results import Results, SegmentScore, VideoResult, by_peak_score
from vigil.pipeline.scoring.strips import (
    THUMBNAILS_FOLDER,
    album_of,
    strip_name,
    strip_of,
    write_strip,
)

CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu")
CLASSES = ("Normal", "Assault", "Burglary", "Explosion", "Fighting", "RoadAccidents", "Shoplifting")
THRESHOLD = 0.5
NUM_SEGMENTS, FPS = 32, 25.0
NUM_TRIES = 5
"""Times that everything in the browser is measured; the fastest counts."""


@dataclass(frozen=True)
class Options:
    """Write the report of drawn results, open it in Chromium, and measure it."""

    videos: int = 10_000
    """Number of videos; each has three events on average."""
    seed: int = 0
    out: Path | None = None
    """Folder for the report, which is kept; by default a temporary one."""


def draw_results(num_videos: int, seed: int = 0) -> Results:
    """Results of videos that were never filmed: names, times, scores, classes, some damage."""
    rng = np.random.default_rng(seed)
    videos = [draw_video(number, rng) for number in range(num_videos)]
    failures = tuple(
        FailedVideo(f"camera01/broken_{number:04}.mp4", "no frame can be decoded", "decord", 0)
        for number in range(num_videos // 200)
    )
    manifest = {
        "created_at": "2024-05-02T06:00:00+00:00",
        "checkpoint": {"path": "runs/drawn"},
        "threshold": THRESHOLD,
        "warnings": ["These results are drawn: no such videos exist."],
        "versions": {"vigil-video": "0.1.0"},
    }
    return Results(manifest, tuple(by_peak_score(videos)), failures)


def draw_video(number: int, rng: np.random.Generator) -> VideoResult:
    """The result of one video of minutes, in a folder per camera, with 0 to 8 events."""
    begun = datetime(2024, 5, 1) + timedelta(seconds=int(rng.integers(0, 7 * 86400)))
    name = f"camera{rng.integers(1, 13):02}/{begun:%Y-%m-%d_%H-%M-%S}_{number:05}.mp4"
    step = int(rng.integers(40, 200))
    scores = rng.beta(2, 9, NUM_SEGMENTS)
    for _ in range(rng.integers(0, 9)):
        at, length = int(rng.integers(0, NUM_SEGMENTS)), int(rng.integers(1, 4))
        scores[at : at + length] = rng.uniform(THRESHOLD, 1, scores[at : at + length].shape)
    shares = rng.dirichlet(np.full(len(CLASSES), 0.4), NUM_SEGMENTS)
    runs = true_runs(scores >= THRESHOLD)
    means = dict(zip(CLASSES, shares.mean(axis=0).tolist(), strict=True))
    damage = (DamagedFrames(step, 2 * step, step / FPS, 2 * step / FPS),) if number % 9 == 8 else ()
    events = tuple(
        draw_event(start * step, stop * step, scores[start:stop].max(), shares[start:stop], begun)
        for start, stop in runs
    )
    return VideoResult(
        video=name,
        source=f"/footage/{name}",
        label=max(events, key=lambda one: one.peak_score).class_name if events else "Normal",
        class_probabilities=means,
        peak_score=float(scores.max()),
        threshold=THRESHOLD,
        events=events,
        segments=tuple(
            SegmentScore(i * step, (i + 1) * step, i * step / FPS, (i + 1) * step / FPS, score)
            for i, score in enumerate(scores.tolist())
        ),
        views=("center",),
        fps=FPS,
        num_frames_container=NUM_SEGMENTS * step,
        num_frames_decoded=NUM_SEGMENTS * step,
        num_frames_damaged=step if damage else 0,
        spec_digest="0" * 64,
        warnings=("Damaged frames were replaced by those before them.",) if damage else (),
        damage=damage,
        segment_class_probabilities={
            one: tuple(shares[:, index].tolist()) for index, one in enumerate(CLASSES)
        },
        recorded_at=str(begun),
        recorded_at_source="name",
    )


def draw_albums(folder: Path, results: Results) -> None:
    """Give every video the same thumbnails, and every event a strip of them, as hard links."""
    first, *others = results.videos
    rng = np.random.default_rng(0)
    photographer = Photographer(1)
    frames = (rng.integers(0, 256, (90, 160, 3), np.uint8) for _ in range(COLUMNS * ROWS))
    deque(photographer.watch(frames), maxlen=0)
    album = AlbumWriter(folder / THUMBNAILS_FOLDER, first.video)
    for sheet in photographer.sheets():
        album.put("drawn", sheet)
    album.finish("drawn", np.arange(COLUMNS * ROWS, dtype=np.float64) * 4)
    drawn = album_of(folder, first.video)
    assert drawn is not None, "it was just written"
    strip = drawn.folder / "strip-0-4.jpg"
    write_strip(drawn, [0, 1, 2, 3, 4], strip)
    for result in (first, *others):
        place = folder / THUMBNAILS_FOLDER / result.video
        place.mkdir(parents=True, exist_ok=True)
        names = {strip_name(strip_of(drawn, result, event)) for event in result.events}
        links = dict.fromkeys(names, strip)
        links |= {one: drawn.folder / one for one in (ALBUM_NAME, drawn.sheets[0][0])}
        for name, target in links.items():
            if not (place / name).exists():
                os.link(target, place / name)


def draw_event(
    start_frame: int, stop_frame: int, peak: float, shares: np.ndarray[Any, Any], begun: datetime
) -> Event:
    """The event in a range of frames with class shares (segments, classes), normal first."""
    means = shares[:, 1:].mean(axis=0)
    start, stop = start_frame / FPS, stop_frame / FPS
    return Event(
        start_frame,
        stop_frame,
        start,
        stop,
        float(peak),
        CLASSES[1 + int(means.argmax())],
        float(means.max()),
        start_clock=str(begun + timedelta(seconds=int(start))),
        stop_clock=str(begun + timedelta(seconds=int(stop) + 1)),
    )


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of Debian's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


def measure_page(page: Page, address: str) -> Iterator[tuple[str, str]]:
    """Figures of the report in a browser, each with its name."""
    opened = []
    for _ in range(NUM_TRIES):
        page.goto("about:blank")
        begun = time.monotonic()
        page.goto(address)
        page.wait_for_selector("[data-ready]", state="attached")
        opened.append(time.monotonic() - begun)
    yield "seconds until it can be used", f"{min(opened):.2f}"
    yield "elements in the page", str(page.evaluate("document.querySelectorAll('*').length"))
    for what, changes in {
        "class": {"class": "Fighting"},
        "camera": {"camera": "camera03"},
        "time of day": {"from": "22:00", "to": "04:00"},
        "score": {"score": "0.9"},
        "name": {"q": "2024-05-03"},
        "the other view": {"view": "videos"},
    }.items():
        took = []
        for _ in range(NUM_TRIES):
            page.evaluate(RESET)
            took.append(page.evaluate(CHANGE, changes))
        yield f"milliseconds to filter by {what}", f"{min(took):.0f}"
    scrolled = [page.evaluate(SCROLL) / 1000 for _ in range(NUM_TRIES)]
    yield "seconds to scroll to the end", f"{min(scrolled):.2f}"
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    heap = next(one["value"] for one in metrics if one["name"] == "JSHeapUsedSize")
    yield "MB of JavaScript's memory", f"{heap / 1e6:.1f}"


RESET = """() => {
  const none = Object.fromEntries(vigil.state.filters.map((name) => [name, ""]));
  vigil.app.change({ ...none, view: "events" });
  document.body.getBoundingClientRect();
}"""

CHANGE = """(changes) => {
  const begun = performance.now();
  vigil.app.change(changes);
  document.body.getBoundingClientRect();
  return performance.now() - begun;
}"""
"""Changes the state; the layout that follows counts, too."""

SCROLL = """async () => {
  const begun = performance.now();
  for (let share = 0; share <= 1; share += 0.05) {
    scrollTo(0, share * document.documentElement.scrollHeight);
    await new Promise(requestAnimationFrame);
  }
  return performance.now() - begun;
}"""


def main(options: Options) -> None:
    """Print a figure a line."""
    print(*describe(select_device("cpu"), "bench.report"), sep="\n")
    results = draw_results(options.videos, options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        draw_albums(folder, results)
        begun = time.monotonic()
        write_report(folder / REPORT_NAME, results)
        print(f"videos: {len(results.videos)}")
        print(f"events: {sum(len(one.events) for one in results.videos)}")
        print(f"seconds to write it: {time.monotonic() - begun:.1f}")
        files = [folder / REPORT_NAME, *(folder / FOLDER_NAME).rglob("*.*")]
        sizes = {path: path.stat().st_size for path in files if path.is_file()}
        print(f"MB of the index: {sizes[folder / FOLDER_NAME / INDEX_NAME] / 1e6:.2f}")
        print(f"MB of all files but the thumbnails: {sum(sizes.values()) / 1e6:.1f}")
        with browser_page() as page:
            for name, value in measure_page(page, (folder / REPORT_NAME).absolute().as_uri()):
                print(f"{name}: {value}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m bench.report"))
