"""`vigil serve` on a real socket: as a command, to raw requests, and in a browser."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from urllib.parse import urlsplit

import pytest
from commands import ROOT
from test_report import write_folder
from test_report_browser import PATIENCE, event, open_event, result, until
from video_files import draw_frames, encode

from vigil.pipeline.serving import command
from vigil.pipeline.serving.connections import WatchedProtocol
from vigil.pipeline.serving.site import open_site

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """RESULTS with a video that plays."""
    folder = tmp_path_factory.mktemp("served") / "monday"
    plays = encode(folder.parent / "plays.mp4", draw_frames(100, 64, 64))
    events = event(2, 4, 0.7, clock="23:10"), event(6, 8, 0.9, "Arson", clock="23:11")
    write_folder(folder, [result("gate/plays.mp4", *events, source=str(plays)), result("b.mp4")])
    return folder


@contextmanager
def running(app):
    """Serve an application from a thread at a free port, and yield its address."""
    listener = command.open_listener("127.0.0.1", 0)
    server = command.server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield command.address_of(listener, "127.0.0.1", None)
    server.should_exit = True
    thread.join()


@pytest.fixture
def address(results):
    (results / "verdicts.sqlite").unlink(missing_ok=True)
    with running(command.guarded(open_site([results]), {"localhost"}, None)) as address:
        yield address


def start(*arguments, **variables):
    return subprocess.Popen(
        [sys.executable, "-m", "vigil.pipeline.cli", "serve", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ask(address, path, **headers):
    """The status and body of an answer; the path is sent as it stands."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc)) as connection:
        connection.putrequest("GET", path)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_cleanly_and_tells_no_token(results, how):
    program = start(results, "--port", 0, "--verbose", VIGIL_TOKEN=TOKEN)
    address = program.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
    assert ask(address, "/")[0] == 401
    status, page = ask(address, f"/results/monday/?token={TOKEN}")
    assert (status, TOKEN.encode() in page) == (200, False)
    assert ask(address, "/", Authorization=f"Bearer {TOKEN}")[0] == 307
    program.send_signal(how)
    out, err = program.communicate()
    assert program.returncode == 130
    assert out == ""
    assert TOKEN not in err
    assert "Traceback" not in err
    assert f"verdicts are kept in {results}/verdicts.sqlite" in err


def test_beyond_this_machine_a_token_is_made_and_told_once(results):
    program = start(results, "--port", 0, "--host", "0.0.0.0", VIGIL_TOKEN="")
    told = urlsplit(program.stdout.readline().strip())
    assert re.fullmatch(r"token=[\w-]{43}", told.query)
    address = f"http://127.0.0.1:{told.port}/"
    assert ask(address, "/")[0] == 401
    assert ask(address, f"/?{told.query}")[0] == 200
    program.send_signal(signal.SIGINT)
    out, err = program.communicate()
    assert program.returncode == 130
    assert told.query[6:] not in out + err
    assert "put a proxy with TLS in front" in err


def test_a_port_in_use_is_told(results):
    with command.open_listener("127.0.0.1", 0) as taken:
        taken.listen()
        program = start(results, "--port", taken.getsockname()[1])
        _, err = program.communicate()
    assert program.returncode == 2
    assert re.search(r"ERROR: 127.0.0.1 port \d+ cannot be used \(Address already in use\)", err)


@pytest.mark.parametrize(
    "path",
    [
        "/results/monday/clips/../manifest.json",
        "/results/monday/../../etc/passwd",
        "/results/monday/report/../manifest.json",
        "/results/monday/video/../../../etc/passwd",
        "/results/monday/video/1/../0",
        "//etc/passwd",
        "/results/../api/results",
        "/results/monday/clips/%c0%ae%c0%ae/manifest.json",
        "/results/%2e%2e/monday/",
        "/results/monday%00/",
    ],
)
def test_raw_paths_lead_nowhere(address, path):
    status, body = ask(address, path)
    assert (status, b"root:" in body) == (404, False)


