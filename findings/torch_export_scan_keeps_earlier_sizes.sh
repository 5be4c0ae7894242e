#!/usr/bin/env bash
# torch 2.13.0: what one export of a `scan` took for fixed stays fixed in the next export of the same process.
#
# A running sum over (time, batch, 4) takes any time and any batch. Exported once with the time dynamic, and then with
# both, it no longer takes any batch: torch.export.export raises on the same arguments that it takes in a new process,
# and torch.onnx.export says nothing and writes the batch of the example into the file, for which ONNX Runtime refuses
# every other. What remembers is Dynamo, which traces the function of the scan: torch._dynamo.reset() helps. Seen on
# 2026-11-29 (onnx 1.23.2, onnxscript 0.7.2):
#
#     torch.export, both sizes dynamic, first: exported
#     torch.export, both sizes dynamic, after an export with the time alone: UserError
#     torch.onnx, both sizes dynamic, after it: ['time', 3, 4]
#     torch.onnx, both sizes dynamic, after torch._dynamo.reset(): ['time', 'batch', 4]
#
# Exits with an error once this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check -q install"
$pip torch==2.13.0
$pip onnx==1.23.2 onnxscript==0.7.2
cat >"$folder/run.py" <<'PY'
import warnings

import torch
from torch._higher_order_ops.scan import scan
from torch.export import Dim


warnings.simplefilter("ignore")


class RunningSum(torch.nn.Module):
    def forward(self, x, start):
        def add(total, now):
            total = total + now
            return total, total.clone()

        return scan(add, start, x, dim=0)


def export(exporter, shapes, **options):
    return exporter(RunningSum().eval(), (torch.randn(5, 3, 4), torch.randn(3, 4)), dynamic_shapes=shapes, **options)


def in_onnx():
    (x, _) = export(torch.onnx.export, both, verbose=False).model.graph.inputs
    return [size if isinstance(size, int) else size.value for size in x.shape]


time, batch = Dim("time"), Dim("batch")
both, time_alone = ({0: time, 1: batch}, {0: batch}), ({0: time}, None)
export(torch.export.export, both)
print("torch.export, both sizes dynamic, first: exported")
torch._dynamo.reset()
export(torch.export.export, time_alone)
try:
    export(torch.export.export, both)
except torch._dynamo.exc.UserError:
    print("torch.export, both sizes dynamic, after an export with the time alone: UserError")
print("torch.onnx, both sizes dynamic, after it:", in_onnx())
torch._dynamo.reset()
print("torch.onnx, both sizes dynamic, after torch._dynamo.reset():", in_onnx())
PY
"$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
torch.export, both sizes dynamic, first: exported
torch.export, both sizes dynamic, after an export with the time alone: UserError
torch.onnx, both sizes dynamic, after it: ['time', 3, 4]
torch.onnx, both sizes dynamic, after torch._dynamo.reset(): ['time', 'batch', 4]
SEEN
