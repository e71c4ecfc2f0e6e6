"""HTML from templates that escape whatever they are given, in pages of one file that no network touches."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """A template filled in: no name, wherever it comes from, becomes markup or an attribute."""
    return _environment().get_template(template).render(values)


def whole_page(template: str, *, script: str = "", **values: Any) -> str:
    """A whole page. What it may do is written into it: its own style, `script` and pictures, no more."""
    style = source("page.css")
    may_run = _digest(script) if script else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {may_run}; base-uri 'none'; form-action 'none'"
    )
    return render(template, style=style, script=script, policy=policy, **values)


def source(name: str) -> str:
    """The text of a file beside the templates."""
    return (TEMPLATES / name).read_text("utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def indented(value: Any) -> Markup:
        text = printable(str(value))
        inner = text.lstrip(" ")
        return Markup("&nbsp;") * (len(text) - len(inner)) + escape(inner)  # an indent is seen without a style too

    strict: Any = {"autoescape": True, "undefined": StrictUndefined, "finalize": finalize}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, **strict)
    environment.filters |= {"indented": indented, "tuple": tuple}
    return environment


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
