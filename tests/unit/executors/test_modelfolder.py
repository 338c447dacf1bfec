"""Folders with models: what travels, what is left out and why, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from executors import modelfolder
from mesh.errors import ModelRefused
from mesh.messages.models import ModelFormat
from tests.support import model_folders
from tests.support.model_folders import FILES, tensor_bytes, write


def refusal(folder: Path) -> str:
    with pytest.raises(ModelRefused) as refused:
        modelfolder.look(folder)
    return str(refused.value)


def test_a_transformers_folder_travels_with_its_tokenizer_card_and_licence(tmp_path: Path) -> None:
    found = modelfolder.look(model_folders.transformers_folder(tmp_path))
    assert found.format is ModelFormat.TRANSFORMERS
    assert found.files == tuple(sorted([*FILES, "model.safetensors"]))
    assert (found.left_out, found.notes) == ((), ())
    assert (found.architecture, found.license, found.parameters) == ("BertModel", "mit", 16 * 8 + 8)
    assert found.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found.task == "", "no kind of this program trains it yet"


def test_shards_are_checked_against_their_index(tmp_path: Path) -> None:
    found = modelfolder.look(model_folders.sharded_folder(tmp_path))
    assert [name for name in found.files if name.endswith("safetensors")] == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip
    assert found.parameters == 136
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(tensor_bytes(("other", [8])))
    assert "lacks the tensor 'pooler.bias'" in refusal(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "'model-00002-of-00002.safetensors', which is not in the folder" in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    assert "not in the folder" in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert "copy the folder whole" in refusal(tmp_path)


def test_an_adapter_names_what_it_is_put_on(tmp_path: Path) -> None:
    found = modelfolder.look(model_folders.adapter_folder(tmp_path))
    assert (found.format, found.architecture, found.adapts) == (ModelFormat.ADAPTER, "LORA", "bert-base-uncased")
    assert found.files == ("adapter_config.json", "adapter_model.safetensors")
    assert found.notes == ()
    local = modelfolder.look(model_folders.adapter_folder(tmp_path / "local", base="/home/me/bert"))
    assert "/home/me/bert" in local.notes[0]
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    assert "save_pretrained" in refusal(tmp_path)


def test_a_model_of_this_program_says_how_it_goes_on(tmp_path: Path) -> None:
    found = modelfolder.look(model_folders.ramify_folder(tmp_path, ["a", "b"]))
    assert (found.format, found.task, found.modality) == (ModelFormat.RAMIFY, "classify", "text")
    assert (found.labels, found.label_names) == (("a", "b"), ("a", "b"))
    assert found.settings == {"hidden": [64], "dropout": 0.5}, "what is the kind's default is not carried along"
    model_folders.ramify_folder(tmp_path, ["a", "b"], settings={"no_such_setting": 1})
    assert modelfolder.look(tmp_path).settings == {}
    model_folders.ramify_folder(tmp_path, ["a", "b"], kind="baseline", settings={"strengths": [1.0]})
    assert (modelfolder.look(tmp_path).task, modelfolder.look(tmp_path).settings) == ("classify", {})
    model_folders.ramify_folder(tmp_path, format=1)
    assert "format 2, got 1" in refusal(tmp_path)
    model_folders.ramify_folder(tmp_path, ["a", "a"])
    assert "two different labels" in refusal(tmp_path)


def test_many_or_long_labels_travel_in_part(tmp_path: Path) -> None:
    many = modelfolder.look(model_folders.ramify_folder(tmp_path, [str(number) for number in range(500)]))
    assert len(many.label_names) == 100
    long = modelfolder.look(model_folders.ramify_folder(tmp_path, [letter * 9_000 for letter in "abc"]))
    assert [len(name) for name in long.label_names] == [9_000]


def test_pickles_and_code_stay_behind_and_are_named(tmp_path: Path) -> None:
    others: dict[str, str | bytes] = {
        "pytorch_model.bin": b"\x80\x04x", "training_args.bin": b"PK\x03\x04", "modeling_x.py": "import os",
        "vocab.model": b"\x80\x02csys", "weights.gguf": b"GGUF", "consolidated.safetensors": tensor_bytes(("a", [2])),
        ".git/config": "x", "checkpoint-5/optimizer.pt": "x", "1_Pooling/config.json": "{}",
    }  # fmt: skip
    write(model_folders.transformers_folder(tmp_path), others)
    found = modelfolder.look(tmp_path)
    assert found.files == tuple(sorted([*FILES, "model.safetensors", "1_Pooling/config.json"]))
    why = dict(found.left_out)
    assert set(why) == {
        "pytorch_model.bin", "training_args.bin", "modeling_x.py", "vocab.model", "weights.gguf",
        "consolidated.safetensors",
    }  # fmt: skip
    assert "pickle" in why["pytorch_model.bin"]
    assert "no code travels" in why["modeling_x.py"]
    assert "whatever .model says" in why["vocab.model"]
    assert "nothing names" in why["consolidated.safetensors"]


def test_code_that_the_config_asks_for_is_said(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoModel": "modeling_mine.Mine"}}
    write(model_folders.transformers_folder(tmp_path), {"config.json": json.dumps(config)})
    (note,) = modelfolder.look(tmp_path).notes
    assert "'mine'" in note


def test_weights_in_a_pickle_alone_are_refused_with_the_way_out(tmp_path: Path) -> None:
    write(model_folders.transformers_folder(tmp_path), {"pytorch_model.bin": b"\x80\x04x"})
    (tmp_path / "model.safetensors").unlink()
    said = refusal(tmp_path)
    assert "'pytorch_model.bin', a pickle" in said
    assert "save_pretrained" in said


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"model.safetensors": b"\x80\x04\x95 a pickle by another name"}, "no whole safetensors file"),
        ({"config.json": "[1]"}, "JSON list where a map"),
        ({"config.json": '{"a": '}, "config.json is no JSON"),
        ({"tokenizer.json": '{"torn": '}, "tokenizer.json is no JSON"),
        ({"1_Dense/model.safetensors": b"torn"}, "no whole safetensors file"),
    ],
)
def test_what_is_torn_is_refused(tmp_path: Path, files: dict[str, str | bytes], word: str) -> None:
    assert word in refusal(write(model_folders.transformers_folder(tmp_path), files))


def test_what_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none")
    assert "holds no config.json" in refusal(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(tmp_path / "file")
    assert "holds no weights" in refusal(write(tmp_path / "bare", {"config.json": "{}"}))


def test_links_lead_to_this_folder_or_to_the_hubs_blobs_and_nowhere_else(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    model_folders.transformers_folder(blobs)
    (tmp_path / "secret.txt").write_text("secret")
    for name in (*FILES, "model.safetensors"):
        (snapshot / name).symlink_to(blobs / name)
    (snapshot / "merges.txt").symlink_to(tmp_path / "secret.txt")
    (snapshot / "added_tokens.json").symlink_to(tmp_path / "gone.json")
    found = modelfolder.look(snapshot)
    assert found.files == tuple(sorted([*FILES, "model.safetensors"]))
    assert {name for name, _ in found.left_out} == {"merges.txt", "added_tokens.json"}
    assert "elsewhere" in dict(found.left_out)["merges.txt"]
