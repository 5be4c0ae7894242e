# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`.pth` files to Hub-ready folders and back: the same bytes, the same answers as the `rwkv` package's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.blinkdl import (
    Sizes,
    assert_same_bytes,
    fla_state_dict,
    greedy_in_rwkv_package,
    load_in_rwkv_package,
    random_checkpoint,
)
from rwkv7_world import RWKV7ForCausalLM
from rwkv7_world.conversion import convert_to_blinkdl, convert_to_hub
from rwkv7_world.conversion.text_checkpoint import EXTRA_FILE


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what the package is written in

PROMPT_TOKENS, NEW_TOKENS = 30, 100
TOLERANCE = 1e-4  # absolute, on float32 logits of order 1 to 10

# Sizes, and the dtype of the file
CHECKPOINTS = {
    "one layer, bfloat16": (Sizes(layers=1, hidden=64, vocab=70, ffn=96, seed=1), torch.bfloat16),
    "layer 0 with v, float32": (Sizes(layers=3, layer_0_has_v=True, v_rank=33, seed=2), torch.float32),
    "one layer with v, float16": (Sizes(layers=1, layer_0_has_v=True, ffn=512, seed=3), torch.float16),
    "heads of 32, bfloat16": (Sizes(hidden=96, head_size=32, decay_rank=7, gate_rank=200, seed=4), torch.bfloat16),
    "heads of 128, float16": (Sizes(hidden=256, head_size=128, vocab=300, seed=5), torch.float16),
    "deep and narrow, float32": (Sizes(layers=6, hidden=64, head_size=16, a_rank=3, seed=6), torch.float32),
}


