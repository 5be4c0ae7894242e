#!/usr/bin/env bash
# transformers 5.24.0: the fixed sinusoids of Whisper's encoder are trained once a model was loaded.
#
# WhisperEncoder sets `embed_positions.requires_grad_(False)` when it is built: its positions are sinusoids and no
# parameters to learn, as in OpenAI's model. What `from_pretrained` returns has them trainable again, so fine-tuning a
# loaded checkpoint changes them, and weight decay pulls them to zero. Freezing them after loading helps. Seen on
# 2026-11-29 (torch 2.13.0):
#
#     built: trainable False
#     loaded: trainable True
#     loaded, after one step of AdamW: changed True
#
# Exits with an error once this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check -q install"
$pip torch==2.13.0
$pip transformers==5.24.0
cat >"$folder/run.py" <<'PY'
import sys

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration


config = WhisperConfig(
    vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8, max_source_positions=10, max_target_positions=8,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=[], begin_suppress_tokens=[],
)
built = WhisperForConditionalGeneration(config)
print("built: trainable", built.model.encoder.embed_positions.weight.requires_grad)
built.save_pretrained(sys.argv[1])
loaded = WhisperForConditionalGeneration.from_pretrained(sys.argv[1])
positions = loaded.model.encoder.embed_positions.weight
print("loaded: trainable", positions.requires_grad)

before = positions.detach().clone()
optimizer = torch.optim.AdamW(loaded.parameters(), lr=1e-3)
loaded(input_features=torch.randn(1, 8, 20), labels=torch.tensor([[3, 4, 5]])).loss.backward()
optimizer.step()
print("loaded, after one step of AdamW: changed", not torch.equal(positions, before))
PY
"$folder/venv/bin/python" "$folder/run.py" "$folder/model" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
built: trainable False
loaded: trainable True
loaded, after one step of AdamW: changed True
SEEN
