"""The help texts of options, which tyro takes from our docstrings as they stand in the source."""

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Annotated, Any

from tyro.conf import arg
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

OPTION_CLASSES = ConstructorRegistry()
"""Makes tyro read a dataclass by its own rules, and then rewrites the help texts."""
_BY_ITS_OWN_RULES = object()


@OPTION_CLASSES.struct_rule
def _rewritten(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return how tyro builds a dataclass, with other help texts; None leaves the type to tyro."""
    if not is_dataclass(info.type) or _BY_ITS_OWN_RULES in info.markers:
        return None
    asked = replace(info, markers=(*info.markers, _BY_ITS_OWN_RULES))
    own = ConstructorRegistry.get_struct_spec(asked)
    if not isinstance(own, StructConstructorSpec):
        return None
    return replace(own, fields=tuple(map(_with_help, own.fields)))


def _with_help(field: StructFieldSpec) -> StructFieldSpec:
    """Return a field with its help as one paragraph; a default that is empty is not shown."""
    kind: Any = field.type
    if field.default is None or field.default == ():
        kind = Annotated[kind, arg(help_behavior_hint="")]
    elif field.default is True:  # its flag is --no-NAME
        kind = Annotated[kind, arg(help_behavior_hint="(used by default; this turns it off)")]
    return replace(field, type=kind, helptext=partial(_paragraph, field.helptext))


def _paragraph(helptext: str | Callable[[], str | None] | None) -> str | None:
    """Return a help text without line breaks; tyro reads it from the source when it is shown."""
    text = helptext() if callable(helptext) else helptext
    return None if text is None else " ".join(text.split())
