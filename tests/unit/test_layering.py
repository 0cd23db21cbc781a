"""Imports point one way, and the web process never takes in what a model needs.

::

gunicorn_conf, cli -> services -> web -> control -> (runtimes.base, hardware.monitor, catalog, store) -> domain ->
errors
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROUND = frozenset({"webapp.errors", "webapp.folders", "webapp.message", "webapp.rounds"})
TEXTS = frozenset({"webapp.error_texts", "webapp.texts"})
DOMAIN = GROUND | {"webapp.domain"}
CONTROL = DOMAIN | {
    "webapp.settings",
    "webapp.runtimes.base",
    "webapp.runtimes.chat",
    "webapp.hardware.monitor",
    "webapp.catalog",
    "webapp.store",
}

ALLOWED = {
    "webapp.message": frozenset[str](),
    "webapp.folders": frozenset[str](),
    "webapp.rounds": frozenset[str](),
    "webapp.texts": frozenset[str](),
    "webapp.error_texts": frozenset({"webapp.message", "webapp.texts"}),
    "webapp.errors": frozenset({"webapp.message"}),
    "webapp.schema": GROUND | {"webapp.schema"},
    "webapp.domain": DOMAIN,
    "webapp.settings": DOMAIN,
    "webapp.console": GROUND | TEXTS,
    "webapp.store": DOMAIN | {"webapp.settings", "webapp.store"},
    "webapp.catalog": DOMAIN | {"webapp.settings", "webapp.catalog"},
    "webapp.hardware": DOMAIN | {"webapp.settings", "webapp.hardware"},
    "webapp.runtimes.protocol": frozenset[str](),
    "webapp.runtimes": DOMAIN | {"webapp.settings", "webapp.runtimes"},
    "webapp.worker": frozenset(
        {"webapp.domain.layers", "webapp.hardware.shared_pages", "webapp.runtimes.protocol", "webapp.worker"}
    ),
    "webapp.audit": DOMAIN | {"webapp.audit"},
    "webapp.auth": DOMAIN | {"webapp.store.people", "webapp.auth"},
    "webapp.control": CONTROL | {"webapp.audit", "webapp.control"},
    "webapp.server": frozenset[str](),
    "webapp.server.incoming": frozenset[str](),
    "webapp.server.outgoing": frozenset[str](),
    "webapp.server.worker": frozenset({"webapp.server.incoming", "webapp.server.outgoing"}),
    "webapp.web": DOMAIN
    | TEXTS
    | {"webapp", "webapp.schema", "webapp.settings", "webapp.audit", "webapp.auth", "webapp.control"}
    | {"webapp.server.incoming", "webapp.web"},
    "webapp.services": CONTROL
    | {"webapp.audit", "webapp.auth", "webapp.control", "webapp.runtimes", "webapp.hardware", "webapp.console"},
    "webapp.server.gunicorn_conf": DOMAIN | {"webapp.settings", "webapp.console"},
    "webapp.cli.estimate": DOMAIN | {"webapp.settings", "webapp.catalog"},
    "webapp.cli": frozenset[str](),
    "webapp.cli.__main__": frozenset({"webapp.cli.main"}),
    "webapp.cli.client": frozenset({"webapp.cli", "webapp.schema"}),
    "webapp.cli.main": DOMAIN
    | {"webapp", "webapp.settings", "webapp.console", "webapp.schema", "webapp.services", "webapp.cli"},
    "webapp.cli.people": DOMAIN | {"webapp.settings", "webapp.console", "webapp.services", "webapp.auth.accounts"},
    "webapp": DOMAIN | {"webapp.settings", "webapp.services", "webapp.web"},
    "webapp.wsgi": frozenset({"webapp"}),
    "wsgi": frozenset({"webapp.wsgi"}),
}
"""What a module, or a package with all in it, may import of Warden; the longest name that fits a module counts."""

OWNERS = {
    "pynvml": ("webapp.hardware.nvml",),
    "docker": ("webapp.runtimes.vllm.docker",),
    "sqlalchemy": ("webapp.store",),
    "alembic": ("webapp.store",),
    "torch": ("webapp.worker",),
    "transformers": ("webapp.worker",),
    "bitsandbytes": ("webapp.worker",),
    "accelerate": ("webapp.worker",),
    "safetensors": ("webapp.worker", "webapp.catalog"),
    "tokenizers": ("webapp.worker", "webapp.catalog"),
    "gunicorn": ("webapp.server.gunicorn_conf", "webapp.server.worker"),
    "flask": ("webapp.web", "webapp"),
    "argon2": ("webapp.auth.passwords",),
}
"""Libraries with one place each; everybody else asks that place."""


def sources() -> dict[str, Path]:
    """Every module of the program by its name."""
    paths = [*sorted((ROOT / "webapp").rglob("*.py")), ROOT / "wsgi.py"]
    return {name_of(path): path for path in paths if path.exists()}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str, path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, also inside functions."""
    yield from imports_in(name, path, ast.parse(path.read_text(encoding="utf-8")))


def imports_in(name: str, path: Path, tree: ast.Module) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from from_import(node, package)


def from_import(node: ast.ImportFrom, package: str) -> Iterator[str]:
    """What ``from X import a, b`` imports: ``X.a`` where that is a module, else ``X``."""
    base = node.module or ""
    if node.level:
        parents = package.split(".")
        base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
    for alias in node.names:
        full = f"{base}.{alias.name}"
        yield full if full in MODULES else base


