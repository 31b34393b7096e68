"""A process that is killed at any of the calls by which it changes what is on the disk."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")


class Killed(BaseException):
    """In place of kill -9."""


@contextmanager
def dying(after: int):
    """Let so many changes of the disk happen in the block, then none; tell how many there were.

    The last one happens by half where it can. Whatever is tried after it fails too, so that nothing
    is cleaned up, as in a process that is no more.
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
