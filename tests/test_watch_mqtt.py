"""MQTT, against a real broker that is restarted, refuses and hangs."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import jinja2
import pytest
from test_watch_webhook import letter_of
from watch_builders import make_alarm

from vigil.pipeline.watching.alarm import slug
from vigil.pipeline.watching.delivery import start_delivery
from vigil.pipeline.watching.ledger import LEDGER_NAME, Ledger
from vigil.pipeline.watching.sinks.sink import NotDelivered

pytest.importorskip("paho.mqtt.client")
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from vigil.pipeline.watching.sinks.mqtt import EVENT_TYPES, Broker

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


class Mosquitto:
    """A broker on loopback that can be stopped and started again."""

    def __init__(self, folder, settings=()):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        access = [] if settings else ["allow_anonymous true"]
        lines = [f"listener {self.port} 127.0.0.1", "user root", "persistence true"]
        lines += [f"persistence_location {folder}/", *access, *settings]
        self.config.write_text("\n".join(lines) + "\n")
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", self.config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            assert self.process.poll() is None, "mosquitto does not start"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.02)

    def stop(self):
        """Stop it; it remembers what it has yet to forward."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


@pytest.fixture
def broker(tmp_path):
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    one = Mosquitto(tmp_path)
    one.start()
    yield one
    one.stop()


class Listener:
    """Subscribes to everything, again after every restart of the broker."""

    def __init__(self, port):
        self.messages = []
        """(topic, payload, whether it was retained)"""
        self.changed = threading.Condition()
        self.subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, "listener", clean_session=False)
        self.client.reconnect_delay_set(0.05, 0.05)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._take
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()
        assert self.subscribed.wait(60)

    def _take(self, client, data, message):
        with self.changed:
            self.messages.append((message.topic, message.payload.decode(), message.retain))
            self.changed.notify_all()

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.messages), 60), self.messages

    def events(self):
        return [json.loads(text)["event"] for topic, text, _ in self.messages if "/events" in topic]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listener(broker):
    one = Listener(broker.port)
    yield one
    one.close()


def sink_of(port, **options):
    return Broker("mqtt", ("127.0.0.1", port, "site/vigil"), False, **options)


def refused(sink, letter):
    with pytest.raises(NotDelivered) as caught:
        sink.deliver(letter)
    assert not caught.value.is_final
    return caught.value.reason


LETTER = letter_of(make_alarm("front"))


def test_messages_and_status(broker, listener):
    sink = sink_of(broker.port)
    sink.deliver(LETTER)
    sink.deliver(letter_of(make_alarm("a/+ #b")))
    sink.close()
    listener.wait_for(lambda messages: len(messages) == 4)
    assert listener.messages == [
        ("site/vigil/status", "online", False),
        ("site/vigil/front/events", LETTER.message, False),
        (f"site/vigil/{slug('a/+ #b')}/events", listener.messages[2][1], False),
        ("site/vigil/status", "offline", False),
    ]


def test_a_killed_process_is_offline(broker, listener):
    sink = sink_of(broker.port)
    sink.deliver(LETTER)
    sink._client.socket().shutdown(socket.SHUT_RDWR)
    listener.wait_for(lambda messages: ("site/vigil/status", "offline", False) in messages)
    sink.close()


def test_home_assistant_is_told_about_every_camera(broker, listener):
    sink = sink_of(broker.port, discovery=("homeassistant", ["front", "b \u00e4"]))
    sink.deliver(letter_of(make_alarm("later")))
    sink.deliver(letter_of(make_alarm("later", 1)))
    listener.wait_for(lambda messages: len(messages) == 6)
    sink.close()
    cameras = ("front", "b \u00e4", "later")
    configs = {topic: json.loads(text) for topic, text, _ in listener.messages if "config" in topic}
    topics = [f"homeassistant/event/vigil_{slug(camera)}/alarm/config" for camera in cameras]
    assert list(configs) == topics
    assert [one["device"]["name"] for one in configs.values()] == list(cameras)
    assert configs[topics[2]]["state_topic"] == "site/vigil/later/events"
    # What Home Assistant does with a message: its own filter is called to_json.
    environment = jinja2.Environment()
    environment.filters["to_json"] = json.dumps
    template = environment.from_string(configs[topics[0]]["value_template"])
    kinds = {}
    clip = {"clip": "clips/front/1.mp4"}
    for number, (sequence, is_open, more) in enumerate(
        ((1, True, {}), (2, True, {}), (3, False, {}), (1, False, {}), (4, False, clip))
    ):
        value = json.loads(LETTER.message) | {"sequence": sequence, "is_open": is_open} | more
        entity = json.loads(template.render(value_json=value))
        kinds[number] = entity.pop("event_type")
        assert entity == value
    assert list(kinds.values()) == ["opened", "updated", "closed", "closed", "clip"]
    assert set(kinds.values()) == set(configs[topics[0]]["event_types"]) == set(EVENT_TYPES)


