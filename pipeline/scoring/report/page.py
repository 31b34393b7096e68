"""The files of a report: ``report.html``, a frame, and ``report/``, its program and data.

    report.html             the frame: what is said of all videos
    report/*.js, *.css      the program, copied from `report_app`
    report/index.js         a row per video and event: enough to list, filter and sort
    report/videos/7.js      details of the video that is number 7 (from 0) in the manifest

It is opened from disk, where a browser lets a page load scripts but not read files. So data are
scripts, too: each calls one function with JSON in a string.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vigil.extract.files import make_folder, sync
from vigil.pipeline.pages import render_page
from vigil.pipeline.scoring.report.details import Truth, details_of
from vigil.pipeline.scoring.report.index import index_of
from vigil.pipeline.scoring.results import Results
from vigil.pipeline.text_files import write_text

REPORT_NAME = "report.html"
FOLDER_NAME = "report"
INDEX_NAME = "index.js"
DETAILS_NAME = "videos"
PROGRAM = Path(__file__).parent.parent / "report_app"
SCRIPTS = (
    *("data.js", "words.js", "dom.js", "state.js", "csv.js", "verdicts.js", "filters.js"),
    *("album.js", "cards.js", "table.js", "windowed.js", "timeline.js", "player.js"),
    *("details.js", "exchange.js", "keys.js", "app.js"),
)
"""The program, in the order in which the page loads it."""
SERVED_SCRIPTS = (*SCRIPTS[:-1], "server.js", *SCRIPTS[-1:])
"""The same, of a page that `vigil serve` serves."""
STYLES = ("report.css",)
NUM_SYNCED = 32
"""Files that are synced at a time, which a disk does almost as fast as one."""


def write_report(path: Path, results: Results, truth: Truth | None = None) -> None:
    """Write the page at a path and its folder beside it; the page last.

    Args:
        path: of the page; links to videos are relative to its folder.
        results: all of RESULTS.
        truth: video -> its annotation, which the timelines show.
    """
    path.unlink(missing_ok=True)  # so that no page of an earlier run shows data of this one
    folder = path.parent / FOLDER_NAME
    for name in (*STYLES, *SCRIPTS):
        write_text(folder / name, (PROGRAM / name).read_text(encoding="utf-8"))
    write_script(folder / INDEX_NAME, "index", index_of(results, path.parent))
    write_details(folder / DETAILS_NAME, results, path.parent, truth or {})
    write_text(path, render_report(results))


def write_details(folder: Path, results: Results, page_folder: Path, truth: Truth) -> None:
    """Write a script for each video, and remove those of an earlier run.

    No page refers to them yet, so they need no temporary names, and many are synced at a time.
    """
    make_folder(folder)
    written = []
    for number, result in enumerate(results.by_name):
        details = details_of(result, page_folder, truth.get(result.video))
        written.append(folder / f"{number}.js")
        written[-1].write_text(script("video", details, number), encoding="ascii")
    for path in {*folder.glob("*.js")}.difference(written):
        path.unlink()
    with ThreadPoolExecutor(NUM_SYNCED) as pool:
        for _ in pool.map(sync, [*written, folder]):  # raises what one of them raised
            pass


def remove_report(path: Path) -> None:
    """Remove the page and what `write_report` wrote beside it."""
    path.unlink(missing_ok=True)
    folder = path.parent / FOLDER_NAME
    names = [*STYLES, *SCRIPTS, INDEX_NAME]
    for file in [*(folder / name for name in names), *(folder / DETAILS_NAME).glob("*.js")]:
        file.unlink(missing_ok=True)
    for emptied in (folder / DETAILS_NAME, folder):
        if emptied.is_dir() and not any(emptied.iterdir()):
            emptied.rmdir()


def render_report(results: Results, server: str | None = None) -> str:
    """Render the frame as HTML.

    Args:
        results: all of RESULTS.
        server: address at which the page finds verdicts, if it is served.
    """
    videos = results.videos
    scripts = SCRIPTS if server is None else SERVED_SCRIPTS
    return render_page(
        REPORT_NAME,
        manifest=results.manifest,
        num_videos=len(videos),
        num_failures=len(results.failures),
        total_seconds=sum(video.duration_seconds for video in videos),
        num_events=sum(len(video.events) for video in videos),
        num_with_events=sum(bool(video.events) for video in videos),
        num_damaged=sum(video.num_frames_damaged > 0 for video in videos),
        folder=FOLDER_NAME,
        styles=STYLES,
        scripts=(*scripts[:1], INDEX_NAME, *scripts[1:]),
        server=server,
    )


def write_script(path: Path, function: str, content: object) -> None:
    """Write data as a script that passes them to a function of the program."""
    write_text(path, script(function, content))


def script(function: str, content: object, *numbers: int) -> str:
    """A script that calls a function of the program with numbers and a string of JSON.

    The JSON is ASCII in a string literal: no name in it can end the literal, become code, or be
    taken for the prototype of an object.

    Raises:
        ValueError: the content has a number that is not finite.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    literal = text.replace("\\", "\\\\").replace("'", "\\'")
    arguments = [*map(str, numbers), f"'{literal}'"]
    return f"vigil.{function}({','.join(arguments)});\n"
