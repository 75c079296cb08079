"""Reads a page as strictly as a test needs: every element closed, every attribute at hand."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import cv2
import numpy as np

VOID = {"meta", "link", "img", "br", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    """Its own text and that of everything in it."""


@dataclass
class Page(HTMLParser):
    """All elements of a page in order; raises AssertionError for tags that do not match."""

    source: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self):
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []
        self.feed(self.source)
        self.close()
        assert not self._open, [element.tag for element in self._open]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"an attribute is given twice: {attrs}"
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        assert any(element.tag == "svg" for element in self._open), f"<{tag}/> outside svg"
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1].tag == tag, f"</{tag}> in {[e.tag for e in self._open]}"
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag, **attributes):
        """Elements of a tag with attributes; `cls` is a class among others."""
        wanted = attributes.pop("cls", None)
        return [
            element
            for element in self.elements
            if element.tag == tag
            and (wanted is None or wanted in element.attributes.get("class", "").split())
            and all(element.attributes.get(name) == value for name, value in attributes.items())
        ]

    def one(self, tag, **attributes):
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{tag} {attributes}: {len(found)}"
        return found[0]

    @property
    def text(self):
        """Everything that is read, spaces as one."""
        return re.sub(r"\s+", " ", self.one("main").text + self.one("header").text)

    def tiles(self):
        """Name -> value of the key figures."""
        found = re.findall(r"<dt>([^<]*)</dt><dd><b>([^<]*)</b>", self.source)
        return dict(found)

    def charts(self):
        """Title -> values that ride along with a chart."""
        titles = [element.text.split("\n")[0] for element in self.all("h3")]
        charts = [json.loads(plot.attributes["data-chart"]) for plot in self.all("div", cls="plot")]
        labels = [svg.attributes["aria-label"].split(".")[0] for svg in self.all("svg", cls="axes")]
        assert len(labels) == len(charts) and all(any(label in t for t in titles) for label in labels)
        return dict(zip(labels, charts, strict=True))


def matched(pattern, text):
    """The groups of a pattern that has to be there; 0 is all of it."""
    found = re.search(pattern, text)
    assert found is not None, pattern
    return (found[0], *found.groups())


def read_png(path):
    """The pixels [H, W, 3] of a file, RGB."""
    return np.asarray(cv2.imread(str(path)))[..., ::-1]


def picture(uri):
    """The pixels [H, W, 3] of a data URI, RGB."""
    head, _, data = uri.partition(",")
    assert head in ("data:image/jpeg;base64", "data:image/png;base64"), head
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data, validate=True), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image)[..., ::-1]


def references(page):
    """Everything that a browser might load or follow, but data URIs and places within the page."""
    attributes = ("src", "href", "srcset", "poster", "data", "action", "xlink:href", "background")
    found = [
        value
        for element in page.elements
        for name, value in element.attributes.items()
        if name in attributes and not value.startswith(("data:", "#"))
    ]
    styles = [element.text for element in page.all("style")]
    styles += [e.attributes["style"] for e in page.elements if "style" in e.attributes]
    for style in styles:
        found += re.findall(r"url\([^)]*\)|@import[^;]*|@font-face", style)
    return found
