"""Mistakes in arguments that are told before these are parsed, by the word that is wrong.

The parser would also name the words beside it, which are valid. What a command accepts follows here
from its options, as it does for the parser.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_origin

import tyro

from vigil.extract.errors import UserError

SHORT_FLAGS = {"--out": "-o", "--checkpoint": "-c", "--annotations": "-a"}
HELP_ALL = "--help-all"
HELP_FLAGS = ("--help", "-h", HELP_ALL)
_FLAG = re.compile(r"--?(?!inf$|nan$)[A-Za-z]")
_OTHER_WORDS = {
    **dict.fromkeys(("predict", "detect", "infer", "run", "test", "label"), "score"),
    **dict.fromkeys(("fit", "learn"), "train"),
    **dict.fromkeys(("validate", "eval"), "evaluate"),
    **dict.fromkeys(("help", "man", "usage"), "--help"),
}
"""What other programs call a command -> ours."""
_OTHER_FLAGS = {
    **dict.fromkeys(("--output", "--output-dir", "--results", "--save-dir"), ("--out",)),
    **dict.fromkeys(("--model", "-m"), ("--checkpoint", "--method", "--backbone")),
    **dict.fromkeys(("--labels", "--truth"), ("--annotations",)),
    **dict.fromkeys(("--gpu", "--cuda", "--cpu"), ("--device",)),
    **dict.fromkeys(("--force", "-f"), ("--overwrite",)),
    **dict.fromkeys(("--jobs", "--threads", "-j"), ("--workers",)),
    "--lr": ("--learning-rate",),
    "--fps": ("--frame-rate", "--picture-fps"),
    "-v": ("--verbose",),
    "-q": ("--quiet",),
    "-n": ("--dry-run",),
}
"""What other programs call a flag -> ours; the first that the command has is meant."""


@dataclass
class Accepted:
    """The flags and positional arguments of a command."""

    flags: dict[str, float] = field(default_factory=dict)
    """Flag -> the number of values that it takes; infinity for a list."""
    positionals: list[str] = field(default_factory=list)
    num_required: int = 0
    """Of the positional arguments."""
    ends_in_list: bool = False
    """Whether the last positional argument is a list."""

    @classmethod
    def by(cls, defaults: Any) -> "Accepted":
        """What the command accepts that has these options."""
        accepted = cls(dict.fromkeys(HELP_FLAGS, 0.0))
        accepted._add(defaults)
        for flag, short in SHORT_FLAGS.items():
            if flag in accepted.flags:
                accepted.flags[short] = accepted.flags[flag]
        return accepted

    def _add(self, defaults: Any) -> None:
        for setting in fields(defaults):
            default = getattr(defaults, setting.name)
            kind: Any = setting.type
            markers = getattr(kind, "__metadata__", ())
            is_list = get_origin(kind.__origin__ if markers else kind) is tuple
            name = setting.name.replace("_", "-")
            if is_dataclass(default):
                self._add(default)
            elif tyro.conf.Positional in markers:
                self.positionals.append(name.upper())
                self.num_required += default is tyro.MISSING
                self.ends_in_list = is_list
            elif isinstance(default, bool):
                self.flags[f"--no-{name}" if default else f"--{name}"] = 0
            else:
                is_repeated = tyro.conf.UseAppendAction in markers
                self.flags[f"--{name}"] = math.inf if is_list and not is_repeated else 1


def check_command(word: str, commands: Collection[str], program: str) -> None:
    """Refuse a word in the place of a command that is none.

    Raises:
        UserError: names the word, and the command that is probably meant.
    """
    if word in commands:
        return
    if word.startswith("-"):
        raise UserError(f"{word} comes before the command: put it behind, as in vigil score {word}")
    other = _OTHER_WORDS.get(word, "")
    close = [other] if other in (*commands, *HELP_FLAGS) else _closest(word, commands)
    hint = f"did you mean {program} {close[0]}?" if close else f"use one of {', '.join(commands)}"
    raise UserError(f"{program} has no command {word!r}: {hint}")


def check_arguments(
    command: str, arguments: Sequence[str], commands: Mapping[str, Accepted]
) -> None:
    """Refuse flags that the command does not have, and positional arguments too many or too few.

    Args:
        command: the words that name it.
        arguments: those after the command.
        commands: what each command accepts, this one and those to which a flag may belong.

    Raises:
        UserError: names the word that is wrong, and what is probably meant.
    """
    accepted = commands[command]
    groups = list(_groups(arguments, accepted))
    for flag, _ in groups:
        if flag and flag not in accepted.flags:
            raise UserError(f"{command} has no flag {flag}: {_remedy(flag, command, commands)}")
    free = [value for flag, values in groups for value in values if not flag]
    if len(free) > len(accepted.positionals) and not accepted.ends_in_list:
        takes = " and ".join(accepted.positionals) or "flags only"
        surplus = free[len(accepted.positionals)]
        raise UserError(
            f"{command} takes {takes}, so {surplus!r} is one too many: leave it out, or put the "
            "flag that it belongs to before it"
        )
    _check_swallowed(command, groups, len(free), accepted)


def _groups(arguments: Sequence[str], accepted: Accepted) -> Iterator[tuple[str, list[str]]]:
    """Yield each flag with its values, and under an empty name what belongs to no flag."""
    flag, values, num_values = "", list[str](), math.inf
    for argument in arguments:
        if argument == "--":
            break
        if not _FLAG.match(argument) and len(values) < num_values:
            values.append(argument)
            continue
        yield flag, values
        name, equals, value = argument.partition("=")
        if _FLAG.match(argument):
            flag = name.replace("_", "-")
            values, num_values = [value] if equals else [], accepted.flags.get(flag, 1)
        else:
            flag, values, num_values = "", [argument], math.inf
    yield flag, values


def _check_swallowed(
    command: str, groups: Sequence[tuple[str, list[str]]], num_free: int, accepted: Accepted
) -> None:
    """Refuse a list that has taken the positional arguments behind it.

    At the very end the parser leaves them what they need.
    """
    missing = accepted.positionals[num_free : accepted.num_required]
    for flag, values in groups[:-1]:
        if missing and accepted.flags.get(flag) == math.inf and len(values) > 1:
            names = " ".join(accepted.positionals)
            raise UserError(
                f"{' and '.join(missing)} of {command} is missing: {flag} takes every value up to "
                f"the next flag, {values[-1]} too. Write {command} {names} {flag} ..."
            )


def _remedy(flag: str, command: str, commands: Mapping[str, Accepted]) -> str:
    """What to use instead of a flag that the command does not have."""
    flags = commands[command].flags
    known = [one for one in _OTHER_FLAGS.get(flag, ()) if one in flags]
    if (off := f"--no-{flag[2:]}") in flags:
        return f"it is on by default, and {off} turns it off"
    if close := known or _closest(flag, flags):
        return f"did you mean {close[0]}?"
    owners = [other for other, accepted in commands.items() if flag in accepted.flags]
    *others, last = owners or [""]
    named = f"{', '.join(others)} and {last}" if others else last
    belongs = f"it belongs to {named}; " if owners else ""
    return f"{belongs}{command} --help-all shows those it has"


def _closest(word: str, known: Collection[str]) -> list[str]:
    """The known word that is most like another one, if any is."""
    return get_close_matches(word, known, 1, cutoff=0.7)
