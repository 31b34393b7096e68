"""`vigil watch`: score recordings as recorders finish them, and raise alarms."""

import os
from importlib.util import find_spec

from vigil.extract.errors import UserError
from vigil.pipeline.options import WatchOptions
from vigil.pipeline.watching.cameras import read_cameras
from vigil.pipeline.watching.metrics import read_place
from vigil.pipeline.watching.sinks.addresses import read_sinks


def run_watch(options: WatchOptions) -> int:
    """Watch until interrupted, or with --once until all that is complete is scored.

    Returns:
        The exit code: 0 for a watch that was interrupted; with --once 3 if some recordings failed,
        4 if all did.

    Raises:
        UserError: there is nothing to watch, or the checkpoint, a camera or a sink is unusable.
    """
    cameras = read_cameras(options.sources, options.cameras, options.out)
    if cameras.folders and find_spec("watchfiles") is None:
        raise UserError(
            "vigil watch needs watchfiles for folders, and it is not installed: run pip install "
            "'vigil-video[watch]'"
        )
    if options.once and not all(one.address.startswith("file://") for one in cameras.streams):
        raise UserError("--once scores what is complete, and a stream never is: leave one out")
    sinks = read_sinks(options.on_event, [*cameras.by_name], os.environ)
    if options.metrics is not None:
        read_place(options.metrics)
    from vigil.pipeline.watching.session import watch  # loads torch, which a mistake need not await

    return watch(options, cameras, sinks)
