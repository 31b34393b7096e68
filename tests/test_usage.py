"""Mistakes on the command line: the message names what is wrong and what is meant."""

import pytest
from commands import run_python

from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import UserError
from vigil.pipeline import cli
from vigil.pipeline.arguments import parse
from vigil.pipeline.cli import main
from vigil.pipeline.commands import COMMANDS

MISTAKES = [
    ("extrct videos", "vigil has no command 'extrct': did you mean vigil extract?"),
    ("zzz", f"vigil has no command 'zzz': use one of {', '.join(COMMANDS)}"),
    ("predict videos", "vigil has no command 'predict': did you mean vigil score?"),
    ("help", "vigil has no command 'help': did you mean vigil --help?"),
    ("features verfy F", "vigil features has no command 'verfy': did you mean vigil features ver"),
    ("features predict F", "vigil features has no command 'predict': use one of verify, show, im"),
    ("--quiet extract a", "--quiet comes before the command: put it behind, as in vigil score --"),
    ("extract a --out b --fast", "vigil extract has no flag --fast: vigil extract --help-all"),
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
        "vigil train has no flag --temporal: it is on by default, and --no-tem",
    ),
    (
        "train F --checkpoint C",
        "vigil train has no flag --checkpoint: it belongs to vigil score, ",
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
        "extract a --out b --stall-seconds -inf",
        "features verify F --videos a b c",
    ],
)
def test_what_the_parser_accepts_is_not_refused(arguments):
    parse(arguments.split())


