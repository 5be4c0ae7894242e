# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-7a and RWKV-7b against their equations in float64, however their tokens come."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from peft import LoraConfig, get_peft_model
from torch.utils._pytree import tree_flatten, tree_unflatten

from helpers import composites
from helpers.blinkdl import Sizes
from helpers.deep_embed import DeepLoop, DeepSizes, deep_checkpoint, greedy, read_all
from helpers.text_models import tiny_config, tiny_model
from rwkv7_world import RWKV7Cache, RWKV7Config, RWKV7ForCausalLM, RWKVQuantizationConfig
from rwkv7_world.conversion.onnx_file import export_onnx
from rwkv7_world.modeling_rwkv7_world.layer_plan import plan_of
from rwkv7_world.state.states import (
    fork_state,
    interpolate_states,
    load_state,
    load_trained_state,
    save_state,
    select_rows,
    stack_states,
    state_to_blinkdl,
)


SHAPES = {
    "7a small": DeepSizes(Sizes(layers=2, hidden=64, vocab=50, ffn=96, seed=1), side=5),
    "7a deep": DeepSizes(Sizes(layers=4, hidden=64, vocab=70, ffn=224, seed=2), side=8, row_vectors=True),
    "7b small": DeepSizes(Sizes(layers=2, hidden=64, vocab=50, ffn=96, seed=4), side=5, attn_dim=20),
    "7b deep": DeepSizes(
        Sizes(layers=3, hidden=64, vocab=70, ffn=224, seed=5), side=8, attn_dim=36, attn_rank=7, row_vectors=True
    ),
    "7b wide": DeepSizes(Sizes(layers=1, hidden=192, vocab=90, ffn=448, seed=6), side=32, attn_dim=256, attn_rank=32),
    "7a wide": DeepSizes(Sizes(layers=1, hidden=192, vocab=90, ffn=448, seed=3), side=32),
}
PROMPT, NEW_TOKENS = [5, 6, 7, 5, 9, 40, 6], 50


def load(sizes: DeepSizes, folder, dtype=torch.float64) -> RWKV7ForCausalLM:
    torch.save(deep_checkpoint(sizes), folder / "model.pth")
    return RWKV7ForCausalLM.from_pretrained(folder / "model.pth", dtype=dtype, eos_token_id=None).eval()


@pytest.fixture(scope="module", params=SHAPES)
def sizes(request) -> DeepSizes:
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def model(sizes, tmp_path_factory) -> RWKV7ForCausalLM:
    return load(sizes, tmp_path_factory.mktemp("model"))


class TestEquations:
    @torch.no_grad()
    def test_logits_are_those_of_the_loop(self, model, sizes):
        logits = model(torch.tensor([PROMPT])).logits[0]
        torch.testing.assert_close(logits, read_all(deep_checkpoint(sizes), PROMPT), atol=1e-11, rtol=0)

    def test_greedy_tokens_are_those_of_the_loop(self, sizes, tmp_path):
        """In float32, which the kernels for whole models take."""
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        found = (
            load(sizes, tmp_path, torch.float32).generate(torch.tensor([PROMPT]), **options)[0, len(PROMPT) :].tolist()
        )
        assert found == greedy(deep_checkpoint(sizes), PROMPT, NEW_TOKENS)

    @torch.no_grad()
    def test_float32_is_as_near_as_that_of_plain_rwkv7(self, sizes, tmp_path):
        logits = load(sizes, tmp_path, torch.float32)(torch.tensor([PROMPT])).logits[0]
        torch.testing.assert_close(logits.double(), read_all(deep_checkpoint(sizes), PROMPT), atol=1e-4, rtol=0)


@pytest.fixture(scope="module", params=["7a small", "7b small"])
def small(request, tmp_path_factory) -> RWKV7ForCausalLM:
    return load(SHAPES[request.param], tmp_path_factory.mktemp("small"))


