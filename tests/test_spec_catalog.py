"""Names: file names, aliases, paths, and what is said when a name is unknown or means two things."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from apexsim.errors import InputError, UsageError
from apexsim.search.schemas import all_schemas
from apexsim.spec import catalog
from apexsim.spec.base import load_yaml
from apexsim.spec.files import write_atomically
from apexsim.spec.schema import schemas
from tests.house import ROOT

REQUIRED = """
    Llama-2-7B Llama-2-70B Llama-3.1-8B Llama-3.1-70B Llama-3.1-405B Llama-3.3-70B Qwen2.5-7B Qwen3-8B Qwen3-14B
    Qwen3-32B Qwen3-30B-A3B Qwen3-235B-A22B Mixtral-8x7B Mixtral-8x22B Mistral-7B Mistral-Nemo CodeLlama-34B
    Yi-34B Gemma-3-27B gpt-oss-20b gpt-oss-120b DeepSeek-V3 Kimi-K2
"""


def test_the_promised_models_are_there() -> None:
    assert set(REQUIRED.split()) <= set(catalog.model_names())


@pytest.mark.parametrize("name", catalog.model_names())
def test_every_model_loads_by_its_name_and_aliases(name: str) -> None:
    model = catalog.model(name)
    assert model.name == name
    assert model.source.startswith("https://")
    assert model.aliases
    for alias in model.aliases:
        assert catalog.model(alias) == catalog.model(alias.upper()) == model


@pytest.mark.parametrize(
    ("text", "name", "weights"),
    [
        ("llama-3.1-70b", "Llama-3.1-70B", "bf16"),
        ("meta-llama/Meta-Llama-3.1-70B", "Llama-3.1-70B", "bf16"),
        ("Llama-3.1-70B-Instruct", "Llama-3.1-70B", "bf16"),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "Llama-3.1-70B-Instruct-FP8", "fp8"),
        ("Qwen/Qwen3-235B-A22B-FP8", "Qwen3-235B-A22B-FP8", "fp8-block"),
        ("deepseek-ai/DeepSeek-R1", "DeepSeek-V3", "fp8-block"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "mxfp4"),
        ("meta-llama/Llama-2-7b-hf", "Llama-2-7B", "fp16"),
    ],
)
def test_names_and_aliases(text: str, name: str, weights: str) -> None:
    model = catalog.model(text)
    assert (model.name, model.checkpoint_dtype) == (name, weights)


def test_a_quantised_alias_may_leave_parts_alone() -> None:
    """Meta quantised only the feed-forward blocks of its 405B."""
    model = catalog.model("meta-llama/Llama-3.1-405B-Instruct-FP8")
    assert (model.quantization, set(model.unquantized)) == ("fp8", {"attention", "lm_head"})


def test_no_two_models_share_a_name() -> None:
    doubled = {text: sorted(entries) for text, entries in catalog._model_index().items() if len(entries) > 1}
    assert doubled == {}


def test_a_path_to_a_config_or_its_folder(tmp_path: Path) -> None:
    config = load_yaml(catalog.data_root() / "model_specs" / "Qwen3-8B.json")
    folder = tmp_path / "my-qwen"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    by_folder, by_file = catalog.model(folder), catalog.model(folder / "config.json")
    assert by_folder == by_file
    assert (by_folder.name, by_folder.groups) == ("my-qwen", catalog.model("Qwen3-8B").groups)


def test_a_name_that_is_also_a_path_is_ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_yaml(catalog.data_root() / "model_specs" / "Qwen3-8B.json")
    folder = tmp_path / "Qwen" / "Qwen3-8B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"ambiguous: Qwen3-8B, \./Qwen/Qwen3-8B"):
        catalog.model("Qwen/Qwen3-8B")
    assert catalog.model("./Qwen/Qwen3-8B").groups == catalog.model("Qwen3-8B").groups


@pytest.mark.parametrize(
    ("text", "says"), [("Lama-3.1-70B", "did you mean 'Llama-3.1-70B'?"), ("", "unknown model ''")]
)
def test_an_unknown_model_is_a_usage_error(text: str, says: str) -> None:
    with pytest.raises(UsageError, match="unknown model") as error:
        catalog.model(text)
    assert says in str(error.value)


def test_a_missing_config_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no such file"):
        catalog.model("nowhere/config.json")


@pytest.mark.parametrize("text", ["h100", "", "../h100-sxm", "h100-sxm/kernels"])
def test_an_unknown_device_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        catalog.device(text)


def test_device_names_ignore_case() -> None:
    assert catalog.device("H100-SXM") is catalog.device("h100-sxm")


def test_an_slo_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    file.write_text("limits: [{metric: ttft, seconds: 2.0}]\ntarget: 0.95\n")
    assert catalog.slo(str(file)) == catalog.slo("ttft=2s@0.95")


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    write_atomically(target, "first")
    write_atomically(target, b"second")
    assert target.read_bytes() == b"second"
    assert os.listdir(target.parent) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_output_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "result.json", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomically(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_an_unknown_model_lists_short_names_and_still_hints_at_long_ones() -> None:
    with pytest.raises(UsageError) as caught:
        catalog.model("Qwen/Qwen3-32B-FP9")
    hint, _, known = str(caught.value).partition("(known: ")
    assert "did you mean 'qwen/qwen3-32b-fp8'?" in hint
    assert "/" not in known
    assert known.startswith(", ".join(catalog.model_names()[:3]))


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", "first")
    write_atomically(tmp_path / "link", "second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "second"
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomically(tmp_path / "a", "x")


def test_what_is_no_regular_file_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_device_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/full")
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        write_atomically(tmp_path / "link", "x" * 10)
    assert Path("/dev/full").is_char_device()


def test_every_field_of_every_schema_is_described() -> None:
    for name, schema in all_schemas().items():
        for title, part in {name: schema, **schema.get("$defs", {})}.items():
            bodies = [part, *part.get("anyOf", [])]
            for key, field in ((k, f) for body in bodies for k, f in body.get("properties", {}).items()):
                assert field.get("description"), f"{title}.{key} has no description"
        json.dumps(schema)


def test_a_default_is_what_a_file_may_say() -> None:
    """4.8GB/s, not 4800000000.0, where the key takes text with its unit."""
    seen = set()
    for name, schema in all_schemas().items():
        for title, part in {name: schema, **schema.get("$defs", {})}.items():
            for key, field in part.get("properties", {}).items():
                if field.get("type") == "string" and field.get("default") is not None:
                    seen.add(key)
                    assert isinstance(field["default"], str), f"{title}.{key}"
    assert {"source_bandwidth", "source_latency", "start"} <= seen


def test_schemas_admit_the_short_forms() -> None:
    kinds = {name: {form.get("type") for form in schemas()[name]["anyOf"]} for name in ("cluster", "slo")}
    assert kinds == {"cluster": {"object", "string", "array"}, "slo": {"object", "string"}}


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("plan", "plan"), ("space", "space"), ("baseline", "baseline"), ("fleet", "fleet"), ("pools", "pool-nodes"),
        ("pools", "pools-measured"), ("experts", "experts"), ("precision", "formats"),
    ],
)  # fmt: skip
def test_a_schema_knows_the_keys_of_its_files(name: str, example: str) -> None:
    """Every key of a file that works, and each that it needs, at every depth that is a class."""
    schema = all_schemas()[name]
    assert _unknown(yaml.safe_load((ROOT / "docs" / "examples" / f"{example}.yaml").read_text()), schema, schema) == []
    assert _unknown({"colour": "red"}, schema, schema) != []


def _unknown(data: object, part: dict[str, Any], schema: dict[str, Any], path: str = "") -> list[str]:
    """Keys that no alternative of a part knows, and those that it needs and the data lack."""
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    if "anyOf" in part:
        return min((_unknown(data, each, schema, path) for each in part["anyOf"]), key=len)
    kind = part.get("type")
    if isinstance(data, dict):
        keys, others = part.get("properties", {}), part.get("additionalProperties", True)
        wrong = [] if kind == "object" else [f"{path}: a mapping where {kind} is"]
        wrong += [f"{path}.{key}: missing" for key in part.get("required", ()) if key not in data]
        for key, value in data.items():
            if key in keys or isinstance(others, dict):
                wrong += _unknown(value, keys.get(key, others), schema, f"{path}.{key}")
            elif others is False:
                wrong.append(f"{path}.{key}")
        return wrong
    if isinstance(data, list):
        wrong = [] if kind == "array" else [f"{path}: a list where {kind} is"]
        return wrong + [line for value in data for line in _unknown(value, part.get("items", {}), schema, path)]
    return [] if kind not in ("array", "object") else [f"{path}: one value where {kind} is"]
