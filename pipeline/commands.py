"""The table of commands: the options of each, and the function that runs it."""

from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

import tyro

from vigil.pipeline import options
from vigil.pipeline.recipe import Recipe

Command = tuple[type[Any], str]

COMMANDS: dict[str, Command | dict[str, Command]] = {
    "extract": (options.ExtractOptions, "extraction.command:run_extract"),
    "train": (options.TrainOptions, "training.command:run_train"),
    "evaluate": (options.EvaluateOptions, "evaluation.command:run_evaluate"),
    "compare": (options.CompareOptions, "evaluation.comparison:run_compare"),
    "bench-methods": (
        options.BenchMethodsOptions,
        "tables.command:run_bench_methods",
    ),
    "reproduce": (options.ReproduceOptions, "chains.reproduction:run_reproduce"),
    "calibrate": (options.CalibrateOptions, "scoring.calibrate:run_calibrate"),
    "score": (options.ScoreOptions, "scoring.command:run_score"),
    "watch": (options.WatchOptions, "watching.command:run_watch"),
    "report": (options.ReportOptions, "scoring.report_command:run_report"),
    "explain": (options.ExplainOptions, "explaining.command:run_explain"),
    "serve": (options.ServeOptions, "serving.command:run_serve"),
    "features": {
        "verify": (options.FeaturesVerifyOptions, "extraction.verification:run_verify_features"),
        "show": (options.FeaturesShowOptions, "extraction.show:run_show"),
        "import": (options.FeaturesImportOptions, "exchange.import_features:run_import"),
        "export": (options.FeaturesExportOptions, "exchange.export_features:run_export"),
    },
    "dataset": {
        "list": (options.DatasetListOptions, "datasets.check:run_list_datasets"),
        "check": (options.DatasetCheckOptions, "datasets.check:run_check"),
    },
    "weights": {
        "list": (options.WeightsListOptions, "extraction.pretrained:run_list_weights"),
        "fetch": (options.WeightsFetchOptions, "extraction.pretrained:run_fetch"),
        "verify": (options.WeightsVerifyOptions, "extraction.pretrained:run_verify_weights"),
    },
    "demo": (options.DemoOptions, "chains.demo:run_demo"),
    "doctor": (options.DoctorOptions, "doctor.command:run_doctor"),
    "completion": (options.CompletionOptions, "completion:run_completion"),
}
"""Command -> its options and the function that runs it.

The function is named by its module below `vigil.pipeline`, which is imported only when the command
runs; it takes the options and returns the exit code.
"""

GROUPS = {
    "features": "Check, show, import or export feature files.",
    "dataset": "List published datasets, or check one before using it.",
    "weights": "List, download or check the backbones' weights.",
}


def option_types() -> Iterator[tuple[str, type[Any]]]:
    """Yield each command as it is typed, and the type of its options."""
    for words, kind, _ in _rows():
        yield " ".join(("vigil", *words)), kind


def find_command(options_type: type[Any]) -> tuple[tuple[str, ...], str]:
    """The words that name the command with these options, and its target in `COMMANDS`."""
    for words, kind, target in _rows():
        if kind is options_type:
            return words, target
    raise TypeError(f"no command has the options {options_type.__name__}")


def _rows() -> Iterator[tuple[tuple[str, ...], type[Any], str]]:
    """Yield the words that name each command, its options and its target."""
    for name, command in COMMANDS.items():
        if isinstance(command, dict):
            yield from (((name, member), *row) for member, row in command.items())
        else:
            yield (name,), *command


def defaults_of(kind: type[Any], recipe: Recipe | None = None) -> Any:
    """Options with every default, those of training by a recipe; what is required is missing."""
    required = {
        setting.name: tyro.MISSING
        for setting in fields(kind)
        if setting.default is MISSING and setting.default_factory is MISSING
    }
    chosen = kind(**required)
    is_training = kind is options.TrainOptions
    return chosen if recipe is None or not is_training else replace(chosen, recipe=recipe)
