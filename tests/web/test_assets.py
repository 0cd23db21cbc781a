"""The static files: one style sheet from many files, modules that find each other, and addresses that a browser may
keep.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient

STATIC = Path(__file__).parents[2] / "static"
CSS, JS = STATIC / "css", STATIC / "js"
LAYERS = ["tokens", "base", "layout", "components"]
"""The layers by the files that open them; the utilities are at the end of the base."""


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def sheet(client: FlaskClient) -> str:
    """The style sheet that the page asks for."""
    (address,) = re.findall(r'<link rel="stylesheet" href="([^"]+)">', client.get("/").text)
    return client.get(address).text


def test_the_page_asks_for_one_style_sheet_that_imports_no_other(client: FlaskClient, sheet: str) -> None:
    assert client.get("/").text.count("stylesheet") == 1
    assert sheet.count("@layer tokens, base, layout, components, utilities;") == 1
    assert "@import" not in sheet


def test_each_file_is_in_the_sheet_once_and_the_layers_come_in_order(sheet: str) -> None:
    files = {path: path.read_text() for path in CSS.rglob("*.css") if path != CSS / "app.css"}
    order = sorted(files, key=lambda path: sheet.index(files[path]))
    layers = [re.findall(r"@layer (\w+) \{", files[path])[0] for path in order]

    assert [path for path, text in files.items() if sheet.count(text) != 1] == []
    assert layers == sorted(layers, key=LAYERS.index)
    assert re.sub(r"/\*.*?\*/\s*", "", sheet, flags=re.DOTALL).startswith("@layer tokens, base, layout,")


def test_each_module_is_imported_and_carries_the_mark_of_the_one_that_imports_it(client: FlaskClient) -> None:
    (address,) = re.findall(r'<script type="module" src="([^"]+)"></script>', client.get("/").text)
    waiting, seen = [address], set()
    while waiting:
        address = waiting.pop()
        seen.add(address)
        with client.get(address) as answer:
            assert answer.mimetype in ("text/javascript", "application/javascript")
            assert "immutable" in answer.headers["Cache-Control"]
            imported = re.findall(r'^import .*?"(.+?)";$', answer.get_data(as_text=True), flags=re.MULTILINE)
        assert all(name.startswith("./") for name in imported)
        waiting += {urljoin(address, name) for name in imported} - seen

    assert {PurePosixPath(address).name for address in seen} == {path.name for path in JS.iterdir()}


def test_an_address_is_kept_under_the_mark_of_the_present_files_alone(client: FlaskClient) -> None:
    page = client.get("/")
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)

    assert page.headers["Cache-Control"] == "no-store"
    assert len(addresses) == 4  # the sheet, the icon, htmx and the page's own script
    for address in addresses:
        (mark,) = re.findall(r"^/static/v/(\w+)/", address)
        for other, kept in ((mark, True), ("0" * len(mark), False), (None, False)):
            asked = address.replace(f"v/{mark}/", f"v/{other}/" if other else "")
            with client.get(asked) as answer:
                assert answer.status_code == 200, asked
                assert ("immutable" in answer.headers["Cache-Control"]) is kept, asked


@pytest.mark.parametrize("path", ["css/nothing.css", "nothing", "../templates/base.html", "js/%2e%2e/%2e%2e/wsgi.py"])
def test_what_is_no_static_file_is_not_found(client: FlaskClient, path: str) -> None:
    for prefix in ("/static/", "/static/v/0/"):
        assert client.get(prefix + path).status_code == 404
