"""``warden estimate``: its JSON, its table, and its sentences where it cannot answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.engine.models import make_model
from webapp.cli.estimate import NOTES
from webapp.cli.main import main
from webapp.domain.footprint import Note

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
GIB = 2**30
PARTS = {"weights", "kv_cache", "activation", "graphs", "non_torch", "context"}


@pytest.fixture
def llama(tmp_path: Path) -> str:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    return str(folder)


def warden(*arguments: str, cache: Path | None = None) -> Result:
    env = {"WARDEN_HF_CACHE": str(cache or "/nowhere"), "WARDEN_CONFIG": "/nowhere/none.toml", "COLUMNS": "200"}
    return CliRunner().invoke(main, ["estimate", *arguments], env=env)


def document(*arguments: str, cache: Path | None = None) -> dict[str, Any]:
    result = warden(*arguments, "--json", cache=cache)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.output)
    return answer


def test_the_json_has_exactly_the_agreed_shape(llama: str) -> None:
    answer = document(llama, "--mode", "vllm", "--max-tokens", "8192", "--batch", "2", "--devices", "2")
    assert set(answer) == {"per_device", "total_bytes", "confidence", "notes"}
    assert len(answer["per_device"]) == 2
    for device in answer["per_device"]:
        assert set(device) == {"parts", "run_peak_bytes", "load_peak_bytes"}
        assert set(device["parts"]) == PARTS
        assert sum(device["parts"].values()) == device["run_peak_bytes"]
    assert answer["total_bytes"] == sum(device["run_peak_bytes"] for device in answer["per_device"])
    assert answer["confidence"] in ("high", "medium", "low")


def test_transformers_mode_takes_the_prompt_in_at_once(llama: str) -> None:
    arguments = (llama, "--mode", "transformers", "--max-tokens", "4096", "--batch", "1")
    (whole,) = document(*arguments)["per_device"]
    assert whole["parts"]["kv_cache"] == 4096 * 131072
    assert whole["parts"]["activation"] == 4096 * 2 * (3 * 14336 + 4 * 4096) + round(0.035 * GIB)
    (short,) = document(*arguments, "--prompt-tokens", "16")["per_device"]
    assert short["run_peak_bytes"] < whole["run_peak_bytes"]
    assert short["parts"]["kv_cache"] == whole["parts"]["kv_cache"]


def test_the_published_vllm_run_is_met(llama: str) -> None:
    (device,) = document(
        llama, "--mode", "vllm", "--max-tokens", "8192", "--batch", "1", "--device-memory", "79.19", "--vllm-version", "0.19.0"
    )["per_device"]  # fmt: skip
    parts = device["parts"]
    assert parts["weights"] / GIB == pytest.approx(14.99, rel=0.01)
    assert parts["activation"] / GIB == pytest.approx(1.89, abs=0.2)
    pool = 0.95 * 79.19 * GIB - parts["weights"] - parts["activation"] - parts["non_torch"]
    assert pool / 131072 == pytest.approx(476016, rel=0.02)


def test_warden_starts_vllm_for_the_batch_alone_which_takes_less(llama: str) -> None:
    arguments = (llama, "--mode", "vllm", "--batch", "4", "--device-memory", "24")
    by_default, ours = document(*arguments), document(*arguments, "--max-num-seqs", "4")
    assert ours["total_bytes"] < by_default["total_bytes"]
    assert any("--max-num-seqs 4" in note for note in by_default["notes"])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--dtype", "fp32"), ("--quantization", "int8"), ("--quantization", "nf4"), ("--dtype", "BF16")],
)
def test_other_names_of_a_precision_are_understood(llama: str, option: str, value: str) -> None:
    assert document(llama, option, value)["total_bytes"] > 0


def test_a_cached_model_is_found_by_its_name(tmp_path: Path) -> None:
    make_model(tmp_path, "owner/name")
    answer = document("owner/name", cache=tmp_path)
    assert answer["confidence"] == "high"
    assert document("owner/name", "--cpu", cache=tmp_path)["total_bytes"] < answer["total_bytes"]


def test_the_table_names_source_and_confidence_of_every_part(llama: str) -> None:
    result = warden(llama, "--mode", "vllm", "--device-memory", "24")
    assert result.exit_code == 0
    rows = {line.split("│")[1].strip(): line for line in result.output.splitlines() if line.startswith("│")}
    assert set(rows) >= PARTS | {"at its peak", "while it loads"}
    assert "14.99 GiB" in rows["weights"]
    assert "medium" in rows["graphs"]
    assert "follow from the sizes in config.json" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nobody/nothing",), "neither a folder nor a model in the cache"),
        (("no/such/folder",), "neither a folder nor a model in the cache"),
        (("{llama}", "--dtype", "int3"), "Give one of: auto, float16, bfloat16, float32"),
        (("{llama}", "--quantization", "magic"), "none, int8, int4, fp8"),
        (("{llama}", "--device-memory", "nan"), "no GPU's memory"),
        (("{llama}", "--device-memory", "-3"), "no GPU's memory"),
        (("{llama}", "--vllm-version", "newest"), "is no version"),
        (("{llama}", "--prompt-tokens", "9", "--max-tokens", "8"), "counts prompt and output together"),
        (("{llama}", "--max-tokens", "0"), "0 is not in the range"),
        (("{llama}", "--devices", "0"), "0 is not in the range"),
        (("{llama}", "--mode", "onnx"), "is not one of"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_sentence(
    llama: str, arguments: tuple[str, ...], sentence: str
) -> None:
    result = warden(*(llama if each == "{llama}" else each for each in arguments))
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_a_broken_folder_says_which_file_and_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    result = warden(str(tmp_path))
    assert result.exit_code == 2
    assert "config.json" in result.output
    assert "headers are enough" in result.output


def test_an_unknown_architecture_is_estimated_with_low_confidence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "model_type": "never_seen"}), encoding="utf-8")
    answer = document(str(tmp_path), "--mode", "transformers")
    assert answer["confidence"] == "low"
    assert NOTES[Note.UNKNOWN_ARCHITECTURE] in answer["notes"]
    assert all(value > 0 for value in (answer["total_bytes"], answer["per_device"][0]["parts"]["kv_cache"]))


def test_every_note_has_a_sentence() -> None:
    assert set(NOTES) == set(Note)


@pytest.mark.parametrize("method", [None, "fp8", "gptq", "mxfp4"])
def test_two_gpus_halve_the_weights_whatever_the_files_form(tmp_path: Path, method: str | None) -> None:
    config = {**LLAMA, "num_local_experts": 8, "num_experts_per_tok": 2}
    stored = config if method is None else {**config, "quantization_config": {"quant_method": method, "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(stored), encoding="utf-8")
    one, two = (
        document(str(tmp_path), "--mode", "vllm", "--devices", count)["per_device"][0]["parts"]["weights"]
        for count in ("1", "2")
    )
    assert two == pytest.approx(one / 2, rel=0.01)
