"""Connect to a Ray cluster. Ray is an extra: it is imported only where a cluster is asked for."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from vigil.extract.errors import UserError

AUTO = "auto"
_NAMESPACE = "vigil"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
}
"""Nothing is sent to Ray's makers, and nothing said on the terminal."""


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
                f"--cluster {address} cannot be joined ({reason}): run 'ray start "
                "--address=HOST:PORT' on this machine, with the same Ray and Python as there"
            ) from error
    try:
        with redirect_stdout(sys.stderr):  # Ray prints there that a node is lost
            yield ray
    finally:
        ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo that Ray takes over SIGTERM, which ends our commands as Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not in the main thread, where Ray has not taken it either
            signal.signal(signal.SIGTERM, before)
