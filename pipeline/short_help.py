"""What ``vigil COMMAND --help`` shows on one screen; ``--help-all`` explains every flag."""

import textwrap
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any

from vigil.pipeline import options
from vigil.pipeline.usage import HELP_FLAGS

WIDTH = 80

USUAL: dict[type[Any], str] = {
    options.ExtractOptions: "videos out backbone weights views keep_clips overwrite dry_run",
    options.TrainOptions: "features out annotations config seed resume overwrite",
    options.EvaluateOptions: "run features annotations out views span figures",
    options.BenchMethodsOptions: "features config out annotations test_features test_annotations "
    "test_share only overwrite",
    options.ReproduceOptions: "name videos features annotations out config only views "
    "allow_missing",
    options.ScoreOptions: "videos checkpoint out views threshold span overwrite dry_run",
    options.WatchOptions: "sources out cameras checkpoint on_event metrics once",
    options.ExplainOptions: "video checkpoint out at class_name features views",
    options.CalibrateOptions: "run videos out alarms_per_day camera span overwrite",
    options.FeaturesImportOptions: "sources out backbone crops num_frames fps overwrite",
}
"""The options that ``--help`` explains, of commands with too many for a screen."""

EXAMPLES = {
    "extract": """\
vigil extract VIDEOS --out FEATURES
vigil extract 'cam*/**/*.mp4' list.txt --out FEATURES --views five --device cuda""",
    "train": """\
vigil train FEATURES --out RUN                               # folders name the classes
vigil train FEATURES -a train.txt -o RUN --config joint_plus
vigil train FEATURES -a train.txt -o RUN --method sultani --epochs 50""",
    "evaluate": "vigil evaluate RUN FEATURES --annotations test.txt",
    "compare": "vigil compare RUN OTHER_RUN",
    "bench-methods": "vigil bench-methods F --config yardstick --out TABLE -a all.csv "
    "--test-share 0.3",
    "reproduce": "vigil reproduce ucf_crime --videos UCF_CRIME --out runs/ucf_crime",
    "calibrate": "vigil calibrate RUN NORMAL_FOOTAGE --out CALIBRATED --alarms-per-day 1",
    "score": """\
vigil score VIDEOS --out RESULTS
vigil score VIDEOS --checkpoint RUN --out RESULTS
vigil score tonight.mp4 -c RUN -o RESULTS --span 60 --format html,srt""",
    "watch": """\
vigil watch /srv/nvr --out RESULTS
vigil watch 'rtsp://${LOGIN}@192.0.2.7/stream1' -o RESULTS --on-event mqtt://localhost
vigil watch --cameras cameras.toml -o RESULTS --once     # from cron""",
    "report": """\
vigil report RESULTS
vigil report RESULTS --format srt,parquet""",
    "explain": """\
vigil explain tonight.mp4 --out WHY
vigil explain tonight.mp4 -c RUN -o WHY --at 0:01:15 --features FEATURES""",
    "serve": """\
vigil serve RESULTS                                # http://127.0.0.1:8000/
vigil serve MONDAY TUESDAY --host 0.0.0.0 --port 80""",
    "features verify": "vigil features verify FEATURES --videos VIDEOS --repair",
    "features show": "vigil features show FEATURES",
    "features import": "vigil features import RTFM_FEATURES --out FEATURES --crops rtfm",
    "features export": "vigil features export FEATURES --out ARRAYS -a train.txt",
    "dataset list": "vigil dataset list",
    "dataset check": "vigil dataset check ucf_crime UCF_CRIME --write LABELS",
    "weights list": "vigil weights list",
    "weights fetch": "vigil weights fetch swin3d_b",
    "weights verify": "vigil weights verify i3d rgb_imagenet.pt --endpoint Mixed_4d",
    "demo": "vigil demo --out runs/demo",
    "doctor": """\
vigil doctor
vigil doctor /srv/nvr 'rtsp://viewer:${PASSWORD}@10.0.0.5/main' --out RESULTS
vigil doctor --no-speed --format json""",
    "completion": """\
vigil completion bash > ~/.local/share/bash-completion/completions/vigil
vigil completion zsh > ~/.zfunc/_vigil       # a folder in your fpath
vigil completion fish > ~/.config/fish/completions/vigil.fish""",
}
"""Command -> calls to start from, a line each."""


def is_usual(kind: type[Any], name: str) -> bool:
    """Whether ``--help`` of the command with these options explains the option of that name."""
    return kind not in USUAL or name in USUAL[kind].split()


def further_help(command: str, defaults: Any, flags: Collection[str]) -> str:
    """The end of ``--help``: examples, and the flags that it has left out.

    Args:
        command: its words after ``vigil``.
        defaults: its options.
        flags: all that it has.
    """
    own = [one.name for one in fields(defaults) if not is_dataclass(getattr(defaults, one.name))]
    shown = {name.replace("_", "-") for name in own if is_usual(type(defaults), name)}
    shown |= {flag.removeprefix("--") for flag in HELP_FLAGS}
    hidden = [flag for flag in flags if flag.startswith("--") and flag[2:] not in shown]
    lines = ["examples:", *(f"  {line}" for line in EXAMPLES[command].splitlines())]
    lines += [f"more flags, explained by vigil {command} --help-all:"]
    lines += textwrap.wrap(
        " ".join(hidden), WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    return "\n".join(lines)
