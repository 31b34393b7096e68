"""Alarms, ledgers and a web server that behaves as told, for the tests of watching."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vigil.pipeline.watching.alarm import Alarm, event_id
from vigil.pipeline.watching.ledger import SCORED, ScoredVideo


def make_alarm(camera="front", number=0, **changes):
    """An alarm of a recording; another number is another event."""
    fields = {
        "event": event_id(camera, None, "digest", number),
        "sequence": 0,
        "is_open": False,
        "camera": camera,
        "video": f"{camera}/{number}.mp4",
        "label": "Fighting",
        "class_shares": {"Fighting": 0.75, "Arson": 0.25},
        "peak_score": 0.5,
        "threshold": 0.25,
        "start_seconds": 1.0,
        "stop_seconds": 2.5,
        "start_time": "2026-11-30T02:15:30+01:00",
        "stop_time": None,
        "detected_at": "2026-11-30T01:16:00+00:00",
        "lag_seconds": None,
    }
    return Alarm(**fields | changes)


def make_video(camera="front", number=0, **changes):
    fields = {
        "camera": camera,
        "video": f"{camera}/{number}.mp4",
        "digest": f"digest {number}",
        "outcome": SCORED,
        "reason": "",
        "completed_at": 10.0,
        "scored_at": 20.0,
    }
    return ScoredVideo(**fields | changes)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, seconds=1_700_000_000.0):
        self.seconds = seconds

    def __call__(self):
        return self.seconds


class Receiver:
    """What a web server was sent, and how it answers next: a status, or a function of a handler."""

    def __init__(self):
        self.answer = 200
        self.requests = []
        """(headers, body)"""
        self.arrived = threading.Semaphore(0)

    @property
    def messages(self):
        """(camera, event, sequence) of every body, in order."""
        bodies = [json.loads(body) for _, body in self.requests]
        return [(body["camera"], body["event"], body["sequence"]) for body in bodies]


@contextmanager
def serve(receiver, port=0, tls=None):
    """Serve on loopback while the block runs; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append((self.headers, body))
            answer = receiver.answer
            receiver.arrived.release()
            if callable(answer):
                answer(self)
                return
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *arguments):
            pass

    server = Server(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
