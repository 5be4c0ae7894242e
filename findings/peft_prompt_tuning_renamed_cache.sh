#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0: a Llama with prompt tuning generates other tokens with its cache than without.
#
# transformers 5.24 hands the cache to a model as `cache`, where 5.23 said `past_key_values`. PEFT still asks the
# prepared inputs for `past_key_values`, finds none, and so puts the learned tokens in front again at every step.
# Nothing is raised. Seen on 2026-11-29 (CPU, torch 2.13.0):
#
#     5.23.0 cache equals no cache: True
#     5.24.0 cache equals no cache: False
#
# Exits with an error once this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check -q install"
$pip torch==2.13.0
cat >"$folder/run.py" <<'PY'
import warnings

import peft
import torch
import transformers

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=300)
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
model = peft.get_peft_model(model, prompt).eval()
torch.nn.init.normal_(model.prompt_encoder.default.embedding.weight)
ids = torch.randint(1, 300, (1, 9))
options = dict(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0)
same = torch.equal(model.generate(**options), model.generate(**options, use_cache=False))
print(transformers.__version__, "cache equals no cache:", same)
PY
$pip transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | tee "$folder/out"
$pip transformers==5.24.0
"$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | tee -a "$folder/out"
diff "$folder/out" - <<'SEEN'
5.23.0 cache equals no cache: True
5.24.0 cache equals no cache: False
SEEN
