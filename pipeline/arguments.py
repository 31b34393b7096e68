"""Arguments to the options of the command that they name, and back."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import reduce
from itertools import chain, pairwise
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro

from vigil.extract.errors import UserError
from vigil.pipeline import options
from vigil.pipeline.commands import (
    COMMANDS,
    GROUPS,
    defaults_of,
    find_command,
    option_types,
)
from vigil.pipeline.help_texts import ALL_OPTIONS, USUAL_OPTIONS
from vigil.pipeline.recipe import Recipe, starting_recipe
from vigil.pipeline.short_help import further_help
from vigil.pipeline.usage import HELP_ALL, HELP_FLAGS, Accepted, check_arguments, check_command

DESCRIPTION = (
    "Raw surveillance videos in, labelled and timed answers out. --version prints the version."
)


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
            defaults = defaults_of(dict(option_types())[named], recipe)
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
            accepted = {
                name: Accepted.by(defaults_of(kind, recipe)) for name, kind in option_types()
            }
            check_arguments(program, arguments[number:], accepted)
            return program
    return ""


def arguments_of(chosen: Any) -> list[str]:
    """The arguments that `parse` turns into these options: only what differs from the defaults.

    Raises:
        UserError: a value cannot be an argument.
        ValueError: the recipe is from a file or of another method, which changes the defaults.
    """
    if isinstance(chosen, options.TrainOptions) and chosen.config is not None:
        raise ValueError(f"a recipe from a file, {chosen.config}, cannot become arguments")
    words, _ = find_command(type(chosen))
    found = list(_changes(chosen, defaults_of(type(chosen))))
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
            markers = getattr(setting.type, "__metadata__", ())
            if tyro.conf.UseAppendAction in markers:
                yield from ([f"--{name}", str(one)] for one in values)
            else:
                is_positional = tyro.conf.Positional in markers
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
            settings = tyro.conf.subcommand(name, default=defaults_of(kind, recipe))
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
