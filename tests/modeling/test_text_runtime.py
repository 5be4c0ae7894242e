# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The text model runs where transformers runs: compiled, exported, offloaded, quantised, on several processes."""

import copy
import os
import socket

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.export import Dim, export
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    CompileConfig,
)

from helpers.composites import tiny_composite
from helpers.text_models import VOCAB_SIZE, random_ids, tiny_config, tiny_model
from rwkv7_world import RWKV7ForCausalLM, RWKV7ForSequenceClassification


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class TestCompiled:
    @torch.no_grad()
    def test_prefill_is_one_graph(self, model):
        ids = random_ids(2, 9)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(ids, use_cache=False).logits, model(ids, use_cache=False).logits)

    @torch.no_grad()
    def test_decoding_compiles_once_whatever_the_number_of_tokens(self, model):
        counter = CompileCounter()
        compiled, cache = (
            torch.compile(model, fullgraph=True, backend=counter),
            model(random_ids(2, 9)).past_key_values,
        )
        expected = copy.deepcopy(cache)
        ids = random_ids(8, 2, 1, seed=1)
        for step, token in enumerate(ids):
            logits = compiled(token, past_key_values=cache).logits
            torch.testing.assert_close(logits, model(token, past_key_values=expected).logits)
            if step == 2:  # the first steps may teach the compiler that the count of tokens changes
                graphs = counter.frame_count
        assert counter.frame_count == graphs <= 2

    def test_gradients_pass_through_a_compiled_model(self, model):
        ids, twin = random_ids(2, 9), copy.deepcopy(model)
        torch.compile(model, fullgraph=True, backend="aot_eager")(ids, labels=ids, use_cache=False).loss.backward()
        twin(ids, labels=ids, use_cache=False).loss.backward()
        for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad, msg=lambda text: f"{name}: {text}")  # noqa: B023

    @pytest.mark.parametrize("cache", [None, "static"])
    @pytest.mark.parametrize("padding", [0, 3])
    @pytest.mark.parametrize("make", [tiny_model, lambda: tiny_composite("siglip")], ids=["text", "composite"])
    def test_generate_with_a_compiled_forward_makes_a_graph_of_prompt_and_step(self, make, padding, cache):
        """Of any number of tokens, and none of the two is broken."""
        model, ids = make(), random_ids(2, 9) % 30
        mask = torch.ones_like(ids)
        mask[0, :padding] = 0
        options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
        expected = model.generate(ids, **options)
        counters.clear()
        model.forward = torch.compile(model.forward, backend="eager")
        assert torch.equal(model.generate(ids, **options, cache_implementation=cache), expected)
        assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]

    def test_generate_compiles_the_whole_step_by_itself(self, model):
        ids, options = random_ids(2, 5), {"max_new_tokens": 8, "do_sample": False}
        expected = model.generate(ids, **options)
        counters.clear()
        compile_config = CompileConfig(backend="eager", fullgraph=True)
        compile_config._compile_all_devices = True  # else on a GPU only
        assert type(model)._can_compile_fullgraph
        assert torch.equal(model.generate(ids, **options, compile_config=compile_config), expected)
        assert 0 < counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"]


def test_exported_program_takes_any_batch_and_length(model):
    shapes = {"input_ids": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "use_cache": None}
    program = export(model, (random_ids(2, 9),), {"use_cache": False}, dynamic_shapes=shapes)
    for batch, time in ((1, 5), (3, 17)):
        ids = random_ids(batch, time, seed=time)
        with torch.no_grad():
            exported, expected = program.module()(ids, use_cache=False), model(ids, use_cache=False)
        torch.testing.assert_close(exported.logits, expected.logits)


