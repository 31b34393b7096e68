"""The pages: their links lead somewhere, and the command lines in them are understood."""

import re
import shlex

import pytest
from commands import ROOT

from vigil.pipeline.arguments import parse

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"^ {4}(?:[A-Z_]+=\S+ )*vigil (.*)", re.MULTILINE)
LINES = [
    (page.name, line)
    for page in PAGES
    for line in COMMAND.findall(page.read_text().replace("\\\n", " "))
]


def anchors(page):
    """What a link may name behind the #: headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
        place, _, anchor = target.partition("#")
        other = page.parent / place if place else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize(("page", "line"), LINES)
def test_every_command_line_is_understood(page, line):
    """Up to where the shell takes over; what stands in [] may be there or not."""
    arguments = shlex.split(re.sub(r"[\[\]]", "", line).partition(" > ")[0], comments=True)
    parse(arguments)
