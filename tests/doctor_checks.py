"""Checks for the tests of `vigil doctor`: one that answers, and others that go wrong."""

import os
import signal
import time
from collections.abc import Iterator

from vigil.pipeline.doctor.finding import OK, Finding


def answer(name: str) -> Iterator[Finding]:
    yield Finding(name, OK, "fine")


def hang() -> Iterator[Finding]:
    yield Finding("before", OK, "fine")
    time.sleep(600)


def crash() -> Iterator[Finding]:
    yield Finding("before", OK, "fine")
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> Iterator[Finding]:
    yield Finding("before", OK, "fine")
    raise ValueError("rtsp://viewer:s3cret@10.0.0.5/main does not answer")
