"""The list of models: read again where something changed, and only there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.models import BREAKABLE, WEIGHTS, break_model, change_config, make_model, put_file, remove_model
from webapp.catalog.entry import CacheEntry, LoadPolicy, describe
from webapp.catalog.scan import Catalog, CatalogView
from webapp.domain.model import CachedModel, ModelProblem
from webapp.message import Message
from webapp.worker.demo import DEMO_ID, make_demo

LONG_S = 3600.0
MANY, SHARDS = 70, 16
TURNS = 3
"""So many looks go over the weights of all of them, some 500 files each."""


def a_minute_later() -> float:
    """A clock for which every file is old, so nothing is read twice only for being new."""
    return time.time() + 60


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A catalogue that looks only when it is told to."""
    catalog = Catalog(tmp_path, poll_s=LONG_S, clock=a_minute_later)
    yield catalog
    catalog.stop()


def seen(catalog: Catalog) -> CatalogView:
    """What the thread sees when it is asked to look."""
    assert catalog.rescan(10)
    return catalog.latest()


def make_sharded_models(cache: Path, count: int) -> list[Path]:
    """A real model in shards, and copies of it under other names, in their order."""
    first = make_model(cache, "tests/model-000", shards=SHARDS)
    repository = first.parents[1]
    copies = [cache / f"models--tests--model-{number:03d}" for number in range(1, count)]
    for copy in copies:
        shutil.copytree(repository, copy, symlinks=True)
    return [first, *(copy / "snapshots" / first.name for copy in copies)]


def ids(view: CatalogView) -> list[str]:
    return [model.id for model in view.models]


def test_before_the_first_look_nothing_is_known(catalog: Catalog) -> None:
    assert catalog.latest() == CatalogView((), None, None)


def test_models_are_sorted_and_other_folders_passed_over(tmp_path: Path, catalog: Catalog) -> None:
    make_model(tmp_path, "tests/b")
    make_model(tmp_path, "tests/a")
    (tmp_path / "datasets--owner--name" / "snapshots" / "x").mkdir(parents=True)
    (tmp_path / ".locks").mkdir()
    (tmp_path / "version.txt").write_text("1")

    view = catalog.look()

    assert ids(view) == ["tests/a", "tests/b"]
    assert view.scanned_at is not None
    assert catalog.latest() is view


@pytest.mark.parametrize("folder", ["", "missing"])
def test_an_empty_or_missing_cache_is_no_problem(tmp_path: Path, folder: str) -> None:
    view = Catalog(tmp_path / folder).look()

    assert (view.models, view.problem) == ((), None)


