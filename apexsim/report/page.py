"""A page that is one file: elements, tables, pictures inside it, and the sheet that styles them.

The page is built as a tree and written out by the standard library, so that it is well formed and whatever a user wrote
(a path, a reason) is escaped, by construction. No clock and no random number takes part: equal trees give equal bytes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from apexsim.report.tables import Table

Element = ElementTree.Element
Content = Element | str

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may load for the page: nothing but what is in it. There is no script, and none would run."""

LINES = frozenset((
    "html", "head", "title", "meta", "style", "body", "header", "nav", "main", "section", "footer", "h1", "h2", "h3",
    "p", "ul", "li", "dl", "div", "table", "caption", "thead", "tbody", "tr", "figure", "figcaption", "pre", "details",
))  # fmt: skip
"""Elements that end a line of the file; a blank after any other would be seen."""

NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""What no HTML may hold: control characters, and halves of characters, as names of files can have them."""


def element(tag: str, *content: Content, **attributes: str) -> Element:
    """An element; ``class_`` is ``class``, ``aria_label`` is ``aria-label``. Strings are text, never markup."""
    names = {name.rstrip("_").replace("_", "-"): _text(value) for name, value in attributes.items()}
    made = Element(tag, names)
    last: Element | None = None
    for part in content:
        if isinstance(part, Element):
            made.append(part)
            last = part
            part.tail = "\n" if part.tag in LINES else ""
        elif last is None:
            made.text = (made.text or "") + _text(part)
        else:
            last.tail = (last.tail or "") + _text(part)
    return made


def _text(value: str) -> str:
    return NOT_TEXT.sub("\ufffd", value)


def code(text: str) -> Element:
    """A name or a value to copy."""
    return element("code", text)


def listed(items: Iterable[Content]) -> Element:
    """A list of points."""
    return element("ul", *(element("li", item) for item in items))


def facts(pairs: Iterable[tuple[str, Content]], class_: str = "facts") -> Element:
    """Names and what they are, side by side."""
    rows = (element("div", element("dt", name), element("dd", value)) for name, value in pairs)
    return element("dl", *rows, class_=class_)


def section(title: str, name: str, *content: Content) -> Element:
    """A part of the page with its heading; ``name`` is where links lead."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-title")


def table(shown: Table, first: str = "") -> Element:
    """A table that scrolls by itself where it is wider than the page; ``first`` is the class of its first row."""
    title, *more = shown.title.split("\n")
    lines = [element("span", line) for line in more]
    head = element("thead", element("tr", *_cells(shown, shown.header, "th")))
    rows = [
        element("tr", *_cells(shown, row, "td"), **({"class_": first} if first and place == 0 else {}))
        for place, row in enumerate(shown.rows)
    ]
    caption = element("caption", element("strong", title), *lines)
    whole = element("table", caption, head, element("tbody", *rows))
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=title)


def _cells(shown: Table, row: Sequence[str], tag: str) -> list[Element]:
    found = []
    for column, cell in enumerate(row):
        attributes: dict[str, str] = {}
        if shown.is_number(column):
            attributes["class_"] = "number"
        elif shown.header[column] in shown.whole:
            attributes["class_"] = "whole"
        if tag == "th" and cell:
            attributes["scope"] = "col"
        # a heading without words heads nothing
        own = "td" if tag == "th" and not cell else "th" if tag == "td" and column == 0 else tag
        found.append(element(own, cell, **attributes, **({"scope": "row"} if own != tag and own == "th" else {})))
    return found


def picture(svg: bytes, words: str, title: str, class_: str = "") -> Element:
    """A drawing inside the page; ``words`` say what it shows to who does not see it."""
    named = {"class_": class_} if class_ else {}
    source = f"data:image/svg+xml;base64,{b64encode(svg).decode('ascii')}"
    return element("figure", element("img", src=source, alt=words), element("figcaption", title), **named)


def document(title: str, *body: Content) -> str:
    """The text of the file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", f"\n{(Path(__file__).parent / 'page.css').read_text('utf-8')}"),
    )
    tree = element("html", head, element("body", *body), lang="en")
    return f"<!doctype html>\n{ElementTree.tostring(tree, encoding='unicode', method='html')}\n"
