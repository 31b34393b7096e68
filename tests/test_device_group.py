"""Devices in a thread and in processes: what they receive and what they return."""

import logging
from contextlib import closing
from multiprocessing.connection import wait

import numpy as np
import pytest
import torch
from fake_backbone import MeanColour, as_network, mean_colours
from torch import nn

from vigil.extract.decode.ring import ClipRing
from vigil.extract.engine.device import ClipDone, ClipTaken, ClipWork, DeviceJob
from vigil.extract.engine.device_group import MAX_UNREAD, Devices

CPU = torch.device("cpu")


class OddError(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


class Failing(nn.Module):
    def forward(self, x):
        raise OddError("this", "that")


class DataDependent(MeanColour):
    """A network without any other form, because its control flow depends on its values."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm3d(3)  # could be folded

    def forward(self, x):
        return super().forward(x) if x.sum() else super().forward(-x)


def job(network, **changes):
    settings = {"precision": "fp32", "views": ("center",), "time_pool": "none", "batch_size": 2}
    return DeviceJob((as_network(network),), CPU, **{**settings, **changes})


@pytest.fixture
def ring():
    ring = ClipRing()
    yield ring
    ring.close()


@pytest.fixture
def clip(ring):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 224, 226, 3), np.uint8)
    ring.next_clip(pixels.shape)[:] = pixels
    return pixels


def receive(devices):
    """Yield every message until the devices have finished their clips."""
    while devices.num_clips:
        for connection in wait(devices.connections):
            if (message := devices.receive(connection)) is not None:
                yield message


@pytest.mark.parametrize("num_devices", [1, 2])
def test_no_more_clips_are_in_flight_than_a_pipe_holds(ring, clip, num_devices):
    slot = ring.take()
    with closing(Devices([job(MeanColour())] * num_devices, [ring])) as devices:
        sent = 0
        while devices.have_room:  # nothing is received meanwhile
            devices.send(ClipWork(("a.mp4", 0, sent), 0, slot))
            sent += 1
        assert sent == MAX_UNREAD * num_devices
        devices.flush()
        messages = list(receive(devices))
        assert devices.have_room
        assert devices.busy_seconds > 0
        assert devices.waited_seconds >= 0
    done = [message for message in messages if isinstance(message, ClipDone)]
    assert sorted(message.key[2] for message in done) == list(range(sent))
    assert sum(isinstance(message, ClipTaken) for message in messages) == sent
    for message in done:
        np.testing.assert_allclose(message.features[0], mean_colours(clip[:, :, 1:225]), rtol=1e-5)


@pytest.mark.parametrize("num_devices", [1, 2])
def test_an_error_that_cannot_be_pickled_is_still_reported(ring, clip, num_devices):
    slot = ring.take()
    jobs = [job(Failing(), rungs=("plain",))] * num_devices
    with closing(Devices(jobs, [ring])) as devices:
        devices.send(ClipWork(("a.mp4", 0, 0), 0, slot))
        devices.flush()
        with pytest.raises(RuntimeError, match=r"cpu: Traceback[^$]*OddError: this and that"):
            list(receive(devices))


@pytest.mark.parametrize("num_devices", [1, 2])
def test_warnings_of_a_device_process_are_logged_here(ring, clip, num_devices, caplog):
    caplog.set_level(logging.WARNING)
    slot = ring.take()
    with closing(Devices([job(DataDependent())] * num_devices, [ring])) as devices:
        for number in range(2 * num_devices):
            devices.send(ClipWork(("a.mp4", 0, number), 0, slot))
        devices.flush()
        list(receive(devices))
        assert (devices.ready.rung, devices.ready.precision) == ("plain", "fp32")
        assert devices.ready.name.startswith("cpu (")
    said = [
        record.message
        for record in caplog.records
        if "folded network in fp32 fails" in record.message
    ]
    assert len(said) == num_devices