@pytest.mark.parametrize("request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_request_is_refused(address, request_):
    with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as connection:
        connection.sendall(request_)
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"PUT /api/results/monday/verdicts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        b"Content-Type: application/json\r\n\r\n[",
    ],
    ids=["nothing", "half a line", "half a body"],
)
def test_idle_clients_are_given_up(results, sent, monkeypatch):
    monkeypatch.setattr(WatchedProtocol, "patience_seconds", 0.2)
    with (
        running(command.guarded(open_site([results]), {"localhost"}, None)) as address,
        socket.create_connection(("127.0.0.1", urlsplit(address).port)) as connection,
    ):
        connection.sendall(sent)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_clients_that_read_nothing_are_given_up_but_not_slow_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(WatchedProtocol, "patience_seconds", 0.5)
    endless = tmp_path / "endless.mp4"
    with endless.open("wb") as file:
        file.truncate(1 << 40)  # it has a size, and takes no place
    write_folder(tmp_path / "R", [result("endless.mp4", source=str(endless))])
    app = command.guarded(open_site([tmp_path / "R"]), {"localhost"}, None)
    with (
        running(app) as address,
        socket.create_connection(("127.0.0.1", urlsplit(address).port)) as connection,
    ):
        connection.sendall(b"GET /results/R/video/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(30):
            assert len(connection.recv(1 << 20)) > 0
            time.sleep(0.05)
        assert app.num_open == 1
        deadline = time.monotonic() + PATIENCE / 1000
        while app.num_open and time.monotonic() < deadline:
            time.sleep(0.05)
        assert app.num_open == 0


class TestInTheBrowser:
    @pytest.fixture
    def visit(self, chromium, address):
        """Returns a function that opens the site as a new person would; nothing may be logged."""
        contexts, complaints = [], []

        def open_page():
            context = chromium.new_context(viewport={"width": 1400, "height": 900})
            context.set_default_timeout(PATIENCE)
            contexts.append(context)
            page = context.new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(address)
            page.wait_for_selector("html[data-ready]", state="attached")
            return page

        yield open_page
        for context in contexts:
            context.close()
        assert [text for text in complaints if "ERR_INTERNET_DISCONNECTED" not in text] == []

    @staticmethod
    def say_who(page, name):
        page.fill("#reviewer-name", name)
        page.keyboard.press("Enter")
        page.wait_for_selector("#reviewer-name", state="hidden")  # else it takes the next key

    def test_the_video_plays_at_the_event_in_ranges(self, visit):
        page = visit()
        answers = []
        page.on("response", lambda answer: answers.append((answer.url, answer.status)))
        open_event(page, "Arson", "0.900")
        until(page, "document.querySelector('video')?.currentTime > 0")
        assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(2.4)
        assert {status for url, status in answers if "/video/1?version=" in url} == {206}
        page.locator(".slider").press("Home")
        until(page, "document.querySelector('video').currentTime === 0")

    def test_what_one_says_another_sees(self, visit, address):
        ann, bob = visit(), visit()
        open_event(ann, "Arson", "0.900")
        ann.keyboard.press("r")
        self.say_who(ann, "Ann")
        ann.wait_for_selector(".card .badge")
        bob.wait_for_selector(".card .badge")
        assert bob.locator(".card .badge").all_inner_texts() == ["✓ right · Ann"]
        open_event(bob, "Arson", "0.900")
        assert "Ann: ✓ right" in bob.inner_text("#verdict")
        assert bob.locator("#verdict [aria-pressed=true]").count() == 0
        bob.click("#reviewer")
        self.say_who(bob, "<b>Bob</b>")
        bob.keyboard.press("w")
        until(ann, "document.querySelector('.card .badge').textContent.includes('differ')")
        assert "<b>Bob</b>: ✗ wrong" in ann.inner_text("#verdict")
        third = visit()
        third.wait_for_selector(".card .badge")
        assert third.locator(".card .badge").inner_text() == "≠ no agreement · Ann, <b>Bob</b>"
        _, table = ask(address, "/results/monday/verdicts.csv")
        assert b"no agreement: Ann Arson, <b>Bob</b> wrong" in table
        bob.keyboard.press("w")  # taken back
        until(ann, "document.querySelector('.card .badge').textContent === '✓ right'")

    def test_verdicts_wait_while_the_server_is_away(self, visit):
        page = visit()
        open_event(page, "Arson", "0.900")
        page.click("#reviewer")
        self.say_who(page, "Ann")
        page.context.set_offline(True)
        page.keyboard.press("w")
        assert page.locator(".card .badge").all_inner_texts() == ["✗ wrong"]
        page.wait_for_selector("#connection")
        assert page.inner_text("#connection") == (
            "The server cannot be reached. 1 verdict waits in this browser."
        )
        page.context.set_offline(False)
        page.wait_for_selector("#connection", state="hidden")
        other = visit()
        other.wait_for_selector(".card .badge")
        assert other.locator(".card .badge").all_inner_texts() == ["✗ wrong · Ann"]

    def test_a_note_being_written_stays_when_others_verdicts_arrive(self, visit):
        ann, bob = visit(), visit()
        open_event(ann, "Arson", "0.900")
        ann.keyboard.press("n")
        ann.keyboard.type("two m")
        open_event(bob, "Arson", "0.900")
        bob.keyboard.press("w")
        self.say_who(bob, "Bob")
        ann.wait_for_selector(".card .badge")
        ann.keyboard.type("en")
        ann.keyboard.press("Escape")
        assert ann.input_value("#note") == "two men"

    def test_the_token_is_given_once(self, chromium, results):
        app = command.guarded(open_site([results]), {"localhost"}, TOKEN)
        with running(app) as address:
            page = chromium.new_context().new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            page.fill("[name=token]", TOKEN)
            page.click("button")
            page.wait_for_selector("html[data-ready]", state="attached")
            assert TOKEN not in page.url
            open_event(page, "Arson", "0.900")
            until(page, "document.querySelector('video')?.currentTime > 0")
            assert page.evaluate("document.cookie") == ""
            page.context.close()
