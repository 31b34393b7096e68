"""`python -m bench`: measure extraction on this machine, and print one table of ratios."""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tyro

from bench import machine, standin
from bench.options import Options
from bench.table import Row, figure, render
from vigil.extract.errors import UserError
from vigil.extract.networks.hardware import select_device


def main(options: Options) -> int:
    """Print machine and table; each figure goes to standard error as soon as it is known."""
    standin.register()
    lines = machine.describe(select_device(options.device))
    rows: list[Row] = []
    print(*lines, sep="\n", file=sys.stderr)
    try:
        for section in options.sections:
            for row in measure(section, options):
                rows.append(row)
                print(f"{row.section}: {row.what}: {figure(row.value)} {row.unit}", file=sys.stderr)
    finally:  # print partial results after a failure or an interruption, too
        text = "\n".join([*lines, "", render(rows)])
        print(text)
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(text + "\n", encoding="utf-8")
    return 0


def parse() -> Options:
    """The options on the command line."""
    return tyro.cli(Options, prog="python -m bench", config=(tyro.conf.FlagCreatePairsOff,))


def measure(section: str, options: Options) -> Iterator[Row]:
    """Yield the rows of one section, measured in a temporary folder of its own."""
    module = importlib.import_module(f"bench.{section.replace('-', '_')}")
    work: Callable[[Options, Path], Iterator[Row]] = module.measure
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
        yield from work(options, Path(folder))


if __name__ == "__main__":
    try:
        sys.exit(main(parse()))
    except UserError as error:
        sys.exit(f"error: {error}")