# Of https://www.home-assistant.io/integrations/event.mqtt/ and /integrations/mqtt/#discovery-topic.
REQUIRED = {"state_topic", "event_types"}
OPTIONAL = {
    *("availability", "availability_mode", "availability_template", "availability_topic"),
    *("default_entity_id", "device", "device_class", "enabled_by_default", "encoding"),
    *("entity_category", "entity_picture", "icon", "json_attributes_template"),
    *("json_attributes_topic", "name", "object_id", "origin", "payload_available"),
    *("payload_not_available", "platform", "qos", "unique_id", "value_template"),
}
OF_DEVICES = {
    *("configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model"),
    *("model_id", "name", "serial_number", "suggested_area", "sw_version", "via_device"),
}
CONFIG_TOPIC = r"homeassistant/event/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config"


@pytest.mark.parametrize("camera", ["front", "a/+ #b", "\u00e4"])
def test_the_announcement_is_what_home_assistant_describes(camera):
    """Which keys must be there, and which may; that device and availability can be used."""
    sent = {}
    client = SimpleNamespace(publish=lambda topic, text, **how: sent.update({topic: (text, how)}))
    sink_of(1, discovery=("homeassistant", [camera]))._announce(client, camera)
    ((topic, (text, how)),) = sent.items()
    assert re.fullmatch(CONFIG_TOPIC, topic)
    assert how["retain"], "it finds announcements after its restart"
    entity = json.loads(text)
    assert entity.keys() >= REQUIRED | {"unique_id", "device"}, "a device needs a unique_id"
    assert entity.keys() <= REQUIRED | OPTIONAL
    assert entity["device"].keys() <= OF_DEVICES
    assert entity["device"]["identifiers"]
    assert all(isinstance(one, str) for one in entity["event_types"])
    assert entity["qos"] in (0, 1, 2)
    topics = entity["state_topic"], entity["availability_topic"]
    assert not any(set("+#\0") & set(one) for one in topics), "they name one topic"
    assert "availability" not in entity, "it excludes availability_topic"


def test_no_broker_and_then_one(broker):
    broker.stop()
    sink = sink_of(broker.port, limit_seconds=0.3)
    assert refused(sink, LETTER) == "no connection to the broker"
    broker.start()
    listener = Listener(broker.port)
    sink._limit_seconds = 60
    sink.deliver(LETTER)
    listener.wait_for(
        lambda messages: "site/vigil/front/events" in dict.fromkeys(one[0] for one in messages)
    )
    sink.close()
    listener.close()
    assert listener.events() == [json.loads(LETTER.message)["event"]]  # no copies of the first try


def test_a_broker_that_refuses(tmp_path):
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    (tmp_path / "passwords").write_text("")
    broker = Mosquitto(tmp_path, ["allow_anonymous false", f"password_file {tmp_path}/passwords"])
    broker.start()
    sink = sink_of(broker.port, limit_seconds=2, login=("me", "hunter2"))
    assert refused(sink, LETTER) == "the broker refuses: Not authorized"
    sink.close()
    broker.stop()


def test_a_broker_that_hangs(broker):
    sink = sink_of(broker.port, limit_seconds=1)
    sink.deliver(LETTER)
    broker.process.send_signal(19)  # SIGSTOP
    assert refused(sink, LETTER) == "the broker does not acknowledge it in time"
    broker.process.send_signal(18)  # SIGCONT
    sink._limit_seconds = 60
    sink.deliver(LETTER)
    sink.close()


def test_a_broker_that_restarts_loses_nothing(broker, listener, tmp_path):
    ledger = Ledger(tmp_path / LEDGER_NAME, ["mqtt"])
    running = start_delivery(ledger, [sink_of(broker.port, limit_seconds=5)])
    alarms = [make_alarm("front", number) for number in range(30)]
    for number, alarm in enumerate(alarms):
        ledger.record_alarms([alarm])
        if number in (10, 20):
            broker.stop()
            broker.start()
    expected = [alarm.event for alarm in alarms]
    listener.wait_for(lambda messages: expected[-1] in listener.events())
    running.close(grace_seconds=60)
    assert "mqtt" not in ledger.outbox.waiting()
    ledger.close()
    assert list(dict.fromkeys(listener.events())) == expected
