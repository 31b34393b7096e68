"""`judge.py KIND FOLDER START`: print the outcome of reading damaged files, one line for each.

It reads one file after another as vigil would, until one of them crashes it; `judge` notices that.
Only checkpoints load torch.
"""

import resource
import select
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.reliability.compare import feature_content
from vigil.data.annotations import load_annotations
from vigil.extract.errors import UserError
from vigil.extract.store import verify_features

ROOT = Path(__file__).parents[2]
REFUSED, SAME, OTHER, ACCEPTED = "refused", "as before", "read as something else", "accepted"
HANG, CRASH = "hangs", "crashes"
GOOD = frozenset({REFUSED, SAME, ACCEPTED})
WHOLE = "whole"
"""Name of the undamaged original, which is beside the folder."""
HANG_SECONDS = 20
MEMORY_BYTES = 2 << 30


def judge(kind: str, folder: Path) -> dict[str, str]:
    """Name of each file of a folder -> the outcome of reading it."""
    names = sorted(path.name for path in folder.iterdir())
    return answers(["-m", "bench.reliability.judge", kind, str(folder)], names)


def answers(arguments: list[str], names: list[str]) -> dict[str, str]:
    """Each name -> the line that `python` with these arguments writes for it.

    Its last argument is the number of the name to start with. If it hangs or ends, it is restarted
    after the name that it had reached.
    """
    lines: dict[str, str] = {}
    while len(lines) < len(names):
        command = [sys.executable, *arguments, str(len(lines))]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
            while len(lines) < len(names) and (line := _next_line(reader)):
                lines[names[len(lines)]] = line.strip()
            if len(lines) < len(names):
                code = reader.poll()
                lines[names[len(lines)]] = HANG if code is None else f"{CRASH} with {code}"
            reader.kill()
    return lines


def _next_line(reader: "subprocess.Popen[str]") -> str:
    """The next line of a reader; empty if it hangs or has ended."""
    if reader.stdout is None or not select.select([reader.stdout], [], [], HANG_SECONDS)[0]:
        return ""
    line = reader.stdout.readline()
    if not line:
        reader.wait()
    return line


def main(kind: str, folder: Path, start: int) -> None:
    """Read the files from number ``start`` on, and print the outcome of each."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    read = READERS[kind]
    whole = read(folder.parent / WHOLE) if kind != "annotations" else None
    for path in sorted(folder.iterdir())[start:]:
        print(verdict(partial(read, path), whole), flush=True)


def verdict(read: Callable[[], Any], whole: object) -> str:
    """The outcome of reading a file whose undamaged content is ``whole``; None: any is accepted."""
    try:
        content = read()
    except UserError:
        return REFUSED
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    if whole is None:
        return ACCEPTED
    return SAME if content == whole else OTHER


def read_feature_file(path: Path) -> object:
    """The whole content of a feature file, after vigil has verified it."""
    verify_features(path)
    return feature_content(path)


def read_run(path: Path) -> object:
    """The settings and tensors of a checkpoint, including those for resuming the training."""
    from vigil.pipeline.checkpoint import load_checkpoint, load_resume_state

    checkpoint, resume = load_checkpoint(path), load_resume_state(path)
    tensors = {**checkpoint.model.state_dict(), **resume.optimizer}
    values = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return checkpoint.config, values, resume.scaler


READERS: dict[str, Callable[[Path], object]] = {
    "feature files": read_feature_file,
    "checkpoints": read_run,
    "annotations": lambda path: load_annotations([path]),
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
