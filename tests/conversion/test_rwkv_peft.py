# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-PEFT's files of every method and era compute what their formula says: as adapters, merged, and sent back.

The files are written here, and so are the formulas: the expected model is a plain one with its weights changed.
"""

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file

from helpers.adapters import logits_of, randomize_adapter
from helpers.blinkdl import (
    Sizes,
    config_of,
    fla_state_dict,
    greedy_in_rwkv_package,
    load_in_rwkv_package,
    random_checkpoint,
)
from helpers.composites import tiny_composite
from helpers.text_models import random_ids
from rwkv7_world import RWKV7ForCausalLM, RWKVWorldForConditionalGeneration
from rwkv7_world.adapters import StateTuningConfig, attach_adapter, load_adapter
from rwkv7_world.conversion.rwkv_peft import convert_rwkv_peft
from rwkv7_world.conversion.rwkv_peft_export import export_rwkv_peft
from rwkv7_world.conversion.rwkv_peft_names import holds_rwkv_peft
from rwkv7_world.state.states import load_trained_state


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what the package is written in

SIZES = Sizes(layers=2)
RANK, ALPHA = 8, 12.0
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
IDS = random_ids(2, 9, vocab_size=SIZES.vocab)
CHECKPOINT = random_checkpoint(SIZES)
MATRICES = [
    f"blocks.{layer}.{name}"
    for layer in range(SIZES.layers)
    for name in ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value")
]
HEADS = SIZES.hidden // SIZES.head_size
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(5)
    return lambda *shape, scale=0.1: scale * torch.randn(*shape, generator=generator)


def plain(checkpoint: Tensors) -> RWKV7ForCausalLM:
    model = RWKV7ForCausalLM(config_of(checkpoint)).eval()
    model.load_state_dict(fla_state_dict(checkpoint))
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    plain(CHECKPOINT).save_pretrained(folder)
    return folder


def weights() -> dict[str, torch.Tensor]:
    return {name: CHECKPOINT[f"{name}.weight"] for name in MATRICES}


def expected_logits(changes: Tensors) -> torch.Tensor:
    """Of the base model with these tensors, by their names in BlinkDL's format, in place of its own."""
    return logits_of(plain(CHECKPOINT | changes), IDS)


