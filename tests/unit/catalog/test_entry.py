"""One entry of the cache: its facts, and the one reason that is reported if it cannot be loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.engine.models import BREAKABLE, INDEX, WEIGHTS, break_model, change_config, make_model, put_file
from webapp.catalog.entry import LoadPolicy, describe, find_entry
from webapp.domain.model import CachedModel, ModelProblem, ModelShape
from webapp.worker.demo import make_demo

STRICT = LoadPolicy()


def read(snapshot: Path, policy: LoadPolicy = STRICT) -> CachedModel:
    entry = find_entry(snapshot.parents[1])
    assert entry is not None
    return describe(entry, policy)


def code(model: CachedModel) -> str | None:
    return None if model.problem is None else model.problem.code


def test_a_good_model_has_all_its_facts(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, "owner/name", dtype="bfloat16", layers=2, vocab=512, context_length=640)

    model = read(snapshot)

    assert model.problem is None
    assert (model.id, model.revision, model.snapshot) == ("owner/name", snapshot.name, snapshot)
    assert (model.dtype, model.architecture, model.quantization) == ("bfloat16", "LlamaForCausalLM", None)
    assert (model.context_length, model.has_chat_template, model.is_demo) == (640, True, False)
    assert model.shape == ModelShape(2, 64, 128, 4, 2, 16, 512)
    layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128
    assert model.weights is not None
    assert model.weights.linear_elements == 2 * layer
    assert model.weights.linear_rows == 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64)
    assert model.parameters == model.weights.elements == 2 * layer + 2 * 512 * 64 + 5 * 64
    assert model.weights.bytes == 2 * model.parameters


def test_the_size_is_that_of_the_files_each_blob_once(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    blobs = sum(blob.stat().st_size for blob in (tmp_path / "models--tests--tiny-llama" / "blobs").iterdir())
    (snapshot / "original").mkdir()
    (snapshot / "original" / "copy.safetensors").symlink_to((snapshot / WEIGHTS).resolve())

    assert read(snapshot).size_bytes == blobs


def test_shards_are_summed_up(tmp_path: Path) -> None:
    whole, parts = make_model(tmp_path, "tests/whole"), make_model(tmp_path, "tests/parts", shards=3)

    assert read(parts).weights == read(whole).weights


def test_a_file_that_the_index_does_not_name_is_not_counted(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, shards=2)
    before = read(snapshot)
    put_file(snapshot, "consolidated.safetensors", b"not even safetensors")

    after = read(snapshot)

    assert after.problem is None
    assert after.weights == before.weights


def test_the_demo_model_is_known_by_its_marker(tmp_path: Path) -> None:
    model = read(Path(make_demo(tmp_path).snapshot))

    assert model.is_demo
    assert (model.problem, model.dtype, model.context_length, model.has_chat_template) == (None, "float16", 2048, True)


@pytest.mark.parametrize("how", BREAKABLE)
@pytest.mark.parametrize("shards", [1, 2])
def test_every_problem_is_named(tmp_path: Path, how: ModelProblem, shards: int) -> None:
    snapshot = make_model(tmp_path, shards=shards)

    break_model(snapshot, how)

    assert code(read(snapshot)) == how


def test_what_a_broken_model_still_states_is_shown(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    break_model(snapshot, ModelProblem.BROKEN_WEIGHTS)

    model = read(snapshot)

    assert model.problem is not None
    assert model.problem.params["file"] == WEIGHTS
    assert (model.architecture, model.dtype, model.weights, model.parameters) == (
        "LlamaForCausalLM",
        "float32",
        None,
        None,
    )


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, shards=3)
    (snapshot / "model-00002-of-00003.safetensors").unlink()

    problem = read(snapshot).problem

    assert problem is not None
    assert (problem.code, problem.params["missing"]) == (ModelProblem.INCOMPLETE, "model-00002-of-00003.safetensors")


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
def test_a_link_that_leads_nowhere_is_an_incomplete_model(tmp_path: Path, name: str) -> None:
    snapshot = make_model(tmp_path)
    (snapshot / name).resolve().unlink()

    problem = read(snapshot).problem

    assert problem is not None
    assert (problem.code, problem.params["missing"]) == (ModelProblem.INCOMPLETE, name)


def test_a_link_that_leads_nowhere_is_no_matter_where_nobody_needs_it(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    (snapshot / "README.md").symlink_to("nowhere")
    (snapshot / "LICENSE").symlink_to("LICENSE")

    assert read(snapshot).problem is None


def test_a_left_over_part_is_no_matter_when_everything_is_there(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    (snapshot.parents[1] / "blobs" / "0123.incomplete").write_bytes(b"part")

    assert read(snapshot).problem is None


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_download_under_way_is_incomplete_whatever_is_still_missing(tmp_path: Path, name: str) -> None:
    snapshot = make_model(tmp_path)
    (snapshot / name).unlink()
    (snapshot.parents[1] / "blobs" / "0123.incomplete").write_bytes(b"part")

    assert code(read(snapshot)) == ModelProblem.INCOMPLETE


def test_shards_without_their_index_are_incomplete(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, shards=2)
    (snapshot / INDEX).unlink()

    assert code(read(snapshot)) == ModelProblem.INCOMPLETE


def test_a_first_download_without_a_snapshot_is_listed(tmp_path: Path) -> None:
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0123.incomplete").write_bytes(b"part")

    entry = find_entry(blobs.parent)

    assert entry is not None
    model = describe(entry, STRICT)
    assert (model.id, model.revision, code(model)) == ("owner/name", "", ModelProblem.INCOMPLETE)


def test_a_folder_that_holds_nothing_is_no_model(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    (repository / ".no_exist").mkdir(parents=True)
    (tmp_path / "models--file").write_text("no folder")

    assert find_entry(repository) is None
    assert find_entry(tmp_path / "models--file") is None


@pytest.mark.parametrize(
    "content", ["", "nonsense", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}']
)
def test_a_broken_index_is_said(tmp_path: Path, content: str) -> None:
    snapshot = make_model(tmp_path, shards=2)
    put_file(snapshot, INDEX, content.encode())

    problem = read(snapshot).problem

    assert problem is not None
    assert (problem.code, problem.params["file"]) == (ModelProblem.BROKEN_WEIGHTS, INDEX)


def test_a_tensor_that_the_index_promises_must_be_there(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, shards=2)
    index = json.loads((snapshot / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    put_file(snapshot, INDEX, json.dumps(index).encode())

    assert code(read(snapshot)) == ModelProblem.BROKEN_WEIGHTS


@pytest.mark.parametrize("name", ["../../../secret.safetensors", "/etc/passwd", "a\0b"])
def test_an_index_cannot_lead_out_of_the_snapshot(tmp_path: Path, name: str) -> None:
    snapshot = make_model(tmp_path, shards=2)
    put_file(snapshot, INDEX, json.dumps({"weight_map": {"a": name}}).encode())

    assert code(read(snapshot)) == ModelProblem.INCOMPLETE


@pytest.mark.parametrize("revision", ["../../../..", "/", "..", "", "a/b", "x" * 300])
def test_a_reference_cannot_lead_out_of_the_repository(tmp_path: Path, revision: str) -> None:
    snapshot = make_model(tmp_path)
    (snapshot.parents[1] / "refs" / "main").write_text(revision)

    assert read(snapshot).revision == snapshot.name


def test_main_decides_the_revision(tmp_path: Path) -> None:
    old = make_model(tmp_path, seed=1)
    new = old.with_name("f" * 40)
    new.mkdir()

    assert read(old).revision == old.name
    (old.parents[1] / "refs" / "main").write_text(new.name)
    assert (read(old).revision, code(read(old))) == (new.name, ModelProblem.NO_CONFIG)


def test_without_main_the_newest_snapshot_counts(tmp_path: Path) -> None:
    new = make_model(tmp_path)
    old = new.with_name("a" * 40)
    old.mkdir()
    os.utime(old, (1, 1))
    (new.parents[1] / "refs" / "main").unlink()

    assert read(new).revision == new.name


def test_a_fifo_stops_nobody(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    (snapshot / "config.json").unlink()
    os.mkfifo(snapshot / "config.json")

    assert code(read(snapshot)) == ModelProblem.UNREADABLE


@pytest.mark.parametrize("content", [b"[" * 200_000, b"\xff\xfe", b"7", b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_config_of_any_kind_of_rubbish_is_broken(tmp_path: Path, content: bytes) -> None:
    snapshot = make_model(tmp_path)
    put_file(snapshot, "config.json", content)

    assert code(read(snapshot)) == ModelProblem.BROKEN_CONFIG


def test_what_the_settings_allow_is_no_problem(tmp_path: Path) -> None:
    pickled, foreign = make_model(tmp_path, "tests/pickled"), make_model(tmp_path, "tests/foreign")
    break_model(pickled, ModelProblem.PICKLE_ONLY)
    break_model(foreign, ModelProblem.REMOTE_CODE)

    assert read(pickled, LoadPolicy(allow_pickle=True)).problem is None
    assert read(foreign, LoadPolicy(allow_remote_code=True)).problem is None
    assert code(read(foreign, LoadPolicy(allow_pickle=True))) == ModelProblem.REMOTE_CODE


def test_a_tokenizer_that_is_code_needs_the_setting(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    (snapshot / "tokenizer.json").unlink()
    put_file(snapshot, "tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": ["tokenization_x.X", null]}}')

    assert code(read(snapshot)) == ModelProblem.REMOTE_CODE
    assert read(snapshot, LoadPolicy(allow_remote_code=True)).problem is None


def test_a_pipeline_of_images_is_no_language_model(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    (snapshot / "config.json").unlink()
    put_file(snapshot, "model_index.json", b'{"_class_name": "StableDiffusionPipeline"}')

    problem = read(snapshot).problem

    assert problem is not None
    assert (problem.code, problem.params["architecture"]) == (
        ModelProblem.NOT_A_LANGUAGE_MODEL,
        "StableDiffusionPipeline",
    )


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_may_have_a_file_of_its_own(tmp_path: Path, name: str) -> None:
    snapshot = make_model(tmp_path, chat_template=False)
    assert not read(snapshot).has_chat_template

    put_file(snapshot, name, b"{{ messages }}")

    assert read(snapshot).has_chat_template


def test_stored_quantization_is_named_and_nothing_is_left_to_convert(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    change_config(snapshot, quantization_config={"quant_method": "gptq", "bits": 4})

    model = read(snapshot)

    assert (model.quantization, model.problem) == ("gptq", None)
    assert model.weights is not None
    assert model.weights.linear_elements == 0


def test_names_are_only_data(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, "<img src=x>/'\"")
    change_config(snapshot, architectures=["<script>alert(1)</script>"])

    model = read(snapshot)

    assert model.id == "<img src=x>/'\""
    assert model.problem is not None
    assert model.problem.params["architecture"] == "<script>alert(1)</script>"


def test_a_name_that_is_no_text_can_still_be_sent(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, "owner/" + os.fsdecode(b"na\xffme"))
    put_file(snapshot, "config.json", json.dumps({"architectures": ["\ud800"]}).encode())

    model = read(snapshot)

    assert model.id == "owner/na\ufffdme"
    assert model.problem is not None
    for text in (model.id, str(model.problem.params["architecture"])):
        assert text.encode()


@pytest.mark.parametrize(
    "secret", ['{"id": "x", "token": "wdn_secret", "load": null}', "wdn_secret\n", '["wdn_secret"]']
)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json", "model.safetensors"]
)
def test_a_link_to_somebody_elses_file_shows_nothing_of_it(tmp_path: Path, name: str, secret: str) -> None:
    """Who may write to the cache may let it lead anywhere; the libraries' own files are such links, so they are
    followed.
    """
    (tmp_path / "secret").write_text(secret)
    snapshot = make_model(tmp_path / "cache", "lab/one")
    (snapshot / name).unlink(missing_ok=True)
    (snapshot / name).symlink_to(tmp_path / "secret")

    assert "wdn_secret" not in repr(read(snapshot))