EARLY = [
    ("score {root}/nowhere --checkpoint {root} --out R", "nowhere does not exist: name a folder"),
    ("score {root} --checkpoint {root}/none --out R", "none does not exist: give the folder that"),
    ("evaluate {root}/none {root} --annotations {root}", "none does not exist: give the folder th"),
    ("evaluate {root} {root}/none --annotations {root}", "none is not a folder of features: run"),
    ("train {root}/none --out R", "none is not a folder of features: run vigil extract first"),
    ("train {root} --out R --annotations {root}/a.csv", "a.csv does not exist: check --annotatio"),
    (
        "train {root} --out R --device gpu",
        "device 'gpu' is unknown: use auto, cpu, cuda, or c",
    ),
    ("extract {root} --out F --device cpu,gpu", "device 'gpu' is unknown: use auto, cpu, cuda"),
    ("extract {root} --out F --views 5", "unknown view '5': use center, five, ten, or names from"),
    ("extract {root} --out F --segments 0", "0 segments are too few: use 1 or more, such as 32"),
    ("extract {root} --out F --clip-stride 65", "clip stride 65 is not in 1..64"),
    ("extract {root} --out F --frame-rate fast", "frame rate 'fast' is not a number of frames"),
    ("extract {root} --out F --backbone i3", "no backbone 'i3': use one of i3d, swin3d_t"),
    ("extract {root} --out F --endpoint fc6", "i3d has no endpoint 'fc6': use one of Conv3d_1a"),
    ("extract {root} --out F --weights none", "there are no weights 'none': use auto, random, on"),
    ("extract {root} --out F --weights no.pt", "no.pt does not exist: give another file, or get"),
    ("extract {root} --out F --workers -1", "-1 workers are not in 0..1024: use auto"),
    ("extract {root} --out {root}/a.h5", "a.h5 is a file: give a folder"),
    (
        "extract {root} --out F --max-damage 10",
        "--max-damage '10' is not a share of frames: use 10",
    ),
    (
        "extract {root} --out F --picture-fps 0",
        "picture_fps 0 is not allowed: use a rate from 0.01",
    ),
    ("extract {root} --out F --input-fps nan", "input_fps nan is not allowed: use a rate from 0.0"),
    ("extract {root} --out F --extensions ,", "',' names no extension: use .mp4,.avi"),
    ("extract {root} --out F --views whole --compile", "--compile compiles for one size of frames"),
    ("score {root} --out R --threshold 7", "threshold '7' is not a number from 0 to 1: give one, "),
    ("score {root} --out R --span x", "span 'x' is not a length: use auto, whole, or a number of "),
    ("score {root} --out R --clock x", "clock 'x' must be auto, none, creation, or a template wit"),
    ("score {root} --out R --keep-share 2", "--keep-share 2 is not a share: use 0 to 1, such as 0"),
    ("score {root} --out R --join-seconds -1", "--join-seconds -1 is not a length: use 0 or more"),
    ("score {root} --out R --min-seconds inf", "--min-seconds inf is not a length: use 0 or more"),
    ("score {root} --out R --max-damage x", "--max-damage 'x' is not a share of frames: use 10% o"),
    (
        "calibrate starter {root} --out R --span 0",
        "span '0' is not a length: use auto, whole, or a",
    ),
    ("calibrate starter {root} --out R --camera x", "--camera = 'x' is not allowed: it must be fo"),
    (
        "calibrate starter {root} --out R --block-seconds 0",
        "--block-seconds 0 is not a number from",
    ),
    (
        "calibrate starter {root} --out R --alarms-per-day 0",
        "--alarms-per-day 0 is not above 0 and",
    ),
    (
        "evaluate {root} {root} --annotations {root} --span x",
        "span 'x' is not a length: use auto, ",
    ),
    (
        "evaluate {root} {root} --annotations {root} --bootstrap -1",
        "--bootstrap -1 is negative: gi",
    ),
    (
        "evaluate {root} {root} --annotations {root} --seed -1",
        "--seed -1 is negative: give a numbe",
    ),
    ("compare {root} {root} --bootstrap 0", "--bootstrap 0 is below 1: give a number of resamples"),
    ("train {root} --out R --seed -1", "--seed -1 is negative: give a number from 0 up"),
    ("train {root} --out R --memory-gib -1", "--memory-gib -1 is not in 0..2^20"),
    (
        "train {root} --out R --resume --overwrite",
        "--resume continues a run, --overwrite starts ov",
    ),
    (
        "bench-methods {root} --config yardstick --out R --annotations {root} --test-share 2",
        "--test-share 2 is not a share: use one above 0 and below 1",
    ),
    (
        "bench-methods {root} --config yardstick --out R",
        "give --test-features with --test-annotations, or --test-share without them",
    ),
    ("bench-methods {root} --config no --out R", "no cannot be read (No such file or directory): "),
    (
        "bench-methods {root} --config yardstick --out R --test-features {root}/none",
        "none is not a folder of features: run vigil extract first",
    ),
    ("features verify {root} --repair", "--repair extracts videos again: give the videos with --v"),
    ("reproduce ucf --videos {root}", "no dataset 'ucf': use one of ucf_crime, "),
    ("reproduce ucf_crime", "give either --videos or --features: the folder with those of the who"),
    (
        "reproduce ucf_crime --videos {root} --weights none",
        "there are no weights 'none': use auto,",
    ),
    ("dataset check ucf {root}", "no dataset 'ucf': use one of ucf_crime, "),
    ("demo --weights none", "there are no weights 'none': use auto, random, one of "),
    ("demo --seed -1", "--seed -1 is negative: give a number from 0 up"),
    (
        "score rtsp://me:secret@cam/1?a=2 --checkpoint {root} --out R",
        "rtsp://cam/1?a=2 is an address, and ",
    ),
    (
        "score ftp://x.org/a.mp4 --checkpoint {root} --out R",
        "ftp://x.org/a.mp4 is an address, and vigi",
    ),
    (
        "extract file:///a.mp4 --out R",
        "file:///a.mp4 is an address, and vigil reads files and fold",
    ),
]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.mp4", "run vigil extract first"),
        ("a.npy", "run vigil features import first, since its .npy files are those of other prog"),
        ("best/config.json", "it is a run; put the folder that vigil extract wrote in this place"),
    ],
)
def test_a_folder_without_features_is_told_by_what_it_holds(name, remedy, tmp_path, capsys):
    run, labels, folder = tmp_path / "run", tmp_path / "a.csv", tmp_path / "F"
    (folder / name).parent.mkdir(parents=True)
    for path in (folder / name, labels):
        path.touch()
    run.mkdir()
    assert main(["evaluate", str(run), str(folder), "--annotations", str(labels)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ERROR: {folder} holds no feature files: {remedy}")


def test_weights_are_verified_by_backbone_and_file(capsys):
    assert main(["weights", "verify", "my/file.pt"]) == 2
    said = capsys.readouterr().err
    assert "my/file.pt stands where the name of its backbone belongs: write vigil weights v" in said
    assert "verify i3d my/file.pt" in said


@pytest.mark.parametrize(("arguments", "message"), EARLY, ids=[line for line, _ in EARLY])
def test_wrong_options_are_told_before_a_command_is_imported(
    arguments, message, tmp_path, capsys, monkeypatch
):
    (tmp_path / "a.h5").touch()
    monkeypatch.setattr(cli, "import_module", None)
    assert cli.main(arguments.format(root=tmp_path).split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("ERROR: ")
    assert message in said
    assert "secret" not in said


def test_a_listed_address_is_told(tmp_path):
    (tmp_path / "list.txt").write_text("rtsp://cam/1\n")
    with pytest.raises(UserError, match="rtsp://cam/1 is an address, and vigil reads files"):
        find_videos([str(tmp_path / "list.txt")], ".mp4")


WITHOUT_TORCH = {
    "extract nowhere --out F": 2,
    "extract . --out F --views 5 --weights kinetics400": 2,
    "score nowhere --checkpoint . --out R": 2,
    "score . --out R --threshold 7": 2,
    "score . --out R --span x": 2,
    "score . --out R --clock x": 2,
    "demo --seed -1": 2,
    "reproduce ucf": 2,
    "weights verify my/file.pt": 2,
    "weights list": 0,
    "weights fetch nothing": 2,
}


def test_torch_is_not_imported_for_wrong_values_and_lists():
    script = (
        "import sys; from vigil.pipeline.cli import main\n"
        "for line in sys.argv[1:]:\n"
        "    code = main(line.split())\n"
        "    print('ENDED', line, code, 'torch' in sys.modules)"
    )
    run = run_python("-c", script, *WITHOUT_TORCH)
    assert run.returncode == 0, run.stderr
    ended = [line for line in run.stdout.splitlines() if line.startswith("ENDED")]
    assert ended == [f"ENDED {line} {code} False" for line, code in WITHOUT_TORCH.items()]
