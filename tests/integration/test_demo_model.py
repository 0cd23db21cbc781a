"""The demo model and the tests' own models, held against transformers itself: they load, they answer, and the catalogue is right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.engine.models import make_big_model, make_model
from webapp.catalog import architectures
from webapp.catalog.scan import Catalog
from webapp.domain.model import CachedModel
from webapp.worker.demo import DEMO_ID

PATIENCE_S = 300

LOADER = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
answers = {}
for folder in sys.argv[1:]:
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Hello, мир!"
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": text}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    else:
        inputs = tokenizer(text, return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    linear = [m for name, m in model.named_modules() if type(m) is torch.nn.Linear and name != "lm_head"]
    answers[folder] = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "linear_elements": sum(m.weight.numel() for m in linear),
        "linear_rows": sum(m.out_features for m in linear),
        "context_length": model.config.max_position_embeddings,
        "new_tokens": made.shape[1] - inputs["input_ids"].shape[1],
        "round_trip": tokenizer.decode(tokenizer(text)["input_ids"]) == text,
        "has_chat_template": bool(tokenizer.chat_template),
        "trouble": [name for name, keys in info.items() if keys],
    }
print(json.dumps(answers))
"""

TABLES = """
import json
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
print(json.dumps(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)))
"""


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(*snapshots: Path) -> dict[str, Mapping[str, Any]]:
    """Load models in a process of its own, so that torch stays out of the tests' process."""
    answers: dict[str, Mapping[str, Any]] = json.loads(python("-c", LOADER, *map(str, snapshots)).splitlines()[-1])
    return answers


def stated(model: CachedModel) -> dict[str, object]:
    """What the catalogue says, in the loader's words."""
    assert model.weights is not None
    return {
        "dtype": model.dtype,
        "parameters": model.parameters,
        "bytes": model.weights.bytes,
        "linear_elements": model.weights.linear_elements,
        "linear_rows": model.weights.linear_rows,
        "context_length": model.context_length,
        "new_tokens": 4,
        "round_trip": True,
        "has_chat_template": model.has_chat_template,
        "trouble": [],
    }


def assert_the_catalogue_is_right(cache: Path) -> None:
    models = Catalog(cache).look().models
    assert [model.problem for model in models] == [None] * len(models)
    answers = load(*(model.snapshot for model in models))
    for model in models:
        assert (model.id, answers[str(model.snapshot)]) == (model.id, stated(model))


def test_the_program_makes_a_demo_model_that_loads_and_answers(tmp_path: Path) -> None:
    made = json.loads(python("-m", "webapp.worker.demo", "--cache", str(tmp_path / "cache")))

    assert (made["id"], made["created"]) == (DEMO_ID, True)
    (model,) = Catalog(tmp_path / "cache").look().models
    assert (model.id, model.revision, str(model.snapshot)) == (made["id"], made["revision"], made["snapshot"])
    assert model.is_demo
    assert 1_000_000 < model.size_bytes < 4_000_000
    assert_the_catalogue_is_right(tmp_path / "cache")


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    first = json.loads(python("-m", "webapp.worker.demo", "--cache", str(tmp_path)))
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    second = json.loads(python("-m", "webapp.worker.demo", "--cache", str(tmp_path)))

    assert second == first | {"created": False}
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_damaged_demo_model_is_made_again_and_nothing_is_left_behind(tmp_path: Path) -> None:
    made = json.loads(python("-m", "webapp.worker.demo", "--cache", str(tmp_path)))
    (Path(made["snapshot"]) / "model.safetensors").resolve().unlink()

    again = json.loads(python("-m", "webapp.worker.demo", "--cache", str(tmp_path)))

    assert again == made
    assert Catalog(tmp_path).look().models[0].problem is None
    assert [path.name for path in tmp_path.iterdir()] == ["models--warden--demo-tiny-random"]


def test_a_cache_that_cannot_be_written_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    done = subprocess.run(
        [sys.executable, "-m", "webapp.worker.demo", "--cache", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 1
    assert "file" in json.loads(done.stdout)["error"]
    assert done.stderr == ""


def test_the_program_imports_no_torch() -> None:
    program = "import sys, webapp.worker.demo; print('torch' in sys.modules)"

    assert python("-c", program).strip() == "False"


def test_models_of_every_family_load_as_the_catalogue_says(tmp_path: Path) -> None:
    for family in ("llama", "qwen2", "qwen3"):
        make_model(tmp_path, f"tests/{family}-plain", architecture=family, chat_template=False)
        make_model(tmp_path, f"tests/{family}-half", architecture=family, dtype="float16", shards=2)
        make_model(tmp_path, f"tests/{family}-tied", architecture=family, dtype="bfloat16", tie=True, vocab=1100)

    assert_the_catalogue_is_right(tmp_path)


@pytest.mark.slow
def test_the_big_model_loads_as_the_catalogue_says(tmp_path: Path) -> None:
    snapshot = make_big_model(tmp_path)

    assert 0.95e9 < (snapshot / "model.safetensors").stat().st_size < 1.05e9
    assert_the_catalogue_is_right(tmp_path)
    (snapshot / "model.safetensors").resolve().unlink()


def test_the_table_of_architectures_is_that_of_the_installed_transformers() -> None:
    installed = set(json.loads(python("-c", TABLES).splitlines()[-1]))

    assert installed == architectures.BUILT_IN
    assert installed >= architectures.TIED_BY_DEFAULT