def write_checkpoint(path: Path, sizes: Sizes = Sizes(), dtype: torch.dtype = torch.float32, **extra) -> dict:  # noqa: B008
    """A random `.pth` file, and what it holds."""
    checkpoint = {name: tensor.to(dtype) for name, tensor in random_checkpoint(sizes).items()} | extra
    torch.save(checkpoint, path)
    return checkpoint


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights = {}
    for file in folder.glob("model*.safetensors"):
        weights |= load_file(file)
    return weights


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_there_and_back_gives_the_same_bytes(name, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "a.pth", *CHECKPOINTS[name])
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    convert_to_blinkdl(tmp_path / "hub", tmp_path / "b.pth")
    assert_same_bytes(torch.load(tmp_path / "b.pth", weights_only=True), checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.pth", "hub"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_have_the_names_and_numbers_of_the_fla_format(name, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "a.pth", *CHECKPOINTS[name])
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    assert_same_bytes(load_weights(tmp_path / "hub"), fla_state_dict(checkpoint))


@torch.no_grad()
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_and_greedy_tokens_equal_those_of_the_rwkv_package(name, tmp_path):
    sizes, dtype = CHECKPOINTS[name]
    write_checkpoint(tmp_path / "a.pth", sizes, dtype)
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    model, report = RWKV7ForCausalLM.from_pretrained(
        tmp_path / "hub", dtype=torch.float32, eos_token_id=None, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.generation_config.eos_token_id = None

    package = load_in_rwkv_package(tmp_path / "a.pth")
    prompt = torch.randint(1, sizes.vocab, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(sizes.seed))
    expected, state = package.forward(prompt[0].tolist(), None, full_output=True)
    torch.testing.assert_close(model(prompt).logits[0], expected.view(PROMPT_TOKENS, -1), atol=TOLERANCE, rtol=0)
    generated = model.generate(prompt, max_new_tokens=NEW_TOKENS, do_sample=False)[0, PROMPT_TOKENS:].tolist()
    assert generated == greedy_in_rwkv_package(package, expected[-1], state, NEW_TOKENS)
    assert len(set(generated)) > 5, "the continuation repeats itself and shows little"


def test_written_back_file_runs_in_the_rwkv_package(tmp_path):
    write_checkpoint(tmp_path / "a.pth", Sizes(), torch.bfloat16)
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    convert_to_blinkdl(tmp_path / "hub", tmp_path / "b.pth")
    logits = [load_in_rwkv_package(tmp_path / f"{name}.pth").forward([5, 6, 7], None)[0] for name in "ab"]
    assert torch.equal(*logits)


def test_every_tensor_keeps_its_own_dtype(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "a.pth", dtype=torch.bfloat16)
    checkpoint["blocks.1.att.w0"] = checkpoint["blocks.1.att.w0"].float() + 1e-6
    torch.save(checkpoint, tmp_path / "a.pth")
    assert convert_to_hub(tmp_path / "a.pth", tmp_path / "hub").dtypes == (torch.bfloat16, torch.float32)
    convert_to_blinkdl(tmp_path / "hub", tmp_path / "b.pth")
    assert_same_bytes(torch.load(tmp_path / "b.pth", weights_only=True), checkpoint)


def test_dtype_can_be_chosen_both_ways(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "a.pth")
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub", dtype=torch.bfloat16)
    rounded = {name: tensor.bfloat16() for name, tensor in checkpoint.items()}
    assert_same_bytes(load_weights(tmp_path / "hub"), fla_state_dict(rounded))
    assert RWKV7ForCausalLM.from_pretrained(tmp_path / "hub").dtype == torch.bfloat16
    convert_to_blinkdl(tmp_path / "hub", tmp_path / "b.pth", dtype=torch.float32)
    expected = {name: tensor.float() for name, tensor in rounded.items()}
    assert_same_bytes(torch.load(tmp_path / "b.pth", weights_only=True), expected)


def test_large_models_are_written_in_shards_with_an_index(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "a.pth")
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub", max_shard_size=200_000)
    shards = sorted((tmp_path / "hub").glob("model-*-of-*.safetensors"))
    assert len(shards) > 5 and not (tmp_path / "hub" / "model.safetensors").exists()
    largest = max(tensor.nbytes for tensor in checkpoint.values())
    assert all(path.stat().st_size < max(200_000, largest) + 10_000 for path in shards)
    index = json.loads((tmp_path / "hub" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == fla_state_dict(checkpoint).keys()
    model = RWKV7ForCausalLM.from_pretrained(tmp_path / "hub")
    assert_same_bytes(dict(model.state_dict()), fla_state_dict(checkpoint))
    convert_to_blinkdl(tmp_path / "hub", tmp_path / "b.pth")
    assert_same_bytes(torch.load(tmp_path / "b.pth", weights_only=True), checkpoint)


def test_file_is_mapped_piece_by_piece(tmp_path, monkeypatch):
    """However often the file is mapped anew, as a file of many gigabytes is, the numbers are the same."""
    monkeypatch.setattr("rwkv7_world.modeling_rwkv7_world.checkpoint_files.MAX_MAPPED_BYTES", 10_000)
    checkpoint = write_checkpoint(tmp_path / "a.pth")
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    assert_same_bytes(load_weights(tmp_path / "hub"), fla_state_dict(checkpoint))


def test_what_the_fla_format_has_no_place_for_is_kept_aside(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "a.pth", Sizes(layer_0_has_v=True))
    done = convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    names = {"blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"}
    assert set(done.kept_aside) == names
    assert_same_bytes(load_file(tmp_path / "hub" / EXTRA_FILE), {name: checkpoint[name] for name in names})
    assert not list((tmp_path / "hub").glob("*extra*")), "servers would take it for weights"


def test_a_merged_state_is_what_the_model_starts_from(tmp_path):
    states = {f"blocks.{layer}.att.time_state": torch.randn(2, 64, 64) for layer in range(2)}
    checkpoint = write_checkpoint(tmp_path / "a.pth", **states)
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    model, report = RWKV7ForCausalLM.from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert not any(report.values())
    for layer, state in enumerate(states.values()):
        assert torch.equal(model.model.layers[layer].attn.initial_state(), state)
    convert_to_blinkdl(tmp_path / "hub", tmp_path / "b.pth")
    assert_same_bytes(torch.load(tmp_path / "b.pth", weights_only=True), checkpoint)
    write_checkpoint(tmp_path / "c.pth", **dict(list(states.items())[:1]))
    with pytest.raises(ValueError, match=r"the tensor blocks\.1\.att\.time_state is missing"):
        convert_to_hub(tmp_path / "c.pth", tmp_path / "none")


def test_world_models_come_with_their_tokenizer_and_auto_classes_load_them(tmp_path):
    sizes = Sizes(layers=1, hidden=64, vocab=65536)
    write_checkpoint(tmp_path / "a.pth", sizes, torch.bfloat16)
    assert convert_to_hub(tmp_path / "a.pth", tmp_path / "hub").has_tokenizer
    assert AutoTokenizer.from_pretrained(tmp_path / "hub")("Hello, world!")["input_ids"] == [33155, 45, 40213, 34]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
    assert isinstance(model, RWKV7ForCausalLM) and model.dtype == torch.bfloat16
    assert (model.generation_config.eos_token_id, model.generation_config.bos_token_id) == (0, 0)
    assert (tmp_path / "hub" / "rwkv_vocab_v20230424.txt").is_file()  # what llama.cpp's converter asks for


def test_other_vocabularies_have_no_tokenizer(tmp_path):
    write_checkpoint(tmp_path / "a.pth")
    assert not convert_to_hub(tmp_path / "a.pth", tmp_path / "hub").has_tokenizer
    assert not list((tmp_path / "hub").glob("*token*"))


def test_configuration_holds_the_sizes_that_the_shapes_tell(tmp_path):
    sizes = Sizes(hidden=96, head_size=32, ffn=200, decay_rank=7, a_rank=11, v_rank=13, gate_rank=17)
    write_checkpoint(tmp_path / "a.pth", sizes, torch.float16)
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    expected = {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "dtype": "float16",
        "vocab_size": 90,
        "hidden_size": 96,
        "head_dim": 32,
        "num_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 200,
        "decay_low_rank_dim": 7,
        "a_low_rank_dim": 11,
        "v_low_rank_dim": 13,
        "gate_low_rank_dim": 17,
        "group_norm_eps": 64e-5,
    }
    assert {name: config[name] for name in expected} == expected


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def changed(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    """Writes a checkpoint with some tensors replaced or, where `None`, left out; __ stands for a dot."""

    def write(path: Path) -> None:
        checkpoint = random_checkpoint(Sizes()) | {name.replace("__", "."): x for name, x in changes.items()}
        torch.save({name: tensor for name, tensor in checkpoint.items() if tensor is not None}, path)

    return write


def write_truncated(path: Path) -> None:
    write_checkpoint(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


ZERO = torch.zeros(1)

# What is wrong with a file: what writes it, and what is said; {} stands for its path
BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: None, "{}: no such file"),
    "an empty folder": (lambda path: path.mkdir(), "{}/model.safetensors: no such file"),
    "truncated": (write_truncated, "{}: not a .pth file, or not a whole one (torch.load cannot read it)"),
    "empty": (lambda path: path.touch(), "{}: not a .pth file, or not a whole one (torch.load cannot read it)"),
    "text": (
        lambda path: path.write_text("no weights"),
        "{}: not a .pth file, or not a whole one (torch.load cannot read it)",
    ),
    "safetensors": (
        lambda path: save_file({"emb.weight": ZERO}, path),
        "{}: not a .pth file, or not a whole one (torch.load cannot read it)",
    ),
    "code": (
        lambda path: torch.save({"emb.weight": Code(path.with_name("ran"))}, path),
        "{}: refused, it holds more than tensors and could run code if it were read",
    ),
    "one tensor": (lambda path: torch.save(ZERO, path), "{}: holds a Tensor, expected a dict of tensors by name"),
    "nothing": (lambda path: torch.save({}, path), "{}: holds a dict, expected a dict of tensors by name"),
    "wrapped": (
        lambda path: torch.save({"module": {"emb.weight": ZERO}}, path),
        "{}: the entry 'module' is a dict, expected a tensor",
    ),
    "integers": (
        changed(emb__weight=torch.zeros(90, 128, dtype=torch.int8)),
        "{}: emb.weight is a tensor of torch.int8, expected bfloat16, float16 or float32",
    ),
    "a huge tensor of one number": (
        changed(emb__weight=torch.zeros(1, 1).expand(10_000_000, 128)),
        "{}: its tensors claim 5121500672 bytes, more than the file has",
    ),
    "missing tensor": (changed(blocks__1__att__k_k=None), "{}: the tensor blocks.1.att.k_k is missing"),
    "missing tensors": (
        changed(ln_out__weight=None, ln_out__bias=None),
        "{}: the tensor ln_out.weight is missing, and 1 more",
    ),
    "no embeddings": (changed(emb__weight=None), "{}: the tensor emb.weight is missing"),
    "no value mix": (changed(blocks__1__att__v1=None), "{}: the tensor blocks.1.att.v1 is missing"),
    "no blocks": (
        lambda path: torch.save({"emb.weight": ZERO}, path),
        "{}: no RWKV-7 checkpoint: it holds no tensor blocks.0.*",
    ),
    "wrong shape": (
        changed(blocks__0__att__w2=torch.zeros(24, 64)),
        "{}: blocks.0.att.w2 has the shape (24, 64), expected (24, 128)",
    ),
    "wrong rank": (changed(emb__weight=ZERO), "{}: emb.weight has the shape (1,), expected 2 dimensions"),
    "wrong heads": (
        changed(blocks__0__att__r_k=torch.zeros(3, 64)),
        "{}: blocks.0.att.r_k has the shape (3, 64), which does not make 128 channels",
    ),
    "a layer far away": (
        changed(blocks__999999999__att__x_r=ZERO),
        "{}: 70 tensors cannot make the 1000000000 layers that their names tell of",
    ),
    "unknown tensor": (changed(blocks__0__att__zzz=ZERO), "{}: unexpected tensor blocks.0.att.zzz in RWKV-7"),
    "part of RWKV-7a": (
        changed(blocks__0__ffn__s_emb__weight=ZERO),
        "{}: the tensor blocks.0.ffn.s1 is missing",
    ),
    "RWKV-8": (
        changed(blocks__0__ffn__enn__weight=ZERO),
        "{}: an RWKV-8 model, which is not supported (it holds the tensor blocks.0.ffn.enn.weight)",
    ),
    "RWKV-6": (
        lambda path: torch.save({"blocks.0.att.time_maa_x": ZERO, "blocks.0.att.time_decay": ZERO}, path),
        "{}: an RWKV-6 model, expected RWKV-7 (it holds the tensor blocks.0.att.time_maa_x)",
    ),
    "RWKV-5": (
        lambda path: torch.save({"blocks.0.att.time_decay": ZERO, "blocks.0.att.time_faaaa": ZERO}, path),
        "{}: an RWKV-5 model, expected RWKV-7 (it holds the tensor blocks.0.att.time_faaaa)",
    ),
    "RWKV-4": (
        lambda path: torch.save({"blocks.0.att.time_first": ZERO}, path),
        "{}: an RWKV-4 or RWKV-5 model, expected RWKV-7 (it holds the tensor blocks.0.att.time_first)",
    ),
    "multimodal": (
        changed(modality__world_encoder__adapter__proj__0__weight=ZERO),
        "{}: a multimodal checkpoint, not a text model "
        "(it holds the tensor modality.world_encoder.adapter.proj.0.weight)",
    ),
    "adapter": (
        lambda path: torch.save({"blocks.0.att.key.lora_A": ZERO}, path),
        "{}: a PEFT adapter, or a model with one not merged (it holds the tensor blocks.0.att.key.lora_A)",
    ),
    "trained state": (
        lambda path: torch.save({f"blocks.{layer}.att.time_state": torch.zeros(2, 64, 64) for layer in (0, 1)}, path),
        "{}: a trained state, not a model: load it with rwkv7_world.state.load_trained_state",
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_file_is_refused_in_one_line_and_nothing_is_written(what, tmp_path):
    write, message = BAD_FILES[what]
    source = tmp_path / "bad.pth"
    write(source)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, OSError)) as error:
        convert_to_hub(source, tmp_path / "hub")
    assert str(error.value) == message.format(source)
    assert sorted(tmp_path.iterdir()) == before


def test_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "a.pth")
    calls = []

    def save_one_shard(*args):
        calls.append(save_file(*args))
        if len(calls) == 3:
            raise OSError("No space left on device")

    monkeypatch.setattr("rwkv7_world.conversion.folder.save_file", save_one_shard)
    with pytest.raises(OSError, match="No space left"):
        convert_to_hub(tmp_path / "a.pth", tmp_path / "hub", max_shard_size=200_000)
    assert len(calls) == 3 and [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def hub_folder(tmp_path: Path, **config) -> Path:
    write_checkpoint(tmp_path / "a.pth")
    convert_to_hub(tmp_path / "a.pth", tmp_path / "hub")
    path = tmp_path / "hub" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return tmp_path / "hub"


def refusal_of_folder(folder: Path) -> str:
    """What is said to a folder that cannot become a `.pth` file; checks that none is written."""
    before = sorted(folder.parent.iterdir())
    with pytest.raises((ValueError, OSError)) as error:
        convert_to_blinkdl(folder, folder.parent / "b.pth")
    assert sorted(folder.parent.iterdir()) == before
    return str(error.value)


class TestBadFolders:
    def test_missing_folder(self, tmp_path):
        assert refusal_of_folder(tmp_path / "hub") == f"{tmp_path / 'hub'}: no such file"

    def test_folder_without_config(self, tmp_path):
        folder = hub_folder(tmp_path)
        (folder / "config.json").unlink()
        assert refusal_of_folder(folder) == f"{folder}: not a model folder, it holds no config.json"

    def test_folder_without_weights(self, tmp_path):
        folder = hub_folder(tmp_path)
        (folder / "model.safetensors").unlink()
        assert refusal_of_folder(folder) == f"{folder / 'model.safetensors'}: no such file"

    def test_truncated_weights(self, tmp_path):
        file = hub_folder(tmp_path) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        assert refusal_of_folder(file.parent).startswith(f"{file}: not a safetensors file, or not a whole one (")

    @pytest.mark.parametrize("config", [{"norm_eps": 1e-6}, {"group_norm_eps": 1e-5}])
    def test_epsilon_that_a_pth_file_cannot_hold(self, tmp_path, config):
        folder = hub_folder(tmp_path, **config)
        name, value = next(iter(config.items()))
        assert refusal_of_folder(folder).startswith(f"{folder}: {name} is {value:g}, but all who read .pth files take")

    def test_tensor_that_no_pth_file_has(self, tmp_path):
        file = hub_folder(tmp_path) / "model.safetensors"
        save_file(load_file(file) | {"model.layers.0.attn.extra": ZERO}, file)
        assert refusal_of_folder(file.parent) == (
            f"{file.parent}: unexpected tensor model.layers.0.attn.extra in RWKV-7"
        )

    def test_tied_head(self, tmp_path):
        file = hub_folder(tmp_path) / "model.safetensors"
        weights = load_file(file)
        del weights["lm_head.weight"]
        save_file(weights, file)
        assert refusal_of_folder(file.parent) == f"{file.parent}: the tensor head.weight is missing"

    def test_other_model(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        save_file({"model.embed_tokens.weight": ZERO}, tmp_path / "model.safetensors")
        assert "no RWKV-7 text model of any layout" in refusal_of_folder(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_broken_config(self, tmp_path, text):
        (tmp_path / "config.json").write_text(text)
        assert refusal_of_folder(tmp_path).startswith(f"{tmp_path / 'config.json'}: ")
