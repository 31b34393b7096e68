"""`make fuzz VIDEOS=folder`: feed damaged files to vigil, and check how it handles each.

Mutated videos go through `vigil extract`: each must either yield an intact feature file or be
listed in failures.csv with a reason. Mutated feature files, checkpoints and annotations must be
refused, or read as if they were undamaged.
"""

import csv
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import tyro
from tyro.conf import Positional

from bench.processes import cheap_vigil, running
from bench.reliability.fuzz_files import fuzz_files
from bench.reliability.mutations import mutate
from bench.standin import INSTANT
from bench.table import markdown
from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import UserError
from vigil.extract.sealed import FeatureFileError
from vigil.extract.store import feature_path, verify_features
from vigil.pipeline.failures import FAILURES_NAME
from vigil.pipeline.options import VIDEO_EXTENSIONS

STALL_SECONDS = 10
SECONDS_PER_VIDEO = 30
"""A run that takes longer hangs, as the watchdog stops a video after at most three decoders."""
EXTRACTED, FAILED, UNEXPLAINED = "extracted", "failed", "unexplained"
SIGNS = {
    "stopped by the watchdog": "no heartbeat",
    "stopped for the memory they took": "worker_memory_gib",
    "workers that a decoder took down": "process died",
}
"""Event of workers -> text that reports it in the messages of a run."""


@dataclass(frozen=True)
class Options:
    """Feed damaged files to vigil; exit code 1 if it mishandles one of them."""

    videos: Positional[Path]
    """Folder of intact videos."""
    runs: int = 2000
    """Number of mutated videos; of each other kind of file there are a quarter as many."""
    batch: int = 1000
    """Videos per run of `vigil extract`."""
    seed: int = 0
    """Seed of the damage."""
    keep: Path = Path("runs/fuzz")
    """Folder to keep mishandled files in."""


@dataclass
class Findings:
    """Outcomes of mutated videos."""

    by_mutation: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    by_container: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    reasons: Counter[str] = field(default_factory=Counter)
    signs: Counter[str] = field(default_factory=Counter)
    batches: list[tuple[str, ...]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def main(options: Options) -> int:
    """Print tables of mutations and outcomes; return 0 if every file was handled well."""
    findings = Findings()
    sources = [video.path for video in find_videos([str(options.videos)], VIDEO_EXTENSIONS).videos]
    for start in range(0, options.runs, options.batch):
        numbers = range(start, min(start + options.batch, options.runs))
        with tempfile.TemporaryDirectory(prefix="vigil-fuzz-") as folder:
            fuzz_videos(options, sources, numbers, Path(folder), findings)
    files, problems = fuzz_files(options.runs // 4, options.seed, options.keep)
    findings.problems += problems
    _print(options, findings, files)
    return 1 if findings.problems else 0


def fuzz_videos(
    options: Options, sources: list[Path], numbers: range, folder: Path, findings: Findings
) -> None:
    """Extract mutated videos in one run, and record the outcome of each."""
    videos, store = folder / "videos", folder / "store"
    mutations = write_mutants(sources, numbers, options.seed, videos)
    if not _extract(videos, store, len(mutations), findings):
        return
    reasons = _failures(store / FAILURES_NAME)
    for name, mutation in mutations.items():
        verdict, reason = _verdict(feature_path(store, name), reasons.get(name))
        findings.by_mutation[mutation][verdict] += 1
        findings.by_container[Path(name).suffix][verdict] += 1
        if verdict == FAILED:
            findings.reasons[re.sub(r"\d+", "N", reason)] += 1
        if verdict == UNEXPLAINED:
            findings.problems.append(f"{name}: {reason}")
            options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(videos / name, options.keep)


def _extract(videos: Path, store: Path, num_videos: int, findings: Findings) -> bool:
    """Extract mutated videos; return whether the run reached its end."""
    how = "--workers", 2, "--stall-seconds", STALL_SECONDS
    started, samples = time.monotonic(), []
    with running(cheap_vigil("extract", videos, "--out", store, *how, backbone=INSTANT)) as program:
        for held in program.samples():
            samples.append(held)
            if time.monotonic() - started > SECONDS_PER_VIDEO * num_videos:
                break
        code, messages = program.process.poll(), program.messages()
    seconds, peaks = f"{time.monotonic() - started:.0f}", map(_megabytes, quarters(samples))
    findings.batches.append((str(num_videos), seconds, str(code), *peaks))
    findings.signs += Counter({what: messages.count(sign) for what, sign in SIGNS.items()})
    if code not in (0, 3, 4):
        findings.problems.append(f"exit code {code}: {messages[-2000:]}")
        return False
    return True


def write_mutants(
    sources: list[Path], numbers: Iterable[int], seed: int, folder: Path
) -> dict[str, str]:
    """Write mutated videos to a folder; return the name of each -> its mutation."""
    folder.mkdir(parents=True)
    mutations = {}
    for number in numbers:
        random = Random(f"{seed} {number}")
        turn, place = divmod(number, len(sources))
        source, other = sources[place], random.choice(sources)
        mutant = mutate(source.read_bytes(), other.read_bytes(), number + turn, random)
        name = f"{number:05}_{mutant.kind}_{source.name}"
        (folder / name).write_bytes(mutant.content)
        mutations[name] = mutant.kind
    return mutations


def quarters(samples: list[int]) -> list[int]:
    """The maximum of each quarter of the samples; empty if there are fewer than four."""
    length = len(samples) // 4
    return [
        max(samples[place * length : (place + 1) * length]) for place in range(4 if length else 0)
    ]


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.0f}"


def _failures(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["video"]: row["reason"] for row in csv.DictReader(file)}


def _verdict(path: Path, reason: str | None) -> tuple[str, str]:
    """The outcome of a video, and the reason for it."""
    if reason is not None:
        if not reason or reason.startswith("unexpected"):
            return UNEXPLAINED, f"failed with the reason {reason!r}"
        return (UNEXPLAINED, "failed, but has features") if path.exists() else (FAILED, reason)
    try:
        verify_features(path)
    except FeatureFileError as error:
        return UNEXPLAINED, str(error)
    return EXTRACTED, ""


def _print(options: Options, findings: Findings, files: str) -> None:
    header = ">" + EXTRACTED, ">" + FAILED, ">" + UNEXPLAINED
    for what, counts in (
        ("mutation", findings.by_mutation),
        ("container", findings.by_container),
    ):
        rows = [
            (name, *(str(of[key.lstrip(">")]) for key in header)) for name, of in counts.items()
        ]
        print(markdown((what, *header), rows), end="\n\n")
    memory = [f">peak MB, quarter {number}" for number in range(1, 5)]
    print(markdown((">videos", ">seconds", ">exit code", *memory), findings.batches), end="\n\n")
    reasons = [(str(number), reason) for reason, number in findings.reasons.most_common()]
    print(markdown((">times", "reason"), reasons), files, sep="\n\n", end="\n\n")
    print(*findings.problems, sep="\n")
    totals = sum(findings.by_mutation.values(), Counter())
    signs = ", ".join(f"{findings.signs[what]} {what}" for what in SIGNS)
    print(
        f"{options.runs} mutated videos: {totals[EXTRACTED]} extracted, {totals[FAILED]} failed "
        f"with a reason, {totals[UNEXPLAINED]} unexplained; {signs}; "
        f"{len(findings.problems)} problems with these and other files"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.reliability.fuzz")))
    except UserError as error:
        sys.exit(f"error: {error}")
