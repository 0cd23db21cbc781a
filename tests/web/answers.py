"""Answers whose HTML reads the same however the lines of the templates are broken."""

from __future__ import annotations

import re

from flask import Flask, Response

TAG = re.compile(r"<[a-zA-Z](?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
KEPT = re.compile(r'(<pre\b.*?</pre>|<textarea\b.*?</textarea>|<span class="log__line">.*?</span>)', re.DOTALL)
INDENT = re.compile(r">(?:[ \t]*\n\s*|\s{2,})|(?:\s*\n\s*|\s{2,})(?=<)")


class Answer(Response):
    """An answer whose text has each tag on one line, and no line break next to a tag."""

    def get_data(self, as_text: bool = False) -> bytes | str:  # type: ignore[override]
        if not as_text:
            return super().get_data()
        text = super().get_data(as_text=True)
        return unbroken(text) if self.mimetype == "text/html" else text


def unbroken(html: str) -> str:
    """Return ``html`` without the line breaks that show nothing."""
    parts = KEPT.split(html)
    return "".join(part if number % 2 else _unbroken(part) for number, part in enumerate(parts))


def _unbroken(html: str) -> str:
    html = TAG.sub(lambda tag: re.sub(r"\s+", " ", tag[0]).replace(" >", ">"), html)
    html = INDENT.sub(lambda found: ">" if found[0].startswith(">") else "", html)
    return re.sub(r"\s*\n\s*", " ", html)


def with_unbroken_answers(app: Flask) -> Flask:
    """Have the clients of ``app`` read such answers."""
    app.response_class = Answer
    return app