def within(module: str, names: Iterable[str]) -> bool:
    """Return whether ``module`` is one of ``names`` or inside one; ``webapp`` itself means only itself."""
    return any(module == name or (name != "webapp" and module.startswith(f"{name}.")) for name in names)


def rule_for(module: str) -> frozenset[str]:
    fitting = [name for name in ALLOWED if within(module, (name,))]
    assert fitting, f"{module} has no place in the layers: say in ALLOWED what it may import"
    return ALLOWED[max(fitting, key=len)]


MODULES = sources()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    ours = {name for name in imports(module, MODULES[module]) if name.split(".")[0] in ("webapp", "wsgi")}

    assert sorted(name for name in ours if not within(name, rule_for(module))) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_library_with_an_owner_is_imported_by_nobody_else(module: str) -> None:
    used = {name.split(".")[0] for name in imports(module, MODULES[module])}

    assert [library for library in sorted(used & OWNERS.keys()) if not within(module, OWNERS[library])] == []


def test_nobody_imports_the_worker() -> None:
    importers = {
        module
        for module, path in MODULES.items()
        if not within(module, ("webapp.worker",))
        and any(within(name, ("webapp.worker",)) for name in imports(module, path))
    }

    assert importers == set()


@pytest.mark.parametrize(
    "module", ["webapp.hardware", "webapp.runtimes", "webapp.control", "webapp.catalog", "webapp.store"]
)
def test_only_the_services_name_concrete_parts(module: str) -> None:
    """The controller and the page see seams; one place names the class behind each."""
    concrete = ("webapp.runtimes.transformers", "webapp.runtimes.vllm", "webapp.hardware.nvml", "webapp.hardware.host")
    importers = {
        name
        for name, path in MODULES.items()
        if not within(name, ("webapp.services", "webapp.runtimes", "webapp.hardware"))
        and any(within(one, concrete) for one in imports(name, path))
    }

    assert importers == set()


ASKED_BY_VIEWS = (
    "webapp.web.ports",
    "webapp.control.controller",
    "webapp.control.recorder",
    "webapp.services",
    "webapp.store",
    "flask",
    "time",
)
PRESENTERS = [name for name in MODULES if {"presenter", "presenters", "phrases"} & set(name.split("."))]


@pytest.mark.parametrize("module", PRESENTERS)
def test_a_presenter_is_a_function_of_values_and_asks_nobody(module: str) -> None:
    """Views fetch the snapshot, the plan, the history and the time; a presenter only puts them into words."""
    assert sorted(name for name in imports(module, MODULES[module]) if within(name, ASKED_BY_VIEWS)) == []


def test_no_modules_of_the_web_import_each_other_in_a_circle() -> None:
    web = {name: path for name, path in MODULES.items() if within(name, ("webapp.web",))}

    TopologicalSorter({name: web.keys() & set(imports(name, path)) for name, path in web.items()}).prepare()


def test_the_page_and_the_json_interface_are_made_apart() -> None:
    """Both put values into a form of their own; only the application knows both."""
    api = {name for name in MODULES if within(name, ("webapp.web.api",))}
    page = {name for name in MODULES if within(name, ("webapp.web",))} - api - {"webapp.web.application"}

    assert {name for name in page if any(within(one, api) for one in imports(name, MODULES[name]))} == set()
    assert not {one for name in api for one in imports(name, MODULES[name])} & set(PRESENTERS) - {"webapp.web.phrases"}


def test_presenters_are_found_by_their_names() -> None:
    assert PRESENTERS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import webapp.worker", ["webapp.worker"]),
        ("def late():\n    from webapp.domain import units", ["webapp.domain.units"]),
        ("from webapp.errors import Busy", ["webapp.errors"]),
        ("from . import units", ["webapp.domain.units"]),
        ("from ..errors import Busy", ["webapp.errors"]),
    ],
)
def test_the_walk_sees_every_form_of_an_import(text: str, found: list[str], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text, encoding="utf-8")

    assert list(imports("webapp.domain.module", path)) == found


def imports_of_module(name: str, path: Path) -> Iterator[str]:
    """What a module imports before it is ready, and what only the type checker imports in it: no function's imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]:
        function.body = []
    yield from imports_in(name, path, tree)


def test_no_modules_import_each_other() -> None:
    """Also within a package, and for the type checker alone: who reads one module would have to read them all at once."""
    order = TopologicalSorter(
        {name: {each for each in imports_of_module(name, path) if each in MODULES} for name, path in MODULES.items()}
    )

    order.prepare()  # CycleError names one


def test_no_class_name_is_used_twice() -> None:
    """A leading underscore makes no other name: a reader meets both in the same traceback."""
    places = [
        (node.name.lstrip("_"), module)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    names = Counter(name for name, _ in places)

    assert [(name, module) for name, module in sorted(places) if names[name] > 1] == []


NEVER_IN_THE_WEB_PROCESS = ("torch", "transformers", "bitsandbytes", "accelerate", "tokenizers", "webapp.worker")


def test_the_web_process_never_imports_torch(tmp_path: Path) -> None:
    """All that the server imports, in an interpreter of its own: gunicorn's configuration, the application, the
    services.
    """
    wanted = [
        name
        for name in ("webapp", "webapp.server.gunicorn_conf", "webapp.services", "webapp.web", "wsgi")
        if name in MODULES
    ]
    program = f"""
import importlib, sys
for name in {wanted!r}:
    importlib.import_module(name)
print(*(name for name in {NEVER_IN_THE_WEB_PROCESS!r} if name in sys.modules))
"""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "WARDEN_STATE_DIR": str(tmp_path / "state")}

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
