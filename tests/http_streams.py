"""An HTTP server that plays a camera, behind a password."""

import http.server
import threading
from contextlib import contextmanager

PASSWORD = "s3cret"


@contextmanager
def http_server(answer):
    """Give the address of a server that calls ``answer`` with the handler of each request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        do_GET = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://viewer:{PASSWORD}@127.0.0.1:{server.server_port}/{PASSWORD}"
    finally:
        server.shutdown()
        server.server_close()
