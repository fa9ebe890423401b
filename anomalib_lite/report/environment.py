"""The template engine of the pages: everything is escaped, nothing may be missing, pictures lie inside the page."""

from __future__ import annotations

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined

from anomalib_lite.report.figures import percent


def page_environment() -> Environment:
    """Templates beside this file, with the filters `percent` and `png` (bytes to an inline picture)."""
    environment = Environment(
        loader=PackageLoader("anomalib_lite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["png"] = lambda content: inline(content, "png")
    return environment


def inline(content: bytes, kind: str) -> str:
    """An encoded picture as the address of an image inside the page.

    >>> inline(b"abc", "png")
    'data:image/png;base64,YWJj'
    """
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
