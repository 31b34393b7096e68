"""Connect to a Ray cluster. Ray is an extra: it is imported only where a cluster is asked for."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from vigil.extract.errors import UserError

AUTO = "auto"
_NAMESPACE = "vigil"
_ANSWER_SECONDS = 10.0
_QUIET = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
}
"""Nothing is sent to Ray's makers, and nothing said on the terminal."""
_IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
"""What listens, but is no head of a cluster, is asked for 40 seconds, and not 20 times so long. A
head that we start may need more tries."""


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Yield Ray, connected to a cluster while the block runs.

    Args:
        address: HOST:PORT of the head node; or auto, the cluster that runs on this machine, or else
            one of this machine only, while the block runs.

    Raises:
        UserError: there is no such cluster.
    """
    os.environ.update(_QUIET)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if address != AUTO:
        os.environ.update(_IMPATIENT)
        _require_listener(address)
    with _signals_kept():
        import ray

        try:
            ray.init(
                address=None if address == AUTO else address,
                namespace=_NAMESPACE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        except Exception as error:  # of any type, depending on what is wrong
            reason = " ".join(str(error).split())
            raise UserError(
                f"--cluster {address} cannot be joined ({reason}): make this machine one of "
                "its nodes with 'ray start', and use the same Ray and Python as there"
            ) from error
    try:
        # Ray prints that a node is lost; standard output is for results.
        with redirect_stdout(sys.stderr):
            yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Refuse an address where nobody listens; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--cluster {address} does not answer ({error}): give the address that Ray printed "
            "when its head was started, or auto"
        ) from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo that Ray takes over SIGTERM, which ends our commands as Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not in the main thread, where Ray has not taken it either
            signal.signal(signal.SIGTERM, before)