class TestLoading:
    @pytest.fixture
    def folder(self, model, tmp_path):
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        return tmp_path

    @torch.no_grad()
    @pytest.mark.parametrize("placement", ["cpu", "disk"])
    def test_device_map_may_send_layers_to_memory_or_disk(self, model, folder, placement, tmp_path):
        device_map = {"model.embeddings": "cpu", "model.layers.0": "cpu", "model.layers.1": placement}
        device_map |= {"model.norm": "cpu", "lm_head": "cpu"}
        loaded = RWKV7ForCausalLM.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path / "offload")
        ids = random_ids(2, 7)
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
        assert torch.equal(loaded.generate(ids, max_new_tokens=4), model.generate(ids, max_new_tokens=4))

    def test_device_map_auto_keeps_layers_whole(self, model, folder):
        loaded = RWKV7ForCausalLM.from_pretrained(folder, device_map="auto")
        assert torch.equal(
            loaded.generate(random_ids(1, 4), max_new_tokens=4), model.generate(random_ids(1, 4), max_new_tokens=4)
        )
        assert loaded._no_split_modules == {"RWKV7Block"} or list(loaded._no_split_modules) == ["RWKV7Block"]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_weights_load_in_the_dtype_asked_for(self, folder, dtype):
        loaded = RWKV7ForCausalLM.from_pretrained(folder, dtype=dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        assert loaded(random_ids(1, 4)).logits.dtype == dtype

    def test_nothing_is_allocated_on_the_meta_device(self):
        with torch.device("meta"):
            assert {parameter.device.type for parameter in RWKV7ForCausalLM(tiny_config()).parameters()} == {"meta"}


class TestSequenceClassification:
    @pytest.fixture
    def classifier(self):
        torch.manual_seed(0)
        model = RWKV7ForSequenceClassification(tiny_config(num_labels=3, pad_token_id=0))
        nn.init.normal_(model.score.weight)
        return model.eval()

    @torch.no_grad()
    def test_score_is_that_of_the_last_token_before_the_padding(self, classifier):
        ids = random_ids(1, 6) % (VOCAB_SIZE - 1) + 1
        alone = classifier(ids).logits
        for left, right in ((0, 3), (2, 0)):
            padded = nn.functional.pad(ids, (left, right))
            logits = classifier(padded, attention_mask=(padded != 0).long()).logits
            torch.testing.assert_close(logits, alone)

    def test_it_learns(self, classifier):
        ids = random_ids(12, 5) % (VOCAB_SIZE - 1) + 1
        labels = ids[:, 2] % 3
        optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
        for _ in range(30):
            loss = classifier(ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert (classifier(ids).logits.argmax(-1) == labels).all()

    def test_it_loads_by_its_auto_class_from_a_language_model(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=4)
        assert type(loaded) is RWKV7ForSequenceClassification and loaded.score.out_features == 4
        assert torch.equal(loaded.model.embeddings.weight, model.model.embeddings.weight)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def in_two_processes(function, *args) -> None:
    """Runs `function(rank, port, *args)` in two processes, which raises what they raise."""
    torch.multiprocessing.spawn(function, (free_port(), *args), nprocs=2)


def join_group(rank: int, port: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)


def check_tensor_parallel(rank: int, port: str, *folders) -> None:
    join_group(rank, port)
    for folder in folders:
        check_shared_matrices(folder)


def check_shared_matrices(folder) -> None:
    is_composite = AutoConfig.from_pretrained(folder).model_type == "rwkv_world"
    auto_class = AutoModelForMultimodalLM if is_composite else AutoModelForCausalLM
    whole = auto_class.from_pretrained(folder)
    shared = auto_class.from_pretrained(folder, tp_plan="auto")
    key, whole_key = (model.get_decoder().layers[0].ffn.key.weight for model in (shared, whole))
    assert key.to_local().shape[0] * 2 == whole_key.shape[0]
    ids = random_ids(2, 7)
    with torch.no_grad():
        torch.testing.assert_close(shared(ids).logits, whole(ids).logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(shared.generate(ids, max_new_tokens=5), whole.generate(ids, max_new_tokens=5))
    losses = [model(ids, labels=ids).loss for model in (shared, whole)]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    for loss in losses:
        loss.backward()
    for name in ("embeddings.weight", "layers.0.ffn.value.weight", "layers.1.attn.r_proj.weight", "norm.weight"):
        gradients = [model.get_decoder().get_parameter(name).grad for model in (shared, whole)]
        gradients = [x.full_tensor() if hasattr(x, "full_tensor") else x for x in gradients]
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-3)


def check_pipeline_parallel(rank: int, port: str, folder) -> None:
    """Each process holds what the plan gives to its stage, and passes on what the plan says layers pass on."""
    join_group(rank, port)
    whole = RWKV7ForCausalLM.from_pretrained(folder)
    plan = whole.pp_plan
    passed_on = plan["model.layers"][1]
    assert passed_on == ["hidden_states", "v_first"]
    ids, layers = random_ids(2, 7), whole.model.layers
    from rwkv7_world.modeling_rwkv7_world.token_layout import TokenLayout

    layout = TokenLayout()
    with torch.no_grad():
        if rank == 0:
            for tensor in layers[0](whole.model.embeddings(ids), None, layout)[: len(passed_on)]:
                torch.distributed.send(tensor.contiguous(), 1)
            return
        received = [torch.empty(2, 7, whole.config.hidden_size) for _ in passed_on]
        for tensor in received:
            torch.distributed.recv(tensor, 0)
        hidden_states, *_ = layers[1](*received, layout)
        logits = whole.lm_head(whole.model.norm(hidden_states))
        one_by_one = whole(ids, output_hidden_states=True)  # which keeps the layers from running all at once
        assert torch.equal(logits, one_by_one.logits)


def test_two_processes_share_the_matrices_of_a_model(tmp_path):
    """Heads tied and not, vocabularies that two divides and not, text models and composites."""
    for tied in (True, False):
        for vocab_size in (37, 38):
            changes = {"tie_word_embeddings": tied, "vocab_size": vocab_size}
            tiny_model(**changes).save_pretrained(tmp_path / f"{tied} {vocab_size}")
        tiny_composite("siglip", tie_word_embeddings=tied).save_pretrained(tmp_path / f"{tied} composite")
    tiny_model(deep_embed_dim=4, deep_embed_attn_dim=12).save_pretrained(tmp_path / "RWKV-7b")
    in_two_processes(check_tensor_parallel, *tmp_path.iterdir())


def test_two_processes_are_stages_of_a_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    in_two_processes(check_pipeline_parallel, tmp_path)