def blocks_of(weight: torch.Tensor, rank: int):
    """(a, b) and the block of that row and column, a view of the weight."""
    for a in range(weight.shape[0] // rank):
        for b in range(weight.shape[1] // rank):
            yield a, b, weight[a * rank : (a + 1) * rank, b * rank : (b + 1) * rank]


def lora(noise) -> tuple[Tensors, Tensors]:
    file, changes = {}, {}
    for name, weight in weights().items():
        down, up = noise(RANK, weight.shape[1]), noise(weight.shape[0], RANK)
        file |= {f"{name}.lora_A": down, f"{name}.lora_B": up}
        changes[f"{name}.weight"] = weight + ALPHA / RANK * up @ down
    return file, changes


def bone(noise, key: str, rank: int = RANK) -> tuple[Tensors, Tensors]:
    file, changes = {}, {}
    for name, weight in weights().items():
        file[f"{name}.{key}"] = block = noise(rank, weight.shape[0])
        changed = weight.clone()
        for column in range(weight.shape[1]):
            changed[:, column] += block[column % rank]
        changes[f"{name}.weight"] = changed
    return file, changes


def bat(noise, key: str) -> tuple[Tensors, Tensors]:
    file, changes = {}, {}
    for name, weight in weights().items():
        file[f"{name}.{key}"] = block = noise(weight.shape[1] // RANK, RANK, RANK)
        changed = weight.clone()
        for _, b, part in blocks_of(changed, RANK):
            part += part @ block[b] + block[b]
        changes[f"{name}.weight"] = changed
    return file, changes


def old_bone(noise) -> tuple[Tensors, Tensors]:
    file, changes = {}, {}
    for name, weight in weights().items():
        file[f"{name}.bone"] = block = noise(weight.shape[0], RANK)
        changed = weight.clone()
        for a, _, part in blocks_of(changed, RANK):
            rows = block[a * RANK : (a + 1) * RANK]
            part += part @ rows + rows
        changes[f"{name}.weight"] = changed
    return file, changes


def norms(noise) -> Tensors:
    """All norms, which RWKV-PEFT trains beside its adapters."""
    is_norm = ("ln0", "ln1", "ln2", "ln_x", "ln_out")
    return {name: x + noise(*x.shape) for name, x in CHECKPOINT.items() if name.split(".")[-2] in is_norm}


def states(noise) -> Tensors:
    shape = (HEADS, SIZES.head_size, SIZES.head_size)
    return {f"blocks.{layer}.att.time_state": noise(*shape, scale=1.0) for layer in range(SIZES.layers)}


def write(path: Path, tensors: Tensors) -> Path:
    torch.save(tensors, path)
    assert holds_rwkv_peft(path)
    return path


def check(folder: Path, base: Path, expected: torch.Tensor) -> PeftModel:
    """Unmerged, by our own loading, and merged."""
    adapted = AutoPeftModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits_of(adapted, IDS), expected, **TOLERANCE)
    ours = load_adapter(RWKV7ForCausalLM.from_pretrained(base), folder)
    torch.testing.assert_close(logits_of(ours, IDS), expected, **TOLERANCE)
    torch.testing.assert_close(logits_of(adapted.merge_and_unload(), IDS), expected, **TOLERANCE)
    return ours


class TestImport:
    def test_lora_with_its_norms(self, base, noise, tmp_path):
        file, changes = lora(noise)
        trained_norms = norms(noise)
        path = write(tmp_path / "rwkv-0.pth", file | trained_norms)
        done = convert_rwkv_peft(path, tmp_path / "out", base, alpha=ALPHA)
        assert (done.method, done.rank, done.merged, done.tensors) == ("LoRA", RANK, False, len(file | trained_norms))
        check(tmp_path / "out", base, expected_logits(changes | trained_norms))

    def test_lora_with_states_head_and_embeddings(self, base, noise, tmp_path):
        file, changes = lora(noise)
        whole = {name: CHECKPOINT[name] + noise(*CHECKPOINT[name].shape) for name in ("emb.weight", "head.weight")}
        trained = states(noise)
        convert_rwkv_peft(write(tmp_path / "a.pth", file | whole | trained), tmp_path / "out", base, alpha=ALPHA)
        model = plain(CHECKPOINT | changes | whole)
        torch.save(trained, tmp_path / "state.pth")
        state = load_trained_state(tmp_path / "state.pth", model, batch_size=2)
        check(tmp_path / "out", base, logits_of(model, IDS, past_key_values=state))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_pissa_leaves_the_base_model_as_it_is(self, base, noise, dtype, tmp_path):
        """What is trained, in any dtype, stands beside the rest of a decomposed weight, W - B0 A0, in float32."""
        file, changes = lora(noise)
        init = {}
        for name, weight in weights().items():
            left, scale, right = torch.linalg.svd(weight)
            root = scale[:RANK].sqrt()
            down, up = root[:, None] * right[:RANK], left[:, :RANK] * root
            init |= {f"model.{name}.init_lora_A": down, f"model.{name}.init_lora_B": up}
            trained = [(x + noise(*x.shape)).to(dtype) for x in (down, up)]
            file[f"{name}.lora_A"], file[f"{name}.lora_B"] = trained
            trained = [x.float() for x in trained]
            changes[f"{name}.weight"] = weight - up @ down + trained[1] @ trained[0]
        torch.save(init, tmp_path / "init_pissa.pth")
        path = write(tmp_path / "pissa.pth", file)
        done = convert_rwkv_peft(path, tmp_path / "out", base, init_pissa=tmp_path / "init_pissa.pth")
        assert (done.method, done.rank) == ("PiSSA", RANK)
        check(tmp_path / "out", base, expected_logits(changes))

    @pytest.mark.parametrize("key, rank", [("bone", RANK), ("disha", RANK), ("disha", 9)])
    def test_bone_is_miss(self, base, noise, tmp_path, key, rank):
        """Of both names of its key, and of a rank that does not divide the inputs."""
        file, changes = bone(noise, key, rank)
        done = convert_rwkv_peft(write(tmp_path / "a.pth", file), tmp_path / "out", base)
        assert (done.method, done.rank, done.merged) == ("Bone (MiSS)", rank, False)
        check(tmp_path / "out", base, expected_logits(changes))

    def test_old_bone_is_what_peft_calls_bat(self, base, noise, tmp_path):
        file, changes = old_bone(noise)
        done = convert_rwkv_peft(write(tmp_path / "a.pth", file), tmp_path / "out", base)
        assert (done.method, done.rank, done.merged) == ("old Bone", RANK, False)
        check(tmp_path / "out", base, expected_logits(changes))

    @pytest.mark.parametrize("key", ["bone", "disha"])
    def test_bat_is_merged(self, base, noise, tmp_path, key):
        file, changes = bat(noise, key)
        done = convert_rwkv_peft(write(tmp_path / "a.pth", file), tmp_path / "out", base)
        assert (done.method, done.rank, done.merged) == ("Bat", RANK, True)
        model = RWKV7ForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(logits_of(model, IDS), expected_logits(changes), **TOLERANCE)

    def test_all_methods_can_be_merged(self, base, noise, tmp_path):
        methods = {
            "lora": (*lora(noise), {"alpha": ALPHA}),
            "bone": (*bone(noise, "disha", 9), {}),
            "old": (*old_bone(noise), {}),
        }
        for name, (file, changes, options) in methods.items():
            trained_norms = norms(noise)
            path = write(tmp_path / f"{name}.pth", file | trained_norms)
            assert convert_rwkv_peft(path, tmp_path / name, base, merge=True, **options).merged
            model = RWKV7ForCausalLM.from_pretrained(tmp_path / name)
            torch.testing.assert_close(logits_of(model, IDS), expected_logits(changes | trained_norms), **TOLERANCE)

    def test_bone_beside_a_state_is_merged_with_it(self, base, noise, tmp_path):
        file, changes = bone(noise, "disha")
        trained = states(noise)
        assert convert_rwkv_peft(write(tmp_path / "a.pth", file | trained), tmp_path / "out", base).merged
        torch.save(trained, tmp_path / "state.pth")
        model = plain(CHECKPOINT | changes)
        state = load_trained_state(tmp_path / "state.pth", model, batch_size=2)
        merged, report = RWKV7ForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not any(report.values())
        torch.testing.assert_close(logits_of(merged, IDS), logits_of(model, IDS, past_key_values=state), **TOLERANCE)

    @pytest.mark.parametrize("prefix", ["", "model."])
    def test_states_of_the_recurrence_and_of_the_token_shift(self, base, noise, tmp_path, prefix):
        trained = {name: x.bfloat16() for name, x in states(noise).items()}
        tokens = {f"blocks.{layer}.att.ts_state": noise(SIZES.hidden, scale=1.0) for layer in range(SIZES.layers)}
        file = {prefix + name: tensor for name, tensor in (trained | tokens).items()}
        done = convert_rwkv_peft(write(tmp_path / "a.pth", file), tmp_path / "out", base)
        assert (done.method, done.rank, done.merged) == ("state", 0, False)
        model = plain(CHECKPOINT)
        torch.save(trained, tmp_path / "state.pth")
        state = load_trained_state(tmp_path / "state.pth", model, batch_size=2)
        for layer, token in enumerate(tokens.values()):
            state.update_shift_state(token.expand(2, -1), layer, 0)
        adapted = check(tmp_path / "out", base, logits_of(model, IDS, past_key_values=state))
        assert adapted.peft_config["default"].tune_tokens

    def test_a_composite_gets_it_on_its_language_model(self, noise, tmp_path):
        composite = tiny_composite("siglip")
        composite.save_pretrained(tmp_path / "base")
        layer = composite.model.language_model.layers[1]
        down, up = noise(4, 32), noise(32, 4)
        path = write(tmp_path / "a.pth", {"blocks.1.att.key.lora_A": down, "blocks.1.att.key.lora_B": up})
        convert_rwkv_peft(path, tmp_path / "out", tmp_path / "base", alpha=2.0)
        base = RWKVWorldForConditionalGeneration.from_pretrained(tmp_path / "base")
        adapted = load_adapter(base, tmp_path / "out")
        ids = random_ids(2, 6, vocab_size=15)
        with torch.no_grad():
            layer.attn.k_proj.weight += 0.5 * up @ down
        torch.testing.assert_close(logits_of(adapted, ids), logits_of(composite, ids), **TOLERANCE)


class TestRefusals:
    @pytest.fixture
    def refusal(self, base, tmp_path):
        def refuse(tensors: Tensors, message: str, **options) -> None:
            torch.save(tensors, tmp_path / "a.pth")
            with pytest.raises(ValueError, match=message) as error:
                convert_rwkv_peft(tmp_path / "a.pth", tmp_path / "out", base, **options)
            assert str(tmp_path) in str(error.value) and not (tmp_path / "out").exists()

        return refuse

    def test_what_only_the_user_knows(self, refusal, noise):
        refusal(lora(noise)[0], r"does not tell LoRA's alpha: give the --alpha .* or for PiSSA its init_pissa\.pth")
        refusal(bone(noise, "bone")[0], "alpha was given, but Bone .* has none", alpha=4.0)

    def test_a_foreign_init_pissa(self, refusal, noise, tmp_path):
        file = lora(noise)[0]
        init = {f"{name}.init_{end}": file[f"{name}.{end}"] for name in MATRICES[:-1] for end in ("lora_A", "lora_B")}
        torch.save(init, tmp_path / "init.pth")
        refusal(
            file, r"not the init_pissa\.pth of .*, for example blocks\.1\.ffn\.value", init_pissa=tmp_path / "init.pth"
        )

    @pytest.mark.parametrize(
        "name, message",
        [
            ("blocks.0.att.time_offset", "OpenMOSE's state offset"),
            ("blocks.0.ffn.ts_state", "in a place where RWKV-PEFT has none"),
            ("blocks.0.att.time_maa_x", "an RWKV-6 model"),
            ("blocks.0.att.gate.lora_A", "a PEFT adapter"),
            ("blocks.0.att.x_r", "in an adapter of RWKV-PEFT"),
            ("blocks.2.att.key.disha", r"has the layer blocks\.2\.att\.key, but the base model has 2 layers"),
        ],
    )
    def test_tensors_without_a_place(self, refusal, noise, name, message):
        refusal(bone(noise, "disha")[0] | {name: torch.zeros(RANK, SIZES.hidden)}, message)

    def test_shapes_of_another_model(self, refusal, noise):
        refusal({"blocks.0.att.key.disha": noise(8, 64)}, r"has the shape \(8, 64\), expected \(r, 128\), \(128, r\)")
        refusal({"blocks.0.att.key.bone": noise(128, 128)}, r"is square, \(128, 128\), so that Bone and old Bone")
        state = {"blocks.0.att.time_state": noise(2, 64, 64), "blocks.1.att.time_state": noise(4, 32, 32)}
        refusal(state, r"blocks\.1\.att\.time_state has the shape \(4, 32, 32\), expected \(2, 64, 64\)")
        refusal({"blocks.0.att.time_state": noise(2, 64, 64)}, "the states of layer 1 are not those of the others")
        parts = {"blocks.0.att.key.lora_A": noise(8, 64), "blocks.0.att.key.lora_B": noise(128, 8)}
        refusal(parts, r"key\.lora_A has the shape \(8, 64\), expected \(8, 128\)", alpha=1.0)
        refusal({"blocks.0.att.key.lora_A": noise(8, 128)}, "has lora_A, which no method has together")
        mixed = {"blocks.0.att.key.disha": noise(8, 128), "blocks.0.att.value.disha": noise(4, 128)}
        refusal(mixed, "different methods or ranks")
        refusal({"ln_out.weight": noise(128)}, "holds no adapter of RWKV-PEFT")

    def test_a_base_that_is_none(self, noise, tmp_path):
        path = write(tmp_path / "a.pth", bone(noise, "disha")[0])
        with pytest.raises(FileNotFoundError, match="no such model folder"):
            convert_rwkv_peft(path, tmp_path / "out", tmp_path / "none")


class TestExport:
    @pytest.mark.parametrize(
        "spec",
        [
            {"method": "lora", "alpha": 6, "norms": True, "state": True},
            {"method": "lora", "targets": ["ffn.key"], "modules_to_save": ["k_proj", "lm_head"]},
            {"method": "miss"},
        ],
    )
    def test_an_adapter_comes_back_the_same(self, base, tmp_path, spec):
        model = randomize_adapter(attach_adapter(RWKV7ForCausalLM.from_pretrained(base), {**spec, "r": 4}))
        model.save_pretrained(tmp_path / "adapter")
        done = export_rwkv_peft(tmp_path / "adapter", tmp_path / "a.pth")
        alpha = {} if done.alpha is None else {"alpha": done.alpha}
        convert_rwkv_peft(tmp_path / "a.pth", tmp_path / "back", base, **alpha)
        before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "back"))
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        back = load_adapter(RWKV7ForCausalLM.from_pretrained(base), tmp_path / "back")
        torch.testing.assert_close(logits_of(back, IDS), logits_of(model, IDS), **TOLERANCE)

    def test_names_and_formula_are_rwkv_pefts(self, base, tmp_path):
        spec = {"method": "lora", "r": 4, "alpha": 6, "rslora": True}
        model = randomize_adapter(attach_adapter(RWKV7ForCausalLM.from_pretrained(base), spec))
        model.save_pretrained(tmp_path / "adapter")
        done = export_rwkv_peft(tmp_path / "adapter", tmp_path / "a.pth")
        file = torch.load(tmp_path / "a.pth")
        assert set(file) == {f"{name}.{end}" for name in MATRICES for end in ("lora_A", "lora_B")}
        changes = {
            f"{name}.weight": weight + done.alpha / 4 * file[f"{name}.lora_B"] @ file[f"{name}.lora_A"]
            for name, weight in weights().items()
        }
        torch.testing.assert_close(logits_of(model, IDS), expected_logits(changes), **TOLERANCE)

    def test_a_state_continues_the_same_in_the_rwkv_package(self, base, tmp_path):
        """Exported as a trained state of (heads, value, key), which is also the package's own layout for RWKV-7."""
        spec = {"method": "state"}
        model = randomize_adapter(attach_adapter(RWKV7ForCausalLM.from_pretrained(base), spec), scale=1.0)
        model.save_pretrained(tmp_path / "adapter")
        assert export_rwkv_peft(tmp_path / "adapter", tmp_path / "state.pth").method == "state"
        trained = torch.load(tmp_path / "state.pth")
        torch.save(CHECKPOINT, tmp_path / "model.pth")
        package = load_in_rwkv_package(tmp_path / "model.pth")
        answers = {}
        for kind in ("learned", "zero"):
            state = package.generate_zero_state()
            for layer in range(SIZES.layers) if kind == "learned" else ():
                state[3 * layer + 1] = trained[f"blocks.{layer}.att.time_state"].clone()
            logits, state = package.forward(IDS[0].tolist(), state)
            answers[kind] = greedy_in_rwkv_package(package, logits, state, 12)
        ours = model.generate(input_ids=IDS[:1], max_new_tokens=12, do_sample=False)[0, IDS.shape[1] :].tolist()
        assert ours == answers["learned"] != answers["zero"]

    @pytest.mark.parametrize(
        "spec, message",
        [
            ({"method": "dora", "r": 2}, "no place for the tensor .*lora_magnitude_vector"),
            ({"method": "pissa", "r": 2}, "go with a base model that pissa changed; merge the adapter instead"),
            ({"method": "bone", "r": 4, "init": "bat"}, "no place for MiSS of the kind bat"),
        ],
    )
    def test_what_rwkv_peft_has_no_place_for(self, base, tmp_path, spec, message):
        attach_adapter(RWKV7ForCausalLM.from_pretrained(base), spec).save_pretrained(tmp_path / "adapter")
        with pytest.raises(ValueError, match=message):
            export_rwkv_peft(tmp_path / "adapter", tmp_path / "a.pth")

    def test_trained_channel_mix_tokens_are_refused(self, base, tmp_path):
        model = attach_adapter(RWKV7ForCausalLM.from_pretrained(base), {"method": "state", "tokens": True})
        model.save_pretrained(tmp_path / "adapter")
        assert len(_exported(tmp_path)) == 4, "zeros need no place"
        assert isinstance(model.peft_config["default"], StateTuningConfig)
        randomize_adapter(model).save_pretrained(tmp_path / "other")
        with pytest.raises(ValueError, match="RWKV-PEFT's channel mix begins from zeros"):
            export_rwkv_peft(tmp_path / "other", tmp_path / "b.pth")

    def test_a_folder_without_adapter(self, base, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"not an adapter folder of PEFT, it holds no adapter_config\.json"
        ):
            export_rwkv_peft(base, tmp_path / "a.pth")


def _exported(folder: Path) -> Tensors:
    export_rwkv_peft(folder / "adapter", folder / "a.pth")
    return torch.load(folder / "a.pth")
