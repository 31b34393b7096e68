"""Simulate a process that is killed at any call that changes the disk."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")


class Killed(BaseException):
    """Stands in for kill -9."""


@contextmanager
def dying(after: int):
    """Allow the first ``after`` disk changes in the block, fail all others, and yield the calls.

    The first failing call, if it writes bytes, writes half of them. All later calls fail too, so
    nothing is cleaned up, as in a killed process.
    """
    calls = []

    def dies(name, change):
        def call(*arguments, **options):
            calls.append(name)
            if len(calls) > after:
                if name == "write_bytes" and len(calls) == after + 1:
                    change(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise Killed(name)
            return change(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, dies(name, getattr(os, name)))
        patch.setattr(Path, "write_bytes", dies("write_bytes", Path.write_bytes))
        yield calls
