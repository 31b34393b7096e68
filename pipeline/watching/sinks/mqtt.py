"""MQTT: alarms as messages of a broker, and Home Assistant's discovery."""

import json
import ssl
import threading
import uuid
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from vigil.pipeline.watching.alarm import slug
from vigil.pipeline.watching.outbox import Letter
from vigil.pipeline.watching.sinks.sink import NotDelivered

LIMIT_SECONDS = 10.0
KEEPALIVE_SECONDS = 30
EVENT_TYPES = ["opened", "updated", "closed", "clip"]
_TEMPLATE = (
    "{{ dict(value_json, event_type='clip' if value_json.clip is defined else "
    "'closed' if not value_json.is_open else "
    "'opened' if value_json.sequence == 1 else 'updated') | to_json }}"
)
"""Adds what Home Assistant's event entities require."""


class Broker:
    """Publishes to ``PREFIX/CAMERA/events`` with QoS 1; acknowledged means delivered.

    ``PREFIX/status`` says online or offline. One connection is kept, and renewed when it breaks.
    """

    def __init__(
        self,
        name: str,
        place: tuple[str, int, str],
        is_secure: bool,
        login: tuple[str, str | None] | None = None,
        discovery: tuple[str, Sequence[str]] = ("", ()),
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        """Describe it.

        Args:
            name: what the sink is called.
            place: host, port and the prefix of topics.
            is_secure: whether to use TLS, with the certificates that the system trusts.
            login: user and password.
            discovery: Home Assistant's prefix of topics, empty for none, and the cameras to
                announce there.
            limit_seconds: for a connection, and for the acknowledgement of a message.
        """
        self.name = name
        self._host, self._port, self._prefix = place
        self._is_secure = is_secure
        self._login = login
        self._discovery = discovery
        self._limit_seconds = limit_seconds
        self._announced: set[str] = set()
        self._client: Client | None = None
        self._is_online = threading.Event()
        self._refusal = ""

    def deliver(self, letter: Letter) -> None:
        """Publish the alarm and wait for the acknowledgement; raises like `Sink.deliver`."""
        client = self._client or self._connect()
        if not self._is_online.wait(self._limit_seconds):
            raise NotDelivered(self._refusal or "no connection to the broker")
        self._announce(client, letter.camera)
        try:
            sent = client.publish(self._topic(letter.camera), letter.message, qos=1)
            sent.wait_for_publish(self._limit_seconds)
            has_arrived = sent.is_published()
        except (ValueError, RuntimeError) as error:  # the connection has just broken
            self._drop()
            raise NotDelivered(f"not sent: {error}") from error
        if not has_arrived:
            # The client would send it later, and another copy for every attempt.
            self._drop()
            raise NotDelivered("the broker does not acknowledge it in time")

    def close(self) -> None:
        """Say offline, and disconnect."""
        if self._client is not None and self._is_online.is_set():
            self._client.publish(f"{self._prefix}/status", "offline", qos=1, retain=True)
        self._drop()

    def _topic(self, camera: str) -> str:
        return f"{self._prefix}/{slug(camera)}/events"

    def _connect(self) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, client_id=f"vigil-{uuid.uuid4().hex[:12]}")
        if self._is_secure:
            client.tls_set_context(ssl.create_default_context())
        if self._login:
            client.username_pw_set(*self._login)
        client.will_set(f"{self._prefix}/status", "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 60)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        self._client = client
        client.connect_async(self._host, self._port, KEEPALIVE_SECONDS)
        client.loop_start()
        return client

    def _drop(self) -> None:
        """End the connection, and forget what was not acknowledged."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None
        self._is_online.clear()

    def _connected(
        self,
        client: Client,
        data: Any,
        flags: ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self._refusal = f"the broker refuses: {code}"
            return
        self._refusal = ""
        client.publish(f"{self._prefix}/status", "online", qos=1, retain=True)
        for camera in self._discovery[1]:
            self._announce(client, camera)
        self._is_online.set()

    def _disconnected(
        self,
        client: Client,
        data: Any,
        flags: DisconnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._is_online.clear()
        self._announced.clear()  # a broker that restarts may have forgotten them

    def _announce(self, client: Client, camera: str) -> None:
        """Tell Home Assistant about a camera, once a connection."""
        prefix = self._discovery[0]
        if prefix and camera not in self._announced:
            topic = f"{prefix}/event/vigil_{slug(camera)}/alarm/config"
            client.publish(topic, json.dumps(self._entity(camera)), qos=1, retain=True)
            self._announced.add(camera)

    def _entity(self, camera: str) -> dict[str, object]:
        """Home Assistant's description of an event entity."""
        return {
            "name": "Alarm",
            "unique_id": f"vigil_{slug(camera)}_alarm",
            "state_topic": self._topic(camera),
            "value_template": _TEMPLATE,
            "event_types": EVENT_TYPES,
            "availability_topic": f"{self._prefix}/status",
            "qos": 1,
            "device": {
                "identifiers": [f"vigil_{slug(camera)}"],
                "name": camera,
                "manufacturer": "vigil",
            },
        }
