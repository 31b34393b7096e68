"""The site as an application: pages, files, the API, health and figures."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from vigil.extract.versions import installed_versions
from vigil.pipeline.pages import render_page
from vigil.pipeline.scoring.clips import CLIPS_FOLDER
from vigil.pipeline.scoring.report.details import details_of
from vigil.pipeline.scoring.report.page import (
    FOLDER_NAME,
    INDEX_NAME,
    PROGRAM,
    SERVED_SCRIPTS,
    STYLES,
    script,
)
from vigil.pipeline.scoring.strips import THUMBNAILS_FOLDER
from vigil.pipeline.serving.rest import AsciiJson, make_router, results_row
from vigil.pipeline.serving.served_files import (
    MEDIA_TYPES,
    file_below,
    make_text,
    missing,
    send_file,
    send_text,
    send_video,
)
from vigil.pipeline.serving.site import SharedResults, Site
from vigil.pipeline.serving.snapshot import Snapshot
from vigil.pipeline.serving.traffic import Traffic
from vigil.pipeline.serving.verdict_table import verdict_csv

JAVASCRIPT = MEDIA_TYPES[".js"]
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
CHANGED = "The results have changed since: load the page again."
WRONG = "This request is not understood."

Page = Callable[[Request, SharedResults], Response]


def make_application(site: Site, traffic: Callable[[], Traffic]) -> FastAPI:
    """The application of a site; who may use it is left to `Guard`.

    Args:
        site: what it serves.
        traffic: returns what counts the requests.
    """
    app = FastAPI(
        title="vigil serve",
        description="Results of vigil score, and verdicts on their events.",
        version=installed_versions().get("vigil-video", "unknown"),
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(make_router(site))
    app.add_exception_handler(RequestValidationError, tell_what_is_wrong)
    app.add_route("/favicon.ico", lambda _request: Response(status_code=204))
    app.add_route("/healthz", lambda _request: PlainTextResponse("ok\n"))
    app.add_route("/metrics", lambda _request: send_figures(site, traffic()))
    app.add_route("/", lambda request: send_front(request, site))
    app.add_route("/app/{file}", lambda request: send_program(request.path_params["file"]))
    for path, page in PAGES.items():
        app.add_route(f"/results/{{name}}/{path}", _of_results(site, page))
    return app


def _of_results(site: Site, page: Page) -> Callable[[Request], Response]:
    """A page of one RESULTS folder, found by its name in the address."""

    def answer(request: Request) -> Response:
        shared = site.find(request.path_params["name"])
        return missing() if shared is None else page(request, shared)

    return answer


def tell_what_is_wrong(_request: Request, error: Exception) -> Response:
    """An answer that names the wrong fields of a request, without repeating their values."""
    assert isinstance(error, RequestValidationError)
    wrong = [{"loc": list(one["loc"]), "msg": one["msg"]} for one in error.errors()]
    return AsciiJson({"detail": wrong or WRONG}, 422)


def send_front(request: Request, site: Site) -> Response:
    """The list of results; or these themselves, if there is only one."""
    if len(site.members) == 1:
        return RedirectResponse(f"results/{site.members[0].name}/", 307)
    rows = [results_row(one) for one in site.members]
    return send_text(request, make_text(render_page("site.html", rows=rows), "text/html"))


def send_details(request: Request, shared: SharedResults) -> Response:
    """The details of a video, which link to it here."""
    found, number = _video(request, shared)
    if found is None:
        return missing(CHANGED, 410)
    if number is None:
        return missing()
    result = found.videos[number]
    details = details_of(result, shared.folder, found.truth.get(result.video))
    is_here = found.source(number) is not None
    details["link"] = f"./video/{number}?version={found.version}" if is_here else None
    return send_text(request, make_text(script("video", details, number), JAVASCRIPT))


def send_source(request: Request, shared: SharedResults) -> Response:
    """The file of a video."""
    found, number = _video(request, shared)
    if found is None:
        return missing(CHANGED, 410)
    path = None if number is None else found.source(number)
    return missing() if path is None else send_video(path)


def _video(request: Request, shared: SharedResults) -> tuple[Snapshot | None, int | None]:
    """The results of the version that the address names, and the number of a video in them."""
    found = shared.at(request.query_params.get("version"))
    number: int = request.path_params["number"]
    is_there = found is not None and number < len(found.videos)
    return found, number if is_there else None


def send_verdicts(request: Request, shared: SharedResults) -> Response:
    """The verdicts of everybody, or of one person, as vigil train takes them."""
    reviewer = request.query_params.get("reviewer")
    verdicts = [
        one for one in shared.verdicts.all() if reviewer is None or one.reviewer == reviewer
    ]
    table = make_text(verdict_csv(shared.now().results, verdicts), "text/csv")
    answer = send_text(request, table)
    answer.headers["Content-Disposition"] = 'attachment; filename="verdicts.csv"'
    return answer


def send_program(name: str) -> Response:
    """A file of the program that ships with this vigil."""
    if name not in (*STYLES, *SERVED_SCRIPTS):
        return missing()
    path = PROGRAM / name
    return send_file(path, MEDIA_TYPES[path.suffix])


def _send_below(folder: str) -> Page:
    """What sends files below a folder in RESULTS."""

    def send(request: Request, shared: SharedResults) -> Response:
        # The path as it was sent: names of files need not be UTF-8.
        start = f"/results/{shared.name}/{folder}/".encode()
        raw: bytes = request.scope["raw_path"]
        name = unquote_to_bytes(raw.removeprefix(start)).decode(errors="surrogateescape")
        path = file_below(shared.folder, f"{folder}/{name}") if raw != start else None
        return missing() if path is None else send_file(path, MEDIA_TYPES[path.suffix])

    return send


PAGES: dict[str, Page] = {
    "": lambda request, shared: send_text(request, shared.page()),
    f"{FOLDER_NAME}/{INDEX_NAME}": lambda request, shared: send_text(request, shared.now().index),
    f"{FOLDER_NAME}/videos/{{number:int}}.js": send_details,
    f"{FOLDER_NAME}/{{file}}": lambda request, _shared: send_program(request.path_params["file"]),
    f"{CLIPS_FOLDER}/{{file:path}}": _send_below(CLIPS_FOLDER),
    f"{THUMBNAILS_FOLDER}/{{file:path}}": _send_below(THUMBNAILS_FOLDER),
    "video/{number:int}": send_source,
    "verdicts.csv": send_verdicts,
}
"""Path below that of a RESULTS folder -> what answers."""


def send_figures(site: Site, traffic: Traffic) -> Response:
    """Figures of the site, as Prometheus reads them."""
    lines = [*traffic.figures(), *_figures_of_results(site)]
    return PlainTextResponse("\n".join(lines) + "\n", media_type=PROMETHEUS)


def _figures_of_results(site: Site) -> Iterator[str]:
    rows: list[dict[str, Any]] = [results_row(one) for one in site.members]
    for key, what in {
        "num_videos": "Videos with answers.",
        "num_events": "Events in them.",
        "num_failures": "Videos without an answer.",
        "num_reviewed": "Events with a verdict.",
    }.items():
        name = f"vigil_results_{key.removeprefix('num_')}"
        yield f"# HELP {name} {what}"
        yield f"# TYPE {name} gauge"
        for row in rows:
            yield f'{name}{{results="{row["name"]}"}} {row[key]}'
