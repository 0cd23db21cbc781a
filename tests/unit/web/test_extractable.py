"""Every text that the page asks of gettext is one that Babel finds, so that no text stays in English unnoticed.

Babel does not see a text inside of an f-string (in Python 3.11) or one that is put together, and says nothing. The comparison of the
catalogues with what Babel found does not see it either.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from tests.unit.web.test_translations import in_the_program
from webapp.texts import CONTEXT_MARK

ROOT = Path(__file__).parents[3]
CALLS = {"_": 1, "gettext": 1, "N_": 1, "ngettext": 2, "plural": 2, "NN_": 2, "pgettext": 2, "NP_": 2}
"""What translates a text or marks it for later, and how many of the first arguments are texts (or a context and a text)."""
IN_CONTEXT = ("pgettext", "NP_")
BY_TABLE = {
    ("webapp/web/words/__init__.py", "_said"),
    ("webapp/web/words/__init__.py", "word"),
    ("webapp/web/words/__init__.py", "_reason"),
    ("webapp/web/words/__init__.py", "error_title"),
    ("webapp/web/navigation.py", "sections"),
    ("webapp/web/api/openapi.py", "_row"),
}
"""Functions that translate what a table holds, marked there."""
OF_GETTEXT = "webapp/web/translate.py"
"""The functions themselves."""
CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
NOT_OF_THE_PAGE = "webapp/worker/demo.py"
"""What the demo model learned from."""

OWN_NAME = "Русский"
"""A language is called by its own name in every language."""

Text = str | tuple[str, ...]


def python() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "webapp").rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def as_found(called: str, literal: tuple[str, ...]) -> Text:
    """The texts of a call as Babel reports them."""
    if called in IN_CONTEXT:
        return CONTEXT_MARK.join(literal)
    return literal[0] if len(literal) == 1 else literal


def faults(name: str, tree: ast.Module, known: set[Text]) -> list[str]:
    """What Babel would miss in a module, and what nobody would translate."""
    looker = _Looker(name, known)
    looker.visit(tree)
    return looker.faults


class _Looker(ast.NodeVisitor):
    def __init__(self, name: str, known: set[Text]) -> None:
        self._name, self._known = name, known
        self._function = ""
        self._in_f_string = False
        self.faults: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._function = self._function, node.name
        self.generic_visit(node)
        self._function = outer

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        outer, self._in_f_string = self._in_f_string, True
        self.generic_visit(node)
        self._in_f_string = outer

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        texts = node.args[: CALLS[called]] if called in CALLS else []
        if called in CALLS:
            self._check(called, node, texts)
        for child in ast.iter_child_nodes(node):
            if child not in texts:
                self.visit(child)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # else a docstring
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and CYRILLIC.search(node.value) and self._name != NOT_OF_THE_PAGE:
            self._add(node, f"nobody translates {node.value!r}")

    def _check(self, called: str, node: ast.Call, texts: list[ast.expr]) -> None:
        literal = tuple(text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str))
        if len(literal) != len(texts) or not texts:
            if (self._name, self._function) not in BY_TABLE and self._name != OF_GETTEXT:
                self._add(node, f"not a literal text: {ast.unparse(node)}")
            return
        if self._in_f_string:
            self._add(node, f"inside of an f-string: {ast.unparse(node)}")
        if as_found(called, literal) not in self._known:
            self._add(node, f"Babel does not find {literal[0]!r}")

    def _add(self, node: ast.expr, what: str) -> None:
        self.faults.append(f"{self._name}:{node.lineno}: {what}")


def test_babel_finds_every_text_of_the_program() -> None:
    known = in_the_program()

    assert [fault for name, tree in python() for fault in faults(name, tree, known)] == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("f\"{_('Ready')}\"", "inside of an f-string"),
        ("_(name)", "not a literal text"),
        ('_("Rea" + end)', "not a literal text"),
        ('_(f"Ready {name}")', "not a literal text"),
        ('ngettext("one", many, 2)', "not a literal text"),
        ('_("No such text")', "Babel does not find"),
        ('pgettext("noun", "Ready")', "Babel does not find"),
        ('say("Готово")', "nobody translates"),
    ],
)
def test_each_fault_is_seen(source: str, fault: str) -> None:
    found = faults("webapp/web/dashboard/pages.py", ast.parse(source), {"Ready"})

    assert any(fault in each for each in found)


def test_what_is_marked_is_no_fault() -> None:
    assert faults("webapp/web/dashboard/pages.py", ast.parse('"""О чём."""\nx = _("Ready")'), {"Ready"}) == []


def templates() -> Iterator[tuple[str, nodes.Template]]:
    environment = Environment(extensions=["jinja2.ext.i18n"])  # nothing is rendered
    for path in sorted((ROOT / "templates").rglob("*.html")):
        yield str(path.relative_to(ROOT)), environment.parse(path.read_text(encoding="utf-8"))


def test_babel_finds_every_text_of_the_templates() -> None:
    known, asked = in_the_program(), 0
    for name, tree in templates():
        translated: list[nodes.Node] = []
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in CALLS:
                texts = call.args[: CALLS[call.node.name]]
                literal = tuple(text.value for text in texts if isinstance(text, nodes.Const))
                assert len(literal) == len(texts), f"{name}:{call.lineno}: not a literal text"
                assert as_found(call.node.name, literal) in known, f"{name}:{call.lineno}: {literal[0]!r}"
                translated += texts
        asked += len(translated)
        for left in tree.find_all((nodes.Const, nodes.TemplateData)):
            said = left.data if isinstance(left, nodes.TemplateData) else left.as_const()
            is_said = isinstance(said, str) and CYRILLIC.search(said) and said != OWN_NAME
            assert not is_said or any(left is text for text in translated), f"{name}:{left.lineno}: {said!r}"
    assert asked > 300
