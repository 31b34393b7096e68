"""A run that records and delivers, and is killed: `python watch_sender.py FOLDER PORT ALARMS`."""

import sys
from pathlib import Path

from watch_builders import make_alarm, make_video

from vigil.pipeline.watching.delivery import start_delivery
from vigil.pipeline.watching.ledger import LEDGER_NAME, Ledger
from vigil.pipeline.watching.sinks.webhook import Webhook

CAMERAS = "abc"


def main(folder, port, num_alarms):
    sink = Webhook("hook", ("127.0.0.1", port, "/"), False, limit_seconds=0.3)
    ledger = Ledger(folder / LEDGER_NAME, ["hook"])
    running = start_delivery(ledger, [sink])
    print("running", flush=True)
    for number in range(num_alarms):
        for camera in CAMERAS:
            # As after any restart: from the beginning, since the ledger knows what is done.
            video = make_video(camera, number)
            if ledger.is_scored(camera, video.digest) is None:
                ledger.record_video(video, [make_alarm(camera, number)])
    print("recorded", flush=True)
    while ledger.outbox.waiting():
        ledger.wait(ledger.num_changes, 0.05)
    running.close(grace_seconds=10)
    ledger.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
