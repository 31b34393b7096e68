"""Keyword arguments to options: what `arguments.parse` is to the command line.

The keywords are the fields of the options, those of their sections included, as on the command
line; so neither has a list of its own.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from inspect import Parameter, formatannotation
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, TypeVar, get_type_hints

import dacite

from vigil.extract.errors import UserError
from vigil.pipeline.options import LogOptions
from vigil.pipeline.recipe import SECTIONS, Recipe, recipe_of, starting_recipe

Options = TypeVar("Options")

ONLY_COMMANDS = ("dry_run",)
"""Fields that say what a command prints; those of `LogOptions`, too."""
_FLAG = re.compile(r"(?<![^\s(])--(no-)?([a-z][a-z-]*)(?![\w/-]|\.\w)")
_TUPLES = tuple[str, ...], tuple[Path, ...]


def parameters_of(kind: type[Any], recipe: Recipe = Recipe()) -> dict[str, Parameter]:  # noqa: B008
    """The keywords of options, by name, with their types and defaults.

    Args:
        kind: a class of `options`, or of one of their sections.
        recipe: whose settings are keywords, if the options have a recipe.
    """
    found: dict[str, Parameter] = {}
    hints: dict[str, Any] = get_type_hints(kind)
    for setting in fields(kind):
        hint = hints[setting.name]
        if hint is Recipe:
            found |= _recipe_parameters(recipe)
        elif _is_section(hint):
            found |= parameters_of(hint)
        elif _is_keyword(setting.name, hint):
            default = Parameter.empty if setting.default is MISSING else setting.default
            found[setting.name] = Parameter(
                setting.name, Parameter.KEYWORD_ONLY, default=default, annotation=hint
            )
    return found


def _is_section(hint: Any) -> bool:
    return is_dataclass(hint) and hint not in (Recipe, LogOptions)


def _is_keyword(name: str, hint: Any) -> bool:
    return not is_dataclass(hint) and name not in ONLY_COMMANDS


def _recipe_parameters(recipe: Recipe) -> dict[str, Parameter]:
    settings = {"method": recipe.method}
    for section in SECTIONS:
        settings |= asdict(getattr(recipe, section))
    return {
        name: Parameter(name, Parameter.KEYWORD_ONLY, default=default)
        for name, default in settings.items()
    }


def options_of(kind: type[Options], keywords: Mapping[str, Any], function: str) -> Options:
    """Build options from keyword arguments; those left out have their defaults.

    A number may stand for the text that the command line takes (``threshold=0.7``), a path for a
    text, and one path or text for a tuple of them.

    Args:
        kind: a class of `options`.
        keywords: the arguments by name.
        function: the name of the called function, for messages.

    Raises:
        TypeError: a keyword is unknown; suggests a similar one.
        UserError: a value is not allowed.
    """
    left = dict(keywords)
    content = _content_of(kind, left, function)
    if left:
        known = parameters_of(kind, content.get("recipe", Recipe()))
        _refuse(next(iter(left)), known, function)
    hooks: dict[Any, Any] = {str: _as_text, Path: _as_path, **dict.fromkeys(_TUPLES, _as_tuple)}
    hooks |= dict.fromkeys((int, float), _no_bool)
    try:
        return dacite.from_dict(kind, content, dacite.Config(type_hooks=hooks))
    except dacite.WrongTypeError as error:
        name, allowed = (error.field_path or "").rpartition(".")[2], error.field_type
        raise UserError(
            f"{function}: {name} = {shortened(error.value)} is not allowed: it must be "
            f"{formatannotation(allowed)}"
        ) from error


def in_keywords(message: str, parameters: Mapping[str, Parameter]) -> str:
    """A message of a command, with the keywords in place of its flags.

    ``--min-seconds`` becomes ``min_seconds``, and ``--overwrite``, which takes no value,
    ``overwrite=True``. The flags of commands without a function here stay as they are.

    Args:
        message: about flags.
        parameters: the keywords, by name.
    """

    def keyword(flag: re.Match[str]) -> str:
        name = flag[2].replace("-", "_")
        if name not in parameters:
            return flag[0]
        is_switch = isinstance(parameters[name].default, bool)
        return f"{name}={not flag[1]}" if is_switch else name

    return _FLAG.sub(keyword, message)


def _content_of(kind: type[Any], left: dict[str, Any], function: str) -> dict[str, Any]:
    """The fields of options that are among the keywords, which are taken from there."""
    content: dict[str, Any] = {}
    hints: dict[str, Any] = get_type_hints(kind)
    for name, hint in hints.items():
        if hint is Recipe:
            content[name] = _recipe_of(_as_path(content.get("config")), left, function)
        elif _is_section(hint):
            content[name] = _content_of(hint, left, function)
        elif _is_keyword(name, hint) and name in left:
            content[name] = left.pop(name)
    return content


def _recipe_of(config: object, left: dict[str, Any], function: str) -> Recipe:
    """The recipe of a file or a method, with the settings among the keywords in their place."""
    start = starting_recipe(config if isinstance(config, Path) else None, left.pop("method", None))
    content: dict[str, Any] = {"method": start.method}
    for section in SECTIONS:
        settings = asdict(getattr(start, section))
        given = {name: left.pop(name) for name in settings if name in left}
        content[section] = settings | given
    return recipe_of(content, function)


def _refuse(name: str, known: Collection[str], function: str) -> None:
    if name in ONLY_COMMANDS or name in {setting.name for setting in fields(LogOptions)}:
        raise TypeError(
            f"{function}() has no {name}, which is about what a command prints: messages go to "
            'logging.getLogger("vigil"), progress to the function given as progress'
        )
    similar = get_close_matches(name, known, n=1)
    meant = f": did you mean {similar[0]}?" if similar else f": it takes {', '.join(known)}"
    raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{meant}")


def _as_text(value: object) -> object:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if is_number or isinstance(value, os.PathLike) else value


def _as_path(value: object) -> object:
    return Path(value) if isinstance(value, (str, os.PathLike)) else value


def _as_tuple(value: Any) -> object:
    if value is None:
        return ()
    is_one = isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable)
    return (value,) if is_one else tuple(value)


def _no_bool(value: object) -> object:
    """Return the value, but text in place of a bool, which Python would accept as a number."""
    return repr(value) if isinstance(value, bool) else value
