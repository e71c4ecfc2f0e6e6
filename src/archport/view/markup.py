"""HTML for people and notebooks: text that stays text, tables, and pages of one file that no network touches."""

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from importlib.resources import files

from ..errors import printable


def escaped(value: object) -> str:
    """Anything as text of a page: no name, wherever it comes from, becomes markup or an attribute."""
    return html.escape(printable(str(value)))


def table(rows: Sequence[Mapping[str, object]], *, caption: str = "", attributes: Sequence[str] = ()) -> str:
    """Rows that have the same columns as a table; `attributes`, if any, are markup for each row."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in (rows[0] if rows else ()))
    body = "".join(
        f"<tr{extra and f' {extra}'}>{''.join(map(_cell, row.values()))}</tr>\n"
        for row, extra in zip(rows, attributes or [""] * len(rows), strict=True)
    )
    said = f"<caption>{escaped(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>\n"


def page(title: str, body: str, *, script: str = "") -> str:
    """A whole page of one file. What it may do is written into it: its own style, script and pictures, no more."""
    style = files("archport").joinpath("markup.css").read_text("utf-8")
    allowed = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_digest(style)}",
        "script-src " + (_digest(script) if script else "'none'"),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(allowed)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def picture(svg: bytes, alt: str) -> str:
    """A drawing as an image within the page."""
    data = base64.b64encode(svg).decode("ascii")
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escaped(alt)}">\n'


def _cell(value: object) -> str:
    text = escaped(value)
    inner = text.lstrip(" ")
    return f"<td>{'&nbsp;' * (len(text) - len(inner))}{inner}</td>"  # an indent is seen without a style too


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
