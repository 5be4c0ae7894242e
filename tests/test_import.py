# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the package and the start of the command import, and that the Auto classes know ours in any order."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import rwkv7_world
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM
from rwkv7_world.configuration.auto_classes import AUTO_CLASSES
from rwkv7_world.registration import LazyClasses


PACKAGE = Path(rwkv7_world.__file__).parent
CHECKPOINT = PACKAGE / "examples" / "tiny_world" / "checkpoint"
IMAGE = CHECKPOINT.parent / "samples" / "color.png"
MODELS = "rwkv7_world.modeling_rwkv7_world."
# Of single tasks. scipy, accelerate and torch's compiler are not here: transformers imports them with any model.
TASK_LIBRARIES = {
    "datasets",
    "evaluate",
    "jiwer",
    "matplotlib",
    "onnx",
    "pandas",
    "peft",
    "sklearn",
    "tensorboard",
}
TASK_FOLDERS = {f"rwkv7_world.{name}" for name in ("adapters", "conversion", "evaluation", "publishing", "training")}

USE_AUTO_CLASSES = f"""
import rwkv7_world
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor
config = AutoConfig.from_pretrained({str(CHECKPOINT)!r}, trust_remote_code=False)
assert type(config) is rwkv7_world.RWKVWorldConfig
model = AutoModelForMultimodalLM.from_config(config)
assert type(model) is rwkv7_world.RWKVWorldForConditionalGeneration
processor = AutoProcessor.from_pretrained({str(CHECKPOINT)!r}, trust_remote_code=False)
assert type(processor) is rwkv7_world.RWKVWorldProcessor
"""


def run(code: str, *arguments: str, code_of_exit: int = 0) -> subprocess.CompletedProcess:
    """Runs Python code in a fresh process."""
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == code_of_exit, result.stderr[-2000:]
    return result


def imported_by(code: str, *arguments: str) -> set[str]:
    """The names of the modules that a fresh process has imported once it has run `code`."""
    return set(run(f"{code}\nprint(*sys.modules, file=sys.stderr)", *arguments).stderr.split())


def imported_by_command(*arguments: str) -> set[str]:
    """As [`imported_by`], of the command."""
    code = """
import sys
from rwkv7_world.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
assert not status"""
    return imported_by(code, *arguments)


def test_the_package_imports_neither_torch_nor_transformers():
    names = imported_by("import sys, rwkv7_world; dir(rwkv7_world), rwkv7_world.__all__")
    assert "rwkv7_world.registration" in names
    assert not names & {"torch", "transformers", "numpy", "huggingface_hub"}


def test_a_text_model_comes_without_the_composite():
    code = """
import sys, rwkv7_world
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("rwkv7", vocab_size=8, hidden_size=64, num_hidden_layers=1)
print(*sys.modules)
assert type(AutoModelForCausalLM.from_config(config)).__name__ == "RWKV7ForCausalLM\""""
    result = run(f"{code}\nprint(*sys.modules, file=sys.stderr)")
    assert not [name for name in result.stdout.split() if name.startswith(MODELS)]  # the configuration alone
    others = {f"{MODELS}modeling_rwkv_world", f"{MODELS}modeling_vision_towers", "rwkv7_world.processing.media"}
    assert not set(result.stderr.split()) & others


ORDERS = {
    "package first": USE_AUTO_CLASSES,
    "a spawned worker, which unpickles": f"""
import pickle
config = pickle.loads({pickle.dumps(RWKV7Config(vocab_size=8, hidden_size=64, num_hidden_layers=1))!r})
from transformers import AutoModelForCausalLM
assert type(AutoModelForCausalLM.from_config(config)).__module__.startswith({MODELS!r})""",
    "transformers first, and both again": f"""
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline
import importlib
{USE_AUTO_CLASSES}
importlib.reload(rwkv7_world)
{USE_AUTO_CLASSES}
importlib.reload(importlib.import_module("transformers.models.auto.configuration_auto"))
{USE_AUTO_CLASSES}""",
    "a model before an Auto class": f"""
import rwkv7_world.modeling_rwkv7_world.modeling_rwkv_world
{USE_AUTO_CLASSES}""",
    "threads": f"""
import sys, threading, transformers  # which itself may not be imported by two threads at once
sys.setswitchinterval(1e-4)
def use(): exec({USE_AUTO_CLASSES!r}, {{}}); done.append(1)
def adapt():
    import rwkv7_world, peft
    assert "STATE_TUNING" in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    done.append(1)
def quantize():
    import rwkv7_world
    from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig
    config = AutoQuantizationConfig.from_dict({{"quant_method": "rwkv7_world", "bits": 8}})
    assert type(config) is rwkv7_world.RWKVQuantizationConfig
    assert type(AutoHfQuantizer.from_config(config)) is rwkv7_world.RWKVQuantizer
    done.append(1)
done, threads = [], [threading.Thread(target=target) for target in (use, adapt, quantize, use)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(done) == 4""",
}


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_ours_in_any_order(order):
    run(ORDERS[order])


