"""/metrics and /healthz."""

import http.client
import json
import re
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watch_builders import Clock

from vigil.pipeline.watching.metrics import (
    MAX_REQUESTS,
    Gauges,
    MetricsError,
    MetricsServer,
    Sample,
    prometheus_text,
    read_place,
)


@pytest.fixture
def clock():
    return Clock(1000.0)


@pytest.fixture
def gauges(clock):
    return Gauges(clock)


@pytest.fixture
def server(gauges):
    one = MetricsServer("0", gauges)
    yield one
    one.close()


def get(server, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_figures(gauges, server):
    gauges.set("vigil_lag_seconds", 1.5, camera="b")
    gauges.set("vigil_lag_seconds", 2, camera="a")
    gauges.add("vigil_clips_dropped_total", camera="a")
    gauges.add("vigil_clips_dropped_total", 4, camera="a")
    gauges.attach(lambda: [Sample("vigil_alarms_waiting", (("sink", 'x"\n\\'),), 3)])
    answer, body = get(server, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "Python" not in answer.headers["Server"]
    assert body == (
        "# TYPE vigil_alarms_waiting gauge\n"
        'vigil_alarms_waiting{sink="x\\"\\n\\\\"} 3\n'
        "# TYPE vigil_clips_dropped_total counter\n"
        'vigil_clips_dropped_total{camera="a"} 5\n'
        "# TYPE vigil_lag_seconds gauge\n"
        'vigil_lag_seconds{camera="a"} 2\n'
        'vigil_lag_seconds{camera="b"} 1.5\n'
    )


@given(st.text(), st.floats())
def test_any_name_of_a_camera_is_one_line(name, value):
    text = prometheus_text([Sample("a", (("camera", name),), value)])
    lines = text.removesuffix("\n").split("\n")
    assert len(lines) == 2
    inner, number = re.fullmatch(r'a\{camera="(.*)"\} (\S+)', lines[1], re.DOTALL).groups()
    assert float(number) == value or value != value
    undone = re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), inner)
    assert undone == name.encode(errors="surrogateescape").decode(errors="replace") or any(
        "\ud800" <= character <= "\udfff" for character in name
    )


def test_health(gauges, server, clock):
    gauges.expect("a", 30)
    gauges.expect("b", 300)
    gauges.beat("nobody expects this one")
    clock.seconds += 20
    gauges.beat("a")
    clock.seconds += 29
    answer, body = get(server, "/healthz")
    assert (answer.status, json.loads(body)) == (200, {"status": "ok", "cameras": {}})
    clock.seconds += 2
    answer, body = get(server, "/healthz")
    reason = "no progress for 31 s; 30 s are allowed"
    assert (answer.status, json.loads(body)) == (503, {"status": "late", "cameras": {"a": reason}})
    assert 'vigil_progress_age_seconds{camera="b"} 51.0' in get(server, "/metrics")[1]
    gauges.beat("a")
    assert get(server, "/healthz")[0].status == 200


def test_nothing_else_is_served(server):
    assert get(server, "/")[0].status == 404
    assert get(server, "/../etc/passwd")[0].status == 404
    assert get(server, "/metrics", "POST")[0].status == 501
    answer, body = get(server, "/metrics?x", "HEAD")
    assert (answer.status, body) == (200, "")


def test_clients_that_say_nothing_are_turned_away_when_there_are_many(server, gauges):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_REQUESTS)]
    try:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            get(server, "/metrics")
    finally:
        for one in idle:
            one.close()


def test_many_threads_add(gauges):
    def add():
        for _ in range(1000):
            gauges.add("n_total")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gauges.samples() == [Sample("n_total", (), 4000)]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("9108", ("127.0.0.1", 9108)),
        (":9108", ("127.0.0.1", 9108)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("my-host.lan:80", ("my-host.lan", 80)),
    ],
)
def test_places(text, place):
    assert read_place(text) == place


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:99999", "::1:80", "a b:1", "http://a:1"]
)
def test_mistaken_places(text):
    with pytest.raises(MetricsError, match=r"is no place to listen: write HOST:PORT"):
        read_place(text)


def test_a_place_that_is_taken_or_elsewhere(server, gauges):
    with pytest.raises(MetricsError, match=r"cannot listen at 127.0.0.1:\d+ \(Address already"):
        MetricsServer(f"127.0.0.1:{server.port}", gauges)
    with pytest.raises(MetricsError, match=r"cannot listen at 192.0.2.1:9108 \("):
        MetricsServer("192.0.2.1:9108", gauges)


def test_a_warning_if_it_is_open_to_the_network(gauges, caplog):
    MetricsServer("0.0.0.0:0", gauges).close()
    assert "is open to the network" in caplog.text
    caplog.clear()
    MetricsServer("localhost:0", gauges).close()
    assert not caplog.text
