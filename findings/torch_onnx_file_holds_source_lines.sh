#!/usr/bin/env bash
# torch 2.13.0: an ONNX file tells where on the author's machine the model's code lies, and what stands in its lines.
#
# torch.onnx.export keeps, for every node, the path of the file, the number of the line and the line itself, as
# metadata `pkg.torch.onnx.stack_trace`. No argument leaves it out; of a small model it is most of the file.
# `for node in program.model.graph.all_nodes(): node.metadata_props.clear()` before `save` does. Seen on 2026-11-29
# (onnx 1.23.2, onnxscript 0.7.2), a model of one line in a file apart:
#
#     the file holds the folder of the code: True
#     the file holds the line of the code: True
#     without metadata: False False
#
# Exits with an error once this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check -q install"
$pip torch==2.13.0
$pip onnx==1.23.2 onnxscript==0.7.2
mkdir "$folder/home of the author"
cat >"$folder/home of the author/model.py" <<'PY'
import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return x.tanh() + 1  # a remark
PY
cat >"$folder/run.py" <<'PY'
import sys
import warnings
from pathlib import Path

import torch


warnings.simplefilter("ignore")
sys.path.insert(0, f"{sys.argv[1]}/home of the author")
from model import Model


program = torch.onnx.export(Model().eval(), (torch.randn(2, 3),), verbose=False)


def holds(*words):
    program.save(f"{sys.argv[1]}/model.onnx")
    return [word in Path(f"{sys.argv[1]}/model.onnx").read_bytes() for word in words]


of_the_code = b"home of the author/model.py", b"x.tanh() + 1"
folder, line = holds(*of_the_code)
print("the file holds the folder of the code:", folder)
print("the file holds the line of the code:", line)
for node in program.model.graph.all_nodes():
    node.metadata_props.clear()
print("without metadata:", *holds(*of_the_code))
PY
"$folder/venv/bin/python" "$folder/run.py" "$folder" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
the file holds the folder of the code: True
the file holds the line of the code: True
without metadata: False False
SEEN
