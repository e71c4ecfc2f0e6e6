"""HTML from templates that escape whatever they are given, in pages of one file that no network touches."""

import base64
import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """A template filled in: no name, wherever it comes from, becomes markup or an attribute."""
    return _environment().get_template(template).render(values)


def whole_page(template: str, *, script: str = "", **values: Any) -> str:
    """A whole page. What it may do is written into it: its own style, `script` and pictures, no more."""
    style = source("page.css")
    script_digest = _digest(script) if script else "'none'"
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_digest(style)}",
        f"script-src {script_digest}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return render(template, style=style, script=script, policy="; ".join(policy), **values)


def source(name: str) -> str:
    """The text of a file beside the templates."""
    loader: Any = _environment().loader
    text: str = loader.get_source(_environment(), name)[0]
    return text


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def indented(value: Any) -> Markup:
        text = printable(str(value))
        inner = text.lstrip(" ")
        return Markup("&nbsp;") * (len(text) - len(inner)) + escape(inner)  # an indent is seen without a style too

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"indented": indented, "tuple": tuple}
    return environment


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
