#!/usr/bin/env bash
# transformers 5.24.0: a tokenizer with a response_template makes the text-generation pipeline show special tokens.
#
# With return_full_text=False the answer to a chat is a text. Of a tokenizer without response_template it has no special
# tokens; of the same tokenizer with one it ends in them, as the pipeline keeps them for the parser, which it then calls
# for whole chats alone. (Asking for skip_special_tokens=True changes nothing.) Seen:
#
#     plain: 'b'
#     with a response_template: 'b <end>'
#     with a response_template, whole chat: {'role': 'assistant', 'content': 'b'}
#
# Exits with an error once this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check -q install"
$pip torch==2.13.0 transformers==5.24.0 2>/dev/null
cat >"$folder/run.py" <<'PY'
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, pipeline

words = {"<end>": 0, "a": 1, "b": 2}
backend = Tokenizer(models.WordLevel(words, unk_token="a"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>", unk_token="a")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
config = GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=2, eos_token_id=0, bos_token_id=0)
model = GPT2LMHeadModel(config).eval()
with torch.no_grad():  # whatever was read, "b" is the likeliest, unless the end is forced
    model.transformer.ln_f.weight.zero_()
    model.transformer.ln_f.bias.fill_(1)
    model.lm_head.weight.copy_(torch.tensor([[0.0], [0.0], [1.0]]).expand(3, 8))
chat = [{"role": "user", "content": "a"}]
options = {"max_new_tokens": 2, "do_sample": False, "forced_eos_token_id": 0}


def answer(**more):
    return pipeline("text-generation", model, tokenizer=tokenizer)(chat, **options, **more)[0]["generated_text"]


print("plain:", repr(answer(return_full_text=False)))
tokenizer.response_template = {
    "defaults": {"role": "assistant"},
    "start_anchor": "a",
    "fields": {"content": {"close": "<end>", "content": "text"}},
}
shown = {answer(return_full_text=False), answer(return_full_text=False, skip_special_tokens=True)}
print("with a response_template:", *map(repr, shown))
print("with a response_template, whole chat:", answer()[-1])
PY
"$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
plain: 'b'
with a response_template: 'b <end>'
with a response_template, whole chat: {'role': 'assistant', 'content': 'b'}
SEEN
