"""Decode workers whose decoders fail according to the video's name, ``<fault>_<when>.mp4``.

``fault`` is a key of `FAULTS`. ``when`` is ``decord`` or ``pyav`` (that decoder, at frame `FRAME`),
``always`` (either decoder, at that frame) or ``opening`` (while the file is opened).
"""

import ctypes
import time
from pathlib import Path

from vigil.extract.decode import reader
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.decoder_decord import DecordDecoder
from vigil.extract.decode.worker import worker_process

FRAME = 5


def hang():
    time.sleep(1000)


def crash():
    ctypes.string_at(0)


def eat():
    held = []
    while True:
        held.append(bytearray(64 << 20))


FAULTS = {"hang": hang, "crash": crash, "eat": eat}


def fault_of(path: Path, when: str):
    kind, _, expected = path.stem.partition("_")
    has_it = when == expected or (expected == "always" and when != "opening")
    return FAULTS[kind] if has_it and kind in FAULTS else lambda: None


def faulty_worker(*arguments):
    for decoder in (DecordDecoder, AvDecoder):
        make_faulty(decoder)
    probe = reader.probe

    def faulty_probe(path, *others):
        fault_of(path, "opening")()
        return probe(path, *others)

    reader.probe = faulty_probe
    worker_process(*arguments)


def make_faulty(decoder):
    begin, frames = decoder.__init__, decoder.__iter__

    def begin_with_path(self, path, *others):
        self.path = path
        begin(self, path, *others)

    def fail_midway(self):
        for index, frame in enumerate(frames(self)):
            if index == FRAME:
                fault_of(self.path, self.name)()
            yield frame

    decoder.__init__, decoder.__iter__ = begin_with_path, fail_midway
