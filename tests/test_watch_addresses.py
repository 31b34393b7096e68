"""--on-event: what is understood, what is refused, and that no credential is ever shown."""

import importlib.util
import logging
import re
import sys

import pytest

from vigil.pipeline.watching.sinks.addresses import WEBHOOK_SECRET, read_sinks
from vigil.pipeline.watching.sinks.sink import SinkError

SECRET = "hunter2"
ENVIRONMENT = {"PASSWORD": SECRET, "URL": f"https://me:{SECRET}@hooks.example.com/{SECRET}"}


def read(*addresses, **environment):
    return read_sinks(addresses, ["front"], ENVIRONMENT | environment)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://example.com/hook", "https://example.com"),
        ("https://example.com:8443/a?token=${PASSWORD}", "https://example.com:8443"),
        ("http://me:${PASSWORD}@[::1]:80/x", "http://[::1]"),
        ("${URL}", "https://hooks.example.com"),
        ("mqtt://me:${PASSWORD}@broker", "mqtt://broker"),
        ("mqtts://broker/home/vigil#discovery=homeassistant", "mqtts://broker"),
        (f"exec:TOKEN=${{PASSWORD}} {sys.executable} -c 'a b' \"c\"", f"exec:{sys.executable}"),
    ],
)
def test_names_show_no_more_than_the_place(address, name, caplog):
    caplog.set_level(logging.DEBUG)
    (sink,) = read(address)
    assert re.fullmatch(re.escape(name) + "#[0-9a-f]{6}", sink.name)
    assert SECRET not in caplog.text + sink.name + repr(sink)
    (again,) = read(address.replace("hunter2", "x"), PASSWORD="another", URL=ENVIRONMENT["URL"])
    assert again.name == sink.name  # what waits for it finds it, whatever the password is now


def test_the_parts_of_a_webhook():
    (sink,) = read("https://example.com/${PASSWORD}/b?c=${PASSWORD}", **{WEBHOOK_SECRET: "all"})
    assert (sink._host, sink._port, sink._path) == ("example.com", 443, "/hunter2/b?c=hunter2")
    assert sink._secret == b"all"
    (own,) = read("https://example.com/#secret=${PASSWORD}", **{WEBHOOK_SECRET: "all"})
    assert own._secret == b"hunter2"
    assert read("https://example.com")[0]._path == "/"


def test_the_parts_of_a_broker():
    (sink,) = read("mqtts://me:${PASSWORD}@broker:1234/home/vigil/#discovery=homeassistant")
    assert (sink._host, sink._port, sink._prefix) == ("broker", 1234, "home/vigil")
    assert sink._login == ("me", SECRET)
    assert sink._discovery == ("homeassistant", ["front"])
    assert read("mqtt://broker")[0]._prefix == "vigil"


def test_the_parts_of_a_program():
    (sink,) = read(f"exec:TOKEN=${{PASSWORD}} X= {sys.executable} -c 'a b' '$HOME;`id`'")
    assert sink._command == [sys.executable, "-c", "a b", "$HOME;`id`"]
    assert sink._variables == {"TOKEN": SECRET, "X": ""}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("example.com/hook", "is not understood: write https://HOST/PATH, mqtt://HOST/PREFIX"),
        ("ftp://example.com", "is not understood"),
        ("https:///hook", "is not understood"),
        ("https://example.com:99999/", "is not understood"),
        ("https://example.com:x/", "is not understood"),
        ("https://[::1/", "is not understood"),
        ("https://${HOST}/", "is not understood.* may be all of it, the user"),
        ("https://ex\u00e4mple.com/", "is not understood"),
        ("https://example.com/a b", "write them as %20"),
        ("https://example.com/\u00e4", "write them as %20"),
        ("https://example.com/\r\nX: y", "write them as %20|is not understood"),
        (f"https://me:{SECRET}@example.com/", r"password in its address.* write '\$\{NAME\}'"),
        (f"https://example.com/#secret={SECRET}", r"secret in its address, which every user"),
        ("https://example.com/${MISSING}", "needs the variable MISSING, which is not set"),
        ("${MISSING}", "needs the variable MISSING, which is not set"),
        ("https://example.com/#secrets=${PASSWORD}", "unknown setting .* it may have secret"),
        ("mqtt://broker/#secret=${PASSWORD}", "unknown setting .* it may have discovery"),
        ("mqtt://broker/a+b", r"has a \+, # or \?"),
        ("exec:", "names no program"),
        ("exec:A=b", "names no program"),
        ("exec:/does/not/exist", "'/does/not/exist', which is not there or may not be run"),
        ("exec:/etc/passwd", "'/etc/passwd', which is not there or may not be run"),
        ("exec:sh 'a", "No closing quotation"),
        ("exec:sh -c ${PASSWORD}", r"variable among its arguments, .* 'exec:NAME=\$\{NAME\}"),
    ],
)
def test_mistakes(address, message):
    with pytest.raises(SinkError, match=r"^event sink 2 |^(https|mqtt)://.*#") as caught:
        read("https://first.example.com", address)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_same_twice():
    with pytest.raises(
        SinkError, match=r"event sink 2 is https://example.com#.* again: name it once"
    ):
        read("https://example.com", "https://example.com")
    assert len(read("https://example.com/a", "https://example.com/b")) == 2


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("http://example.com/#secret=${PASSWORD}", True),
        ("http://8.8.8.8/#secret=${PASSWORD}", True),
        ("http://me:${PASSWORD}@example.com/", True),
        ("mqtt://me:${PASSWORD}@example.com", True),
        ("http://example.com/", False),
        ("https://example.com/#secret=${PASSWORD}", False),
        ("http://127.0.0.1/#secret=${PASSWORD}", False),
        ("http://192.168.1.5/#secret=${PASSWORD}", False),
        ("http://homeassistant.local/#secret=${PASSWORD}", False),
        ("http://nvr/#secret=${PASSWORD}", False),
        ("mqtt://me:${PASSWORD}@mosquitto", False),
        ("mqtts://me:${PASSWORD}@example.com", False),
    ],
)
def test_a_warning_before_credentials_travel_in_the_open(address, warns, caplog):
    read(address)
    assert ("is not encrypted" in caplog.text) == warns


def test_without_paho(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "vigil.pipeline.watching.sinks.addresses.find_spec",
        lambda name: None if name == "paho" else find(name),
    )
    with pytest.raises(
        SinkError, match=r"mqtt://broker#\w+ needs paho-mqtt.*'vigil-video\[watch\]'"
    ):
        read("mqtt://broker")
