"""HTML pages from templates.

A page is self-contained: it loads no script, font or image. Names in it are untrusted, and the
template engine escapes them.
"""

import base64
from pathlib import Path

import jinja2

from vigil.pipeline.text_files import clock_time


def render_page(template: str, **content: object) -> str:
    """Render a template as HTML; an undefined variable is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clock"] = clock_time
    return environment.get_template(template).render(**content)


def embedded(picture: Path) -> str:
    """A PNG file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