def test_public_names_are_the_same_to_python_and_to_type_checkers():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    checked = {alias.name: f".{node.module}" for node in block.body for alias in node.names}
    assert checked == rwkv7_world._MODULES
    assert sorted(checked) == rwkv7_world.__all__
    assert {*rwkv7_world.__all__, "__version__"} <= set(dir(rwkv7_world))
    for name in rwkv7_world.__all__:
        assert getattr(rwkv7_world, name).__name__ == name
    with pytest.raises(AttributeError, match="'rwkv7_world' has no attribute 'RWKV8Config'"):
        rwkv7_world.RWKV8Config  # noqa: B018


@pytest.mark.parametrize("model_type", AUTO_CLASSES)
def test_names_are_those_of_the_classes(model_type):
    for auto_class, name in AUTO_CLASSES[model_type].items():
        ours = getattr(rwkv7_world, name)
        if auto_class == "AutoConfig":
            assert (ours.model_type, ours.auto_classes) == (model_type, AUTO_CLASSES[model_type])
            assert CONFIG_MAPPING[model_type] is ours
        if auto_class.startswith("AutoModel"):
            config_class = getattr(rwkv7_world, AUTO_CLASSES[model_type]["AutoConfig"])
            assert getattr(modeling_auto, auto_class)._model_mapping[config_class] is ours


def test_models_are_known_by_name():
    """As `transformers serve` and the pipelines look them up."""
    assert modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["rwkv7"] == "RWKV7ForCausalLM"
    names = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert names["rwkv_world"] == "RWKVWorldForConditionalGeneration"
    assert "rwkv7" not in names


def test_classes_and_registries_survive_pickling():
    assert pickle.loads(pickle.dumps(RWKV7ForCausalLM)) is RWKV7ForCausalLM
    assert pickle.loads(pickle.dumps(RWKV7Config(num_hidden_layers=3))).num_hidden_layers == 3
    assert pickle.loads(pickle.dumps(CONFIG_MAPPING))["rwkv7"] is RWKV7Config
    mapping = pickle.loads(pickle.dumps(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING))
    assert mapping[RWKV7Config] is RWKV7ForCausalLM


class TestLazyClasses:
    @pytest.fixture
    def loaded(self):
        return []

    @pytest.fixture
    def classes(self, loaded):
        names = {"ours": "A", "more": "B"}
        load = lambda name: loaded.append(name) or name.lower()  # noqa: E731
        return LazyClasses({"theirs": 1, "ours": 2}, names.get, names.keys, load)

    def test_ours_are_there_before_they_are_loaded(self, classes, loaded):
        assert "ours" in classes and "theirs" in classes and "none" not in classes
        assert classes.get("none", 3) == 3 and classes["theirs"] == 1 and not loaded
        assert classes["ours"] == classes.get("ours") == "a" and loaded == ["A"]
        with pytest.raises(KeyError):
            classes["none"]

    @pytest.mark.parametrize(
        "of", [dict, lambda classes: dict(classes.items()), lambda c: dict(zip(c.keys(), c.values(), strict=True))]
    )
    def test_all_are_loaded_when_listed(self, of, classes):
        assert of(classes) == {"theirs": 1, "ours": "a", "more": "b"}

    def test_others_may_register_over_ours(self, classes, loaded):
        classes["ours"] = "theirs"
        assert classes["ours"] == "theirs" and len(classes) == 3 and loaded == ["B"]


@pytest.mark.parametrize("arguments", ["--help", "--version", "-V", "generate --help", "train --help"])
def test_help_imports_no_library(arguments):
    names = imported_by_command(*arguments.split())
    assert "rwkv7_world.cli.generate" in names
    assert not names & {"torch", "transformers", "numpy", "huggingface_hub", "rich", "PIL"}


def test_completion_imports_shtab_alone():
    pytest.importorskip("shtab")
    names = imported_by_command("--print-completion", "bash")
    assert "shtab" in names and not names & {"torch", "transformers", "numpy"}


def test_an_answer_imports_only_what_it_needs():
    names = imported_by_command(
        "generate", str(CHECKPOINT), "What colour?", "--image", str(IMAGE), "--max-new-tokens", "1"
    )
    assert f"{MODELS}modeling_rwkv_world" in names
    assert not names & (TASK_LIBRARIES | TASK_FOLDERS | {f"{MODELS}modeling_vision_towers", f"{MODELS}quantization"})


def test_kernels_leave_out_the_compiler_of_torch():
    names = imported_by("import sys, rwkv7_world.kernels.wkv7")
    assert "torch" in names and not names & {"torch._dynamo", "torch._inductor", "sympy", "triton"}


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_a_missing_library_is_one_line(library):
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from rwkv7_world.cli.main import main
sys.exit(main(["info", "nothing"]))"""
    (line,) = run(code, code_of_exit=2).stderr.splitlines()
    assert line.startswith(f"rwkv7-world: error: {library} is not installed")
    assert line.endswith("pip install rwkv7-world")


def test_the_module_is_the_command():
    script = run("from rwkv7_world.cli.main import main; main(['--help'])").stdout
    module = subprocess.run([sys.executable, "-m", "rwkv7_world", "--help"], capture_output=True, text=True)
    assert (module.returncode, module.stdout) == (0, script)
    assert script.startswith("usage: rwkv7-world ")
