"""The webhook, against servers that refuse, redirect, hang, drip and flood."""

import base64
import hashlib
import hmac
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import jsonschema
import pytest
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_watch_alarm import SCHEMA
from watch_builders import Receiver, make_alarm, serve

from vigil.pipeline.watching.alarm import alarm_text
from vigil.pipeline.watching.outbox import MAX_RETRY_SECONDS, Letter
from vigil.pipeline.watching.sinks.sink import NotDelivered
from vigil.pipeline.watching.sinks.webhook import REFUSALS, Webhook, signature

SECRET = b"s3cret"


def letter_of(alarm):
    alarm = alarm.numbered(1)
    text = alarm_text(alarm)
    return Letter(1, "hook", alarm.camera, alarm.event, 1, text, None, 0.0, 0)


LETTER = letter_of(make_alarm("fr\u00f6nt \udce4"))


def hook(port, **options):
    return Webhook("hook", ("127.0.0.1", port, "/a?b=c"), False, **options)


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
def port(receiver):
    with serve(receiver) as one:
        yield one


def refused(sink, letter=LETTER):
    with pytest.raises(NotDelivered) as caught:
        sink.deliver(letter)
    return caught.value


def verifier():
    """The function that docs/alarms.md gives to receivers."""
    found = re.search(
        r"(?:^    .*\n|^\n)*^    def is_genuine(?:.*\n)(?:^    .*\n|^\n)*",
        (ROOT / "docs/alarms.md").read_text(),
        re.MULTILINE,
    )
    space = {}
    exec("\n".join(line[4:] for line in found[0].splitlines()), space)
    return space["is_genuine"]


def test_what_is_sent(receiver, port):
    hook(port, secret=SECRET, authorization="Basic abc").deliver(LETTER)
    ((headers, body),) = receiver.requests
    content = json.loads(body)
    jsonschema.validate(content, SCHEMA)
    assert body.decode() == LETTER.message
    assert headers["Content-Type"] == "application/json"
    assert (headers["Vigil-Event"], headers["Vigil-Sequence"]) == (content["event"], "1")
    assert headers["Authorization"] == "Basic abc"
    seconds, digest = re.fullmatch(r"t=(\d+),v1=(\w+)", headers["Vigil-Signature"]).groups()
    expected = hmac.new(SECRET, f"{seconds}.{body.decode()}".encode(), hashlib.sha256)
    assert digest == expected.hexdigest()
    assert abs(time.time() - int(seconds)) < 600
    assert verifier()(SECRET, body, headers["Vigil-Signature"])


def test_without_a_secret_there_is_no_signature(receiver, port):
    hook(port).deliver(LETTER)
    assert "Vigil-Signature" not in receiver.requests[0][0]


class TestSignature:
    """By the function in the docs."""

    @given(st.binary(min_size=1), st.binary(), st.integers(0, 200))
    def test_it_is_accepted_and_any_change_is_not(self, secret, body, place):
        now = int(time.time())
        is_genuine, header = verifier(), signature(secret, body, now)
        assert is_genuine(secret, body, header)
        assert not is_genuine(secret + b"x", body, header)
        assert not is_genuine(secret, body + b"x", header)
        place %= len(header)
        changed = header[:place] + chr(ord(header[place]) ^ 1) + header[place + 1 :]
        assert not is_genuine(secret, body, changed)

    @pytest.mark.parametrize("age", [-400, 400])
    def test_an_old_one_is_not_accepted(self, age):
        header = signature(SECRET, b"{}", int(time.time()) - age)
        assert not verifier()(SECRET, b"{}", header)

    @pytest.mark.parametrize(
        "header", ["", "t=,v1=", "v1=a", "t=1", "t=x,v1=a", "t=1,v1=ä", "t=²,v1="]
    )
    def test_nonsense_is_not_accepted(self, header):
        assert not verifier()(SECRET, b"{}", header)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success(receiver, port, status):
    receiver.answer = status
    hook(port).deliver(LETTER)


