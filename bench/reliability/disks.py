"""An in-memory disk whose size can be changed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USUAL_BYTES = 256 << 20


@dataclass(frozen=True)
class Disk:
    """A mounted tmpfs."""

    folder: Path

    def leave(self, num_bytes: int) -> None:
        """Leave this much room on it."""
        status = os.statvfs(self.folder)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        self.resize(used + num_bytes)

    def resize(self, num_bytes: int = USUAL_BYTES) -> None:
        """Change its size, by default to one at which it is never full."""
        options = f"remount,size={num_bytes}"
        subprocess.run(["mount", "-o", options, self.folder], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk | None]:
    """A disk in memory, mounted at a new folder while the block runs.

    None if mounting is not allowed; the folder is then an ordinary one.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={USUAL_BYTES}", "vigil-chaos", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
