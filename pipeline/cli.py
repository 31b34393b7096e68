"""The command line: the table of commands, and the exit codes and messages for errors.

Exit codes: 0 success · 1 an unexpected error · 2 wrong usage, or no input · 3 some videos failed ·
4 every video failed · 130 interrupted or terminated. Finished work is kept in every case.
"""

import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import reduce
from importlib import import_module
from itertools import chain, pairwise
from operator import or_
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import tyro

from vigil.extract.errors import UserError
from vigil.pipeline import options
from vigil.pipeline.help_texts import ALL_OPTIONS, USUAL_OPTIONS
from vigil.pipeline.logs import set_up_logging
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.recipe import Recipe, starting_recipe
from vigil.pipeline.short_help import further_help
from vigil.pipeline.usage import HELP_ALL, HELP_FLAGS, Accepted, check_arguments, check_command

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
    "report": (options.ReportOptions, "scoring.report_command:run_report"),
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

DESCRIPTION = (
    "Raw surveillance videos in, labelled and timed answers out. --version prints the version."
)

log = logging.getLogger("vigil.pipeline.cli")  # __name__ may be __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors become one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    set_up_logging(options.LogOptions())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # print paths byte for byte
    earlier = signal.signal(signal.SIGTERM, _terminate)
    try:
        if arguments == ["--version"]:
            print("vigil", _version())
            return 0
        chosen = parse(arguments)
        set_up_logging(chosen.logs)
        exit_code = run(chosen)
        sys.stdout.flush()  # raises BrokenPipeError here, where it can be handled
        return exit_code
    except UserError as error:
        log.error("%s", error)
        return 2
    except KeyboardInterrupt as error:
        log.error(
            "%s: finished work is kept; run the same command again to continue (vigil train with "
            "--resume)",
            str(error) or "interrupted",
        )
        return 130
    except BrokenPipeError:
        # The reader of our output closed it, as head does. Python would flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FileExistsError, NotADirectoryError) as error:
        log.error("%s is a file, or one of its parents is: give a folder", error.filename)
        return 2
    except OSError as error:
        log.error("%s", _explain(error))
        log.debug("traceback:", exc_info=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _version() -> str:
    from vigil.extract.versions import installed_versions  # takes time, and is rarely needed

    return installed_versions().get("vigil-video", "(not installed: its version is unknown)")


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """Stop as on Ctrl-C; a second SIGTERM ends the program immediately."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt("terminated")


def parse(arguments: Sequence[str]) -> Any:
    """Parse the arguments into the options of the command they name; usage errors exit with 2.

    Raises:
        UserError: the recipe given with --config cannot be used, or there is no such command or
            flag.
    """
    recipe = _recipe_of(arguments)
    named = _check_usage(arguments, recipe)
    on_one_screen = not {"-h", "--help"}.isdisjoint(arguments)
    try:
        command_line: Any = tyro.cli(
            _union(COMMANDS, recipe),
            prog="vigil",
            description=DESCRIPTION,
            args=["--help" if argument == HELP_ALL else argument for argument in arguments],
            config=(
                tyro.conf.FlagCreatePairsOff,
                tyro.conf.OmitSubcommandPrefixes,
                tyro.conf.PositionalMetavarFromFieldName,
            ),
            registry=USUAL_OPTIONS if on_one_screen else ALL_OPTIONS,
        )
    except SystemExit as ended:
        if on_one_screen and named and not ended.code:
            defaults = _defaults(dict(_kinds())[named], recipe)
            print(further_help(named.removeprefix("vigil "), defaults, Accepted.by(defaults).flags))
        raise
    return command_line


def _check_usage(arguments: Sequence[str], recipe: Recipe) -> str:
    """Refuse commands and flags that do not exist; return the command as it is typed, if any is.

    Raises:
        UserError: names what is wrong, and what is probably meant.
    """
    known: dict[str, Any] = COMMANDS
    program = "vigil"
    for number, word in enumerate(arguments, start=1):
        if word in HELP_FLAGS or word.startswith("--tyro-"):
            break
        check_command(word, known, program)
        program, known = f"{program} {word}", known[word]
        if not isinstance(known, dict):
            accepted = {name: Accepted.by(_defaults(kind, recipe)) for name, kind in _kinds()}
            check_arguments(program, arguments[number:], accepted)
            return program
    return ""


def _kinds() -> Iterator[tuple[str, type[Any]]]:
    """Yield each command as it is typed, and the type of its options."""
    for name, command in COMMANDS.items():
        members = command.items() if isinstance(command, dict) else [("", command)]
        for member, (kind, _) in members:
            yield f"vigil {name} {member}".rstrip(), kind


def arguments_of(chosen: Any) -> list[str]:
    """The arguments that `parse` turns into these options: only what differs from the defaults.

    Raises:
        UserError: a value cannot be an argument.
        ValueError: the recipe is from a file or of another method, which changes the defaults.
    """
    if isinstance(chosen, options.TrainOptions) and chosen.config is not None:
        raise ValueError(f"a recipe from a file, {chosen.config}, cannot become arguments")
    words, _ = _find_command(type(chosen))
    found = list(_changes(chosen, _defaults(type(chosen))))
    found.sort(key=lambda change: change[0].startswith("--"))  # a flag takes all values after it
    return [*words, *chain(*found)]


def _changes(chosen: Any, defaults: Any) -> Iterator[list[str]]:
    """Yield the arguments for each value that differs, those of sections included."""
    if type(chosen) is not type(defaults):
        raise ValueError(f"{chosen!r} cannot become arguments: it must be of {type(defaults)}")
    for setting in fields(chosen):
        value, default = (getattr(one, setting.name) for one in (chosen, defaults))
        name = setting.name.replace("_", "-")
        if value == default:
            continue
        if is_dataclass(value):
            yield from _changes(value, default)
        elif isinstance(value, bool):
            yield [f"--{name}" if value else f"--no-{name}"]
        else:
            values = value if isinstance(value, tuple) else (value,)
            named = [str(one) for one in values if not isinstance(one, (int, float))]
            if value in (None, ()):
                raise ValueError(f"{name} = {value!r} cannot become an argument")
            if any(text.startswith("-") for text in named):
                raise UserError(f"{name} {str(value)!r} would be read as a flag: use another name")
            is_positional = tyro.conf.Positional in getattr(setting.type, "__metadata__", ())
            yield [*([] if is_positional else [f"--{name}"]), *map(str, values)]


def _union(commands: dict[str, Any], recipe: Recipe) -> Any:
    """The union of the commands' option types, for tyro to parse."""
    alternatives = []
    for name, command in commands.items():
        if isinstance(command, dict):
            settings = tyro.conf.subcommand(name, description=GROUPS[name])
            alternatives.append(Annotated[_union(command, recipe), settings])
            continue
        kind, _ = command
        if kind is options.TrainOptions:
            settings = tyro.conf.subcommand(name, default=_defaults(kind, recipe))
        else:
            settings = tyro.conf.subcommand(name)
        alternatives.append(Annotated[kind, settings])
    return reduce(or_, alternatives)


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of a flag that must be read first because it sets the defaults of other flags."""
    for argument, value in pairwise([*arguments, ""]):
        if argument == flag:
            return value
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _recipe_of(arguments: Sequence[str]) -> Recipe:
    """The recipe that provides the defaults of the training flags."""
    if arguments[:1] != ["train"]:
        return Recipe()
    config, method = _value_of("--config", arguments), _value_of("--method", arguments)
    return starting_recipe(None if config is None else Path(config), method)


def _defaults(kind: type[Any], recipe: Recipe | None = None) -> Any:
    """Options with every default, those of training by a recipe; what is required is missing."""
    required = {
        setting.name: tyro.MISSING
        for setting in fields(kind)
        if setting.default is MISSING and setting.default_factory is MISSING
    }
    chosen = kind(**required)
    return (
        chosen
        if recipe is None or kind is not options.TrainOptions
        else replace(chosen, recipe=recipe)
    )


def run(chosen: Any) -> int:
    """Run the command that has these options, and return its exit code.

    Raises:
        UserError: an option is wrong, or the command finds something that the user can put right.
    """
    check_options(chosen)
    _, target = _find_command(type(chosen))
    name, _, function = target.partition(":")
    exit_code: int = getattr(import_module(f"vigil.pipeline.{name}"), function)(chosen)
    return exit_code


def _find_command(kind: type[Any]) -> tuple[tuple[str, ...], str]:
    """The words that name the command with these options, and its target in `COMMANDS`."""
    for name, command in COMMANDS.items():
        members = command.items() if isinstance(command, dict) else [("", command)]
        for member, (known, target) in members:
            if kind is known:
                return (name, member) if member else (name,), target
    raise TypeError(f"no command has the options {kind.__name__}")


def _explain(error: OSError) -> str:
    """The message for an error of a disk or folder, with a remedy if one is known."""
    where = error.filename or "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space is left for {where}: free some, then run the same command again to continue "
            "(vigil train with --resume)"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where} cannot be read or written ({error.strerror}): choose another folder"
    return f"{where}: {error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
