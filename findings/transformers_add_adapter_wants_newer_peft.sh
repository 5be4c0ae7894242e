#!/usr/bin/env bash
# transformers 5.24.0: add_adapter refuses every PEFT that there is.
#
# It asks for peft >= 0.22.0, and the newest release on PyPI is 0.21.2 (2026-11-29). Loading an adapter that PEFT saved
# (from_pretrained of its folder, load_adapter) still works, as does PEFT's own get_peft_model. transformers 5.23.0 took
# the same call. Seen:
#
#     5.23.0: taken
#     5.24.0: The version of PEFT you are using is not compatible, please use a version >= 0.22.0
#
# Exits with an error once this changes, also when a newer PEFT is there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check -q install"
$pip torch==2.13.0 2>/dev/null
cat >"$folder/run.py" <<'PY'
import peft
import transformers

sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, vocab_size=50)
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
try:
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    print(f"{transformers.__version__}: taken")
except ValueError as error:
    print(f"{transformers.__version__}: {error}")
PY
$pip transformers==5.23.0 peft 2>/dev/null
"$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | tee "$folder/out"
$pip transformers==5.24.0 2>/dev/null
"$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | tee -a "$folder/out"
diff "$folder/out" - <<'SEEN'
5.23.0: taken
5.24.0: The version of PEFT you are using is not compatible, please use a version >= 0.22.0
SEEN
