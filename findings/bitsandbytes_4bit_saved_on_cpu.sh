#!/usr/bin/env bash
# bitsandbytes 0.50.2, 4 bits on a CPU with AVX512_BF16: save_pretrained changes the model, in memory and on disk.
#
# For inference there, a layer rearranges its weights and transposes its scales (absmax). Asked for a state dict, it
# arranges the weights back, but not the scales, unless they were quantised too (bnb_4bit_use_double_quant). Saving an
# adapter asks for a state dict as well. Nothing is raised. A stock Llama with random weights, largest difference of
# logits after save_pretrained over the largest logit, seen on 2026-11-29 (transformers 5.24.0, torch 2.13.0):
#
#     single quantisation: changed by more than a tenth: True
#     double quantisation: changed by more than a tenth: False
#
# Exits with an error once this changes. On other CPUs it says so and passes.
set -euo pipefail
if ! grep -qw avx512_bf16 /proc/cpuinfo; then
    echo "this CPU has no AVX512_BF16"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check -q install"
$pip torch==2.13.0
$pip transformers==5.24.0 accelerate==1.15.0
$pip --no-deps bitsandbytes==0.50.2
cat >"$folder/run.py" <<'PY'
import sys
import warnings

import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
torch.manual_seed(0)
sizes = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=300)
model = LlamaForCausalLM(LlamaConfig(**sizes))
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
model.save_pretrained(f"{sys.argv[1]}/whole")
ids = torch.arange(1, 19).view(2, 9)
for name, double in (("single", False), ("double", True)):
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_use_double_quant=double
    )
    model = LlamaForCausalLM.from_pretrained(
        f"{sys.argv[1]}/whole", quantization_config=config, device_map="cpu", dtype=torch.bfloat16
    ).eval()
    with torch.no_grad():
        before = model(ids).logits.float()
        model.save_pretrained(f"{sys.argv[1]}/{name}")
        change = (model(ids).logits - before).abs().max() / before.abs().max()
    print(f"{name} quantisation: changed by more than a tenth: {bool(change > 0.1)}")
PY
"$folder/venv/bin/python" "$folder/run.py" "$folder" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
single quantisation: changed by more than a tenth: True
double quantisation: changed by more than a tenth: False
SEEN