IDS = torch.tensor([[5, 6, 7, 5, 9, 40, 6, 11, 5]])
OTHER = torch.tensor([[8, 5, 5, 3, 21]])
TIME = IDS.shape[1]
NEAR = {"atol": 1e-12, "rtol": 0}
MASKS = {
    "left": [0, 0, 0, 0, 1, 1, 1, 1, 1],
    "right": [1, 1, 1, 1, 1, 0, 0, 0, 0],
    "inside": [0, 1, 0, 1, 1, 0, 0, 1, 1],
}


def padded(mask: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A row with padding of real ids among `OTHER`, above one without."""
    mask = torch.tensor([mask, [1] * TIME])
    ids = torch.cat([IDS.flip(1), IDS])
    ids[0, mask[0].bool()] = OTHER[0]
    return ids, mask


@torch.no_grad()
def in_two_parts(model, ids: torch.Tensor, cut: int, rows_may_begin: bool = False, **inputs) -> torch.Tensor:
    cache = RWKV7Cache(model.config, rows_may_begin)
    parts = [slice(0, cut), slice(cut, None)]
    found = [
        model(ids[:, part], **{name: x[:, part] for name, x in inputs.items()}, cache=cache).logits for part in parts
    ]
    assert cache.get_seq_length() == ids.shape[1]
    return torch.cat(found, dim=1)


class TestContext:
    """What comes before a token, however it comes."""

    @torch.no_grad()
    def test_split_anywhere(self, small):
        expected = small(IDS).logits
        for cut in range(1, TIME):
            torch.testing.assert_close(in_two_parts(small, IDS, cut), expected, **NEAR)

    @torch.no_grad()
    @pytest.mark.parametrize("where", MASKS)
    def test_padding_changes_nothing_whole_or_split(self, small, where):
        ids, mask = padded(MASKS[where])
        alone, other = small(IDS).logits[0], small(OTHER).logits[0]
        whole = small(ids, attention_mask=mask).logits
        for found in (whole, *(in_two_parts(small, ids, cut, attention_mask=mask) for cut in (1, 3, 5, 8))):
            torch.testing.assert_close(found[0, mask[0].bool()], other, **NEAR)
            torch.testing.assert_close(found[1], alone, **NEAR)

    @torch.no_grad()
    def test_packed_sequences_do_not_see_each_other_whole_or_split(self, small):
        ids = torch.cat([IDS, OTHER], dim=1)
        position_ids = torch.cat([torch.arange(TIME), torch.arange(OTHER.shape[1])])[None]
        expected = torch.cat([small(IDS).logits, small(OTHER).logits], dim=1)
        torch.testing.assert_close(small(ids, position_ids=position_ids).logits, expected, **NEAR)
        for cut in (3, TIME, TIME + 2):
            found = in_two_parts(small, ids, cut, rows_may_begin=True, position_ids=position_ids)
            torch.testing.assert_close(found, expected, **NEAR)

    def test_generation_from_a_padded_batch_is_that_of_its_rows(self, small):
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        ids, mask = padded(MASKS["left"])
        found = small.generate(ids, attention_mask=mask, **options)[:, TIME:]
        for row, prompt in enumerate((OTHER, IDS)):
            assert torch.equal(found[row], small.generate(prompt, **options)[0, prompt.shape[1] :])

    @pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
    def test_beams_are_those_without_a_cache(self, small, options):
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, **options}
        assert torch.equal(small.generate(IDS, **options), small.generate(IDS, use_cache=False, **options))

    def test_candidates_are_taken_back(self, small):
        options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
        guessed = small.generate(IDS, prompt_lookup_num_tokens=3, **options)
        assert torch.equal(guessed, small.generate(IDS, **options))

    @torch.no_grad()
    def test_a_fork_continues_as_the_original_and_apart_from_it(self, small):
        cache = small(IDS, use_cache=True).past_key_values
        forked = fork_state(cache, 2)
        expected = small(torch.cat([IDS, OTHER], dim=1)).logits[:, TIME:]
        found = small(torch.cat([OTHER, OTHER.flip(1)]), cache=forked).logits
        torch.testing.assert_close(found[:1], expected, **NEAR)
        torch.testing.assert_close(small(OTHER, cache=cache).logits, expected, **NEAR)
        again = small(OTHER, cache=select_rows(forked, 0)).logits
        torch.testing.assert_close(again, small(OTHER, cache=cache).logits, **NEAR)

    @torch.no_grad()
    def test_a_cache_that_was_reset_is_new(self, small):
        cache = small(IDS, use_cache=True).past_key_values
        cache.reset()
        torch.testing.assert_close(small(OTHER, cache=cache).logits, small(OTHER).logits, **NEAR)

    @torch.no_grad()
    def test_as_tensors_and_back(self, small):
        cache = small(IDS, use_cache=True).past_key_values
        tensors, rest = tree_flatten(cache)
        expected = small(OTHER, cache=copy.deepcopy(cache)).logits
        assert torch.equal(small(OTHER, cache=tree_unflatten(tensors, rest)).logits, expected)


def test_a_cache_of_another_model_is_refused():
    model = tiny_model(deep_embed_dim=8, deep_embed_attn_dim=16)
    with pytest.raises(ValueError, match="The cache was made for another model: RWKV-7b"):
        model(torch.tensor([[5, 6]]), cache=RWKV7Cache(tiny_config()))


class TestStates:
    """States in files and in the hand (`rwkv7_world.state`)."""

    @torch.no_grad()
    def test_saved_and_loaded(self, small, tmp_path):
        cache = small(IDS, use_cache=True).past_key_values
        save_state(cache, tmp_path / "state.safetensors", small)
        loaded = load_state(tmp_path / "state.safetensors", small)
        assert loaded.get_seq_length() == TIME
        assert torch.equal(small(OTHER, cache=loaded).logits, small(OTHER, cache=cache).logits)

    @torch.no_grad()
    def test_a_trained_state_in_the_file_or_beside_it(self, small, tmp_path):
        """As state tuning makes it; a context begins after it."""
        trained = {f"blocks.{layer}.att.time_state": torch.randn(1, 64, 64) for layer in range(2)}
        sizes = SHAPES["7b small" if small.config.deep_embed_attn_dim else "7a small"]
        torch.save(trained, tmp_path / "state.pth")
        torch.save(deep_checkpoint(sizes) | trained, tmp_path / "merged.pth")
        merged = RWKV7ForCausalLM.from_pretrained(tmp_path / "merged.pth", dtype=torch.float64).eval()
        loop = DeepLoop(deep_checkpoint(sizes))
        loop.state = [state.double() for state in trained.values()]
        expected = torch.stack([loop.read(token) for token in OTHER[0].tolist()])[None]
        torch.testing.assert_close(merged(OTHER).logits, expected, atol=1e-11, rtol=0)
        beside = load_trained_state(tmp_path / "state.pth", small)
        for state in (tree_unflatten(*tree_flatten(copy.deepcopy(beside))), beside):
            torch.testing.assert_close(small(OTHER, cache=state).logits, expected, atol=1e-11, rtol=0)

    @torch.no_grad()
    def test_only_rwkv7b_keeps_its_context_and_says_what_it_cannot_do(self, small):
        cache = small(IDS, use_cache=True).past_key_values
        rank, different = small.config.deep_embed_attn_low_rank_dim, len(set(IDS[0].tolist()))
        operations = (lambda: stack_states([cache, cache]), lambda: interpolate_states(cache, cache, 0.5))
        operations += (lambda: state_to_blinkdl(cache),)
        if rank is None:
            assert cache.seen is None and all(operation() for operation in operations)
            return
        for layer in cache.layers:
            assert {x.shape for name, x in layer.context.items() if "rank" in name} == {(1, TIME, rank)}
            assert {x.shape[0] for name, x in layer.context.items() if "table" in name} == {different}
        for operation in operations:
            with pytest.raises(ValueError, match="holds its context of 9 tokens"):
                operation()


class TestTraining:
    def test_every_parameter_gets_a_gradient_checkpointed_or_not(self, small):
        model, found = copy.deepcopy(small).train(), []
        for reentrant in (None, False, True):
            if reentrant is not None:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.zero_grad()
            model(IDS, labels=IDS, use_cache=False).loss.backward()
            found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        assert all(gradient.any() for gradient in found[0].values())
        for other in found[1:]:
            torch.testing.assert_close(other, found[0])

    def test_mixed_precision_is_near(self, small):
        model, losses = copy.deepcopy(small).float(), []
        for enabled in (False, True):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses.append(model(IDS, labels=IDS).loss)
            losses[-1].backward()
            assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05)

    def test_a_new_model_is_plain_rwkv7(self):
        """Ours: at the start, factors are 1 and the attention gives 0, and the first step changes that."""
        torch.manual_seed(0)
        model = RWKV7ForCausalLM(tiny_config(deep_embed_dim=4, deep_embed_attn_dim=12))
        plain = RWKV7ForCausalLM(tiny_config())
        plain.load_state_dict({name: x for name, x in model.state_dict().items() if name in plain.state_dict()})
        for weights in (model, plain):  # in the official initialisation what leaves the layers is 0
            for layer in weights.model.layers:
                torch.nn.init.eye_(layer.ffn.value.weight)
                torch.nn.init.eye_(layer.attn.o_proj.weight)
        ids = IDS % model.config.vocab_size
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)
        model(ids, labels=ids).loss.backward()
        for name in ("ffn.deep_embed.s_lora.lora.2.weight", "deep_embed_attn.v_norm.weight"):
            assert model.model.layers[1].get_parameter(name).grad.any()

    def test_lora_trains_what_it_is_put_on(self, small):
        targets = ["k_proj", "s_emb_x", "s_emb", "s_lora.lora.0"]
        if small.config.deep_embed_attn_dim:
            targets += ["deep_embed_attn.q_proj", "v_emb", "k_lora.lora.2"]
        model = get_peft_model(copy.deepcopy(small), LoraConfig(r=2, target_modules=targets))
        before = {name: x.clone() for name, x in model.named_parameters()}
        optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
        for name, parameter in model.named_parameters():
            assert ("lora_" in name) == (not torch.equal(parameter, before[name])), name


class TestFastPaths:
    @torch.no_grad()
    @pytest.mark.parametrize("bits", [8, 4])
    def test_quantised_layers_keep_the_new_terms(self, bits, tmp_path):
        """Token by token, as the whole-model path would run, and at once."""
        model = tiny_model(hidden_size=64, head_dim=32, deep_embed_dim=4, deep_embed_attn_dim=12)
        model.save_pretrained(tmp_path)
        config = RWKVQuantizationConfig(bits=bits)
        quantised = RWKV7ForCausalLM.from_pretrained(tmp_path, quantization_config=config).eval()
        assert plan_of(quantised.model.layers) is None
        ids = IDS % model.config.vocab_size
        expected, cache = quantised(ids).logits, RWKV7Cache(model.config)
        found = torch.cat([quantised(ids[:, i : i + 1], cache=cache).logits for i in range(TIME)], dim=1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        for layer in quantised.model.layers:
            torch.nn.init.zeros_(layer.ffn.deep_embed.s_lora.lora[2].weight)
        assert (quantised(ids).logits - expected).abs().max() > 0.1


class TestTokenIds:
    def test_embeddings_need_the_tokens_that_stand_there(self, model):
        ids = torch.tensor([PROMPT])
        embeds = model.get_input_embeddings()(ids)
        with pytest.raises(ValueError, match="inputs_embeds alone are not enough: .* or also token_ids"):
            model(inputs_embeds=embeds)
        with pytest.raises(ValueError, match=r"token_ids have the shape \(1, 3\), expected \(1, 7\)"):
            model(inputs_embeds=embeds, token_ids=ids[:, :3])
        with torch.no_grad():
            assert torch.equal(model(inputs_embeds=embeds, token_ids=ids).logits, model(ids).logits)

    @torch.no_grad()
    def test_other_embeddings_stand_where_tokens_are_looked_up(self, model, sizes):
        """As those of images and audio do: tables are of the ids, whatever enters the residual stream."""
        embeds = torch.randn(1, len(PROMPT), model.config.hidden_size, dtype=torch.float64)
        loop = DeepLoop(deep_checkpoint(sizes))
        expected = torch.stack([loop.read(token, x) for token, x in zip(PROMPT, embeds[0], strict=True)])
        found = model(inputs_embeds=embeds, token_ids=torch.tensor([PROMPT])).logits[0]
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)

    def test_generation_starts_from_embeddings_and_their_tokens(self, small):
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        embeds = small.get_input_embeddings()(IDS)
        found = small.generate(inputs_embeds=embeds, token_ids=IDS, **options)
        assert torch.equal(found, small.generate(IDS, **options)[:, TIME:])
        with pytest.raises(ValueError, match="inputs_embeds alone are not enough"):
            small.generate(inputs_embeds=embeds, **options)

    @torch.no_grad()
    def test_ids_of_32_bits(self, small):
        torch.testing.assert_close(small(IDS.int()).logits, small(IDS).logits, **NEAR)

    @torch.no_grad()
    def test_media_are_looked_up_as_their_placeholders(self, small):
        """What stands in the residual stream is another thing than whose tables are used."""
        text_config = composites.tiny_config().text_config.to_dict()
        deep = {name: getattr(small.config, name) for name in ("deep_embed_dim", "deep_embed_attn_dim")}
        composite = composites.tiny_composite("siglip", text_config=RWKV7Config(**text_config | deep))
        processor = composites.tiny_processor("siglip")
        inputs = processor(text=f"{processor.image_token}what", images=composites.random_image(), return_tensors="pt")
        features = torch.cat(composite.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output)
        ids, text_model = inputs["input_ids"], composite.model.language_model
        embeds = text_model.embeddings(ids)
        embeds[ids == composite.config.image_token_id] = features
        expected = composite.lm_head(text_model(inputs_embeds=embeds, token_ids=ids).last_hidden_state)
        assert torch.equal(composite(**inputs).logits, expected)
        as_text = composite.lm_head(text_model(input_ids=ids).last_hidden_state)
        assert not torch.allclose(as_text, expected, atol=1e-2)
        with pytest.raises(ValueError, match="inputs_embeds alone are not enough"):
            composite(inputs_embeds=embeds)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"deep_embed_dim": 0}, "deep_embed_dim=0 must be positive"),
        ({"deep_embed_dim": 4, "deep_embed_attn_dim": -1}, "deep_embed_attn_dim=-1 must be positive"),
        ({"deep_embed_attn_dim": 8}, "deep_embed_attn_dim is set, but not deep_embed_dim: RWKV-7b has both"),
    ],
)
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        RWKV7Config(**sizes)


def test_the_vocabulary_is_not_resized():
    model = tiny_model(deep_embed_dim=4)
    assert model.resize_token_embeddings(model.config.vocab_size) is model.get_input_embeddings()
    with pytest.raises(ValueError, match="vocabulary of 37 tokens cannot become one of 40"):
        model.resize_token_embeddings(40)


def test_a_state_that_grows_has_no_place_in_onnx(tmp_path):
    with pytest.raises(ValueError, match="has a state that grows"):
        export_onnx(tiny_model(deep_embed_dim=4, deep_embed_attn_dim=12), tmp_path / "model.onnx")