@pytest.mark.parametrize("status", [*sorted(REFUSALS), 401, 403, 404, 408, 409, 429, 500, 503, 599])
def test_failure(receiver, port, status):
    receiver.answer = status
    failure = refused(hook(port))
    assert failure.reason == f"it answers {status}"
    assert failure.is_final == (status in REFUSALS)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver, port, status):
    other = Receiver()
    with serve(other) as elsewhere:

        def redirects(handler):
            handler.send_response(status)
            handler.send_header("Location", f"http://127.0.0.1:{elsewhere}/")
            handler.end_headers()

        receiver.answer = redirects
        failure = refused(hook(port))
    assert other.requests == []
    assert failure.reason == f"it redirects ({status}), which is not followed"
    assert not failure.is_final


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120),
        ("0", 0),
        ("999999999999", MAX_RETRY_SECONDS),
        (format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True), 0),
        (format_datetime(datetime.now(UTC) + timedelta(days=9), usegmt=True), MAX_RETRY_SECONDS),
        ("soon", None),
        ("-5", None),
        ("\u00b2", None),
        ("", None),
    ],
    ids=range(9),  # two of them are the time now
)
def test_retry_after(receiver, port, header, expected):
    def busy(handler):
        handler.send_response(503)
        handler.send_header("Retry-After", header)
        handler.end_headers()

    receiver.answer = busy
    assert refused(hook(port)).retry_seconds == expected


class TestBadServers:
    def test_one_that_is_not_there(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        assert refused(hook(port)).reason == "Connection refused"
        sink = Webhook("hook", ("does-not-exist.invalid", 80, "/"), False)
        assert not refused(sink).is_final

    def test_one_that_hangs(self, receiver, port):
        receiver.answer = lambda handler: time.sleep(5)
        assert refused(hook(port, limit_seconds=0.2)).reason == "it does not answer in time"

    def test_one_that_answers_a_byte_at_a_time(self, receiver, port):
        def drips(handler):
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
            for _ in range(500):
                handler.wfile.write(b"x")
                time.sleep(0.02)

        receiver.answer = drips
        assert refused(hook(port, limit_seconds=0.3)).reason == "it does not answer in time"

    def test_one_that_never_ends_its_body(self, receiver, port):
        def floods(handler):
            handler.send_response(200)
            handler.end_headers()
            while True:
                handler.wfile.write(b"x" * 65536)

        receiver.answer = floods
        hook(port).deliver(LETTER)

    @pytest.mark.parametrize(
        "answer",
        [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200\r\n" + b"a: b\r\n" * 200, b"x" * 10**6],
    )
    def test_one_that_speaks_something_else(self, receiver, port, answer):
        receiver.answer = lambda handler: handler.wfile.write(answer)
        failure = refused(hook(port))
        assert not failure.is_final
        assert len(failure.reason) < 100


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", folder / "key.pem", "-out", folder / "certificate.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


class TestTls:
    @pytest.fixture
    def port(self, receiver, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
        with serve(receiver, tls=context) as one:
            yield one

    def test_a_certificate_that_nobody_vouches_for(self, receiver, port):
        failure = refused(Webhook("hook", ("localhost", port, "/"), True))
        assert "certificate is not trusted: self-signed certificate" in failure.reason
        assert receiver.requests == []

    def test_one_that_the_system_trusts(self, receiver, port, certificate, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "certificate.pem"))
        Webhook("hook", ("localhost", port, "/"), True).deliver(LETTER)
        assert len(receiver.requests) == 1
        failure = refused(Webhook("hook", ("127.0.0.1", port, "/"), True))
        assert "certificate is not trusted: " in failure.reason  # it is another host's


def test_basic_authorization_from_an_address(receiver, port):
    from vigil.pipeline.watching.sinks.addresses import read_sinks

    address = f"http://me:${{PASSWORD}}@127.0.0.1:{port}/in?x=1#secret=${{SECRET}}"
    (sink,) = read_sinks([address], [], {"PASSWORD": "p@ss:/w#rd", "SECRET": "abc"})
    sink.deliver(LETTER)
    ((headers, body),) = receiver.requests
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"me:p@ss:/w#rd"
    assert verifier()(b"abc", body, headers["Vigil-Signature"])