def test_a_cache_that_cannot_be_read_is_a_problem_until_it_can(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file where a folder should be")
    catalog = Catalog(cache)

    problem = catalog.look().problem
    assert problem is not None
    assert (problem.code, problem.params["path"]) == ("cache_unreadable", str(cache))
    cache.unlink()
    make_model(cache)
    assert (catalog.look().problem, ids(catalog.latest())) == (None, ["tests/tiny-llama"])


def test_one_folder_that_cannot_be_read_hides_no_other(tmp_path: Path, catalog: Catalog) -> None:
    make_model(tmp_path, "tests/good")
    (tmp_path / "models--tests--loop").symlink_to("models--tests--loop")

    good, loop = catalog.look().models

    assert (good.id, good.problem) == ("tests/good", None)
    assert loop.problem is not None
    assert loop.problem.code == ModelProblem.UNREADABLE


def test_a_defect_at_one_entry_is_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails_at_one(entry: CacheEntry, policy: LoadPolicy) -> CachedModel:
        if entry.id == "tests/odd":
            raise TypeError("unhashable type: 'list'")
        return describe(entry, policy)

    for name in ("tests/good", "tests/odd"):
        make_model(tmp_path, name)
    catalog = Catalog(tmp_path, clock=lambda: time.time() + 60, describe=fails_at_one)

    view = catalog.look()
    again = catalog.look()

    good, odd = view.models
    assert (view.problem, good.problem) == (None, None)
    assert odd.problem == Message(
        ModelProblem.MISREAD.value, {"model": "tests/odd", "detail": "TypeError: unhashable type: 'list'"}
    )
    assert again.models[1] is odd
    assert caplog.text.count("tests--odd could not be read") == 1


def test_what_did_not_change_is_not_read_again(tmp_path: Path, catalog: Catalog) -> None:
    make_model(tmp_path, "tests/kept")
    changed = make_model(tmp_path, "tests/changed")
    before = catalog.look()

    again = catalog.look()
    assert again.models == before.models
    change_config(changed, max_position_embeddings=7)
    after = catalog.look()

    assert after.models[1] is before.models[1]
    assert after.models[0].context_length == 7


def test_a_file_that_changed_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    make_model(tmp_path)

    first, second = catalog.look(), catalog.look()

    assert first.models[0] is not second.models[0]
    assert first.models == second.models


def test_weights_changed_in_their_place_are_seen_within_the_turns(tmp_path: Path, catalog: Catalog) -> None:
    snapshots = make_sharded_models(tmp_path, MANY)
    assert all(model.problem is None for model in catalog.look().models)
    for snapshot in snapshots:
        break_model(snapshot, ModelProblem.BROKEN_WEIGHTS)

    broken = [sum(model.problem is not None for model in catalog.look(in_turns=True).models) for _ in range(TURNS)]

    assert 0 < broken[0] < MANY
    assert broken[-1] == MANY


def test_a_look_at_everything_sees_weights_changed_in_their_place_at_once(tmp_path: Path, catalog: Catalog) -> None:
    snapshots = make_sharded_models(tmp_path, MANY)
    catalog.start()
    seen(catalog)
    for snapshot in snapshots:
        break_model(snapshot, ModelProblem.BROKEN_WEIGHTS)

    assert all(model.problem is not None for model in seen(catalog).models)


def test_what_shows_in_a_folder_or_a_small_file_waits_for_no_turn(tmp_path: Path, catalog: Catalog) -> None:
    kinds = [kind for kind in BREAKABLE if kind is not ModelProblem.BROKEN_WEIGHTS]
    snapshots = make_sharded_models(tmp_path, MANY)
    catalog.look()
    for snapshot, how in zip(snapshots, kinds, strict=False):
        break_model(snapshot, how)

    problems = [model.problem for model in catalog.look(in_turns=True).models]

    assert [problem and problem.code for problem in problems] == kinds + [None] * (MANY - len(kinds))


def test_a_copy_that_grows_in_its_place_is_whole_at_the_next_look(tmp_path: Path, catalog: Catalog) -> None:
    """Unlike a download, a copy writes under the last name; what is not whole is asked for at every look."""
    snapshots = make_sharded_models(tmp_path, MANY)
    for snapshot in snapshots:
        break_model(snapshot, ModelProblem.BROKEN_WEIGHTS)
    assert all(model.problem is not None for model in catalog.look().models)

    for snapshot in snapshots:
        with sorted(snapshot.glob("*.safetensors"))[-1].open("ab") as file:
            file.write(b"\0")

    assert all(model.problem is None for model in catalog.look(in_turns=True).models)


def test_a_config_edited_in_its_place_is_seen_at_the_next_look(tmp_path: Path, catalog: Catalog) -> None:
    snapshots = make_sharded_models(tmp_path, MANY)
    catalog.look()
    for snapshot in snapshots:
        config = snapshot / "config.json"
        config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 77'))

    assert {model.context_length for model in catalog.look(in_turns=True).models} == {77}


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_link_that_is_turned_to_another_blob_is_seen(tmp_path: Path, catalog: Catalog, name: str) -> None:
    snapshot = make_model(tmp_path)
    catalog.look()

    put_file(snapshot, name, b"nothing of use")

    assert catalog.look().models[0].problem is not None


@pytest.mark.parametrize("folder", ["blobs", "snapshots"])
def test_a_folder_that_is_a_link_is_watched_like_any_other(tmp_path: Path, catalog: Catalog, folder: str) -> None:
    cache = tmp_path / "elsewhere"
    snapshot = make_model(tmp_path)
    repository = snapshot.parents[1]
    catalog.look()
    cache.mkdir()
    (repository / folder).rename(cache / folder)
    (repository / folder).symlink_to(cache / folder)
    (moved,) = catalog.look().models
    assert (moved.problem is None) == (folder == "blobs")

    if folder == "snapshots":
        (cache / "blobs").symlink_to(repository / "blobs")
        assert catalog.look().models[0].problem is None
    break_model(snapshot, ModelProblem.BROKEN_WEIGHTS)
    assert catalog.look().models[0].problem is not None


def test_files_that_are_no_links_are_watched_where_they_are(tmp_path: Path, catalog: Catalog) -> None:
    snapshot = make_model(tmp_path)
    for link in list(snapshot.iterdir()):
        content = link.read_bytes()
        link.unlink()
        link.write_bytes(content)
    assert catalog.look().models[0].problem is None

    break_model(snapshot, ModelProblem.BROKEN_WEIGHTS)

    assert catalog.look().models[0].problem is not None


@pytest.mark.parametrize("how", BREAKABLE)
def test_a_model_that_breaks_and_heals_is_seen(tmp_path: Path, catalog: Catalog, how: ModelProblem) -> None:
    snapshot = make_model(tmp_path)
    assert catalog.look().models[0].problem is None

    break_model(snapshot, how)
    problem = catalog.look().models[0].problem
    assert problem is not None
    assert problem.code == how
    remove_model(tmp_path, "tests/tiny-llama")
    assert catalog.look().models == ()
    make_model(tmp_path)
    assert catalog.look().models[0].problem is None


def test_a_new_revision_takes_the_place_of_the_old(tmp_path: Path, catalog: Catalog) -> None:
    old = make_model(tmp_path)
    catalog.look()
    new = old.with_name("b" * 40)
    old.rename(new)
    (old.parents[1] / "refs" / "main").write_text(new.name)

    (model,) = catalog.look().models

    assert (model.revision, model.problem) == (new.name, None)


def test_a_download_that_ends_makes_the_model_whole(tmp_path: Path, catalog: Catalog) -> None:
    snapshot = make_model(tmp_path)
    content = (snapshot / WEIGHTS).read_bytes()
    break_model(snapshot, ModelProblem.INCOMPLETE)
    assert catalog.look().models[0].problem is not None

    put_file(snapshot, WEIGHTS, content)

    assert catalog.look().models[0].problem is None


def test_settings_allow_pickles(tmp_path: Path) -> None:
    break_model(make_model(tmp_path), ModelProblem.PICKLE_ONLY)

    (model,) = Catalog(tmp_path, allow_pickle=True).look().models

    assert (model.problem, model.parameters, model.dtype) == (None, None, "float32")


def test_the_thread_looks_by_itself(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, poll_s=0.01)
    catalog.start()
    try:
        seen(catalog)
        make_model(tmp_path)
        deadline = time.monotonic() + 10
        while not catalog.latest().models and time.monotonic() < deadline:
            catalog.rescan(0)
    finally:
        catalog.stop()

    assert ids(catalog.latest()) == ["tests/tiny-llama"]


def test_a_rescan_sees_what_was_there_when_it_was_asked_for(tmp_path: Path, catalog: Catalog) -> None:
    catalog.start()
    seen(catalog)

    make_demo(tmp_path)

    assert ids(seen(catalog)) == [DEMO_ID]


def test_a_rescan_without_a_thread_ends_at_its_deadline(catalog: Catalog) -> None:
    assert not catalog.rescan(0)
    assert catalog.latest().scanned_at is None


def test_starting_and_stopping_may_be_repeated(tmp_path: Path, catalog: Catalog) -> None:
    for _ in range(2):
        catalog.start()
        catalog.start()
        assert seen(catalog).scanned_at is not None
        catalog.stop()
        catalog.stop()


def test_a_surprise_in_the_thread_is_shown_and_the_last_list_kept(tmp_path: Path) -> None:
    class Surprise(Exception):
        pass

    def clock() -> float:
        if len(failures) == 1:
            failures.append(1)
            raise Surprise("no time")
        return time.time()

    failures: list[int] = []
    make_model(tmp_path)
    catalog = Catalog(tmp_path, poll_s=LONG_S, clock=clock)
    catalog.start()
    try:
        assert seen(catalog).problem is None
        failures.append(1)
        view = seen(catalog)
        assert view.problem is not None
        assert "no time" in str(view.problem.params["detail"])
        assert ids(view) == ["tests/tiny-llama"]
        assert seen(catalog).problem is None
    finally:
        catalog.stop()


def test_snapshots_that_main_does_not_name_are_known_and_noticed_when_they_go(tmp_path: Path, catalog: Catalog) -> None:
    snapshot = make_model(tmp_path, "tests/one")
    older = snapshot.with_name("b" * 40)
    shutil.copytree(snapshot, older, symlinks=True)
    (found,) = catalog.look().models
    assert (found.revision, found.revisions) == (snapshot.name, frozenset({older.name}))
    shutil.rmtree(older)
    (found,) = catalog.look().models
    assert found.revisions == frozenset()
