"""Mistakes on the command line: the message names what is wrong and what is meant."""

import pytest

from vigil.pipeline.cli import COMMANDS, main, parse

MISTAKES = [
    ("extrct videos", "vigil has no command 'extrct': did you mean vigil extract?"),
    ("zzz", f"vigil has no command 'zzz': use one of {', '.join(COMMANDS)}"),
    ("predict videos", "vigil has no command 'predict': did you mean vigil score?"),
    ("help", "vigil has no command 'help': did you mean vigil --help?"),
    ("features verfy F", "vigil features has no command 'verfy': did you mean vigil features ver"),
    ("features predict F", "vigil features has no command 'predict': use one of verify, show, im"),
    ("--quiet extract a", "--quiet comes before the command: put it behind, as in vigil score --"),
    ("extract a --out b --fast", "vigil extract has no flag --fast: vigil extract --help shows"),
    ("extract a --model x --out b", "vigil extract has no flag --model: did you mean --backbone?"),
    ("train F --model x --out b", "vigil train has no flag --model: did you mean --method?"),
    ("score a --model x --out b", "vigil score has no flag --model: did you mean --checkpoint?"),
    ("extract a --output b", "vigil extract has no flag --output: did you mean --out?"),
    ("extract a --output=b", "vigil extract has no flag --output: did you mean --out?"),
    ("extract a -f --out b", "vigil extract has no flag -f: did you mean --overwrite?"),
    ("extract a --segmens 3 --out b", "vigil extract has no flag --segmens: did you mean --segm"),
    ("extract a --clip_strid 3", "vigil extract has no flag --clip-strid: did you mean --clip-str"),
    (
        "train F --temporal",
        "vigil train has no flag --temporal: it is on by default, and --no-temp",
    ),
    (
        "train F --checkpoint C",
        "vigil train has no flag --checkpoint: it belongs to vigil score; v",
    ),
    ("weights list i3d", "vigil weights list takes flags only, so 'i3d' is one too many: leave it"),
    ("evaluate R F T", "vigil evaluate takes RUN and FEATURES, so 'T' is one too many: leave it o"),
    (
        "train --annotations=T FEATURES --out R",
        "FEATURES of vigil train is missing: --annotations takes every value up to the next flag, ",
    ),
    (
        "train --annotations T FEATURES --out R",
        "FEATURES of vigil train is missing: --annotations takes every value up to the next flag, "
        "FEATURES too. Write vigil train FEATURES --annotations ...",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_named_with_what_is_meant(arguments, message, capsys):
    assert main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ERROR: {message}")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "train F --annotations A B --out R",
        "train --out R --annotations A B F",
        "train F --annotations A --annotations B --out R",
        "train F --out R --learning_rate 0.1 --no-temporal",
        "evaluate --bootstrap 5 R F --annotations A",
        "weights verify i3d",
        "features verify F --videos a b c",
    ],
)
def test_what_the_parser_accepts_is_not_refused(arguments):
    parse(arguments.split())
