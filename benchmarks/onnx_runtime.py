"""The graph of a pass by ONNX Runtime, to hold beside OpenVINO's: `pip install onnxruntime
onnxscript`. It is no part of the program (docs/speed.md says why)."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hvaeood_cli.scoring.graph import _Pass, _silence
from hvaeood_cli.scoring.scorer import Pass, Scorer


def onnx_pass(scorer: Scorer, one: Pass) -> Callable[[], list[Any]]:
    """The same pass again and again. Raises ImportError without the library."""
    import onnxruntime

    ladder = copy.deepcopy(scorer.ladder).to(memory_format=torch.contiguous_format)
    example = tuple(tensor.contiguous() for tensor in (one.x, one.normal, one.uniform))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "pass.onnx")
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                _Pass(ladder, scorer.settings), example, dynamo=True, verbose=False
            )
        assert program is not None
        program.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {
        known.name: tensor.numpy()
        for known, tensor in zip(session.get_inputs(), example, strict=True)
    }

    def run() -> list[Any]:
        return list(session.run(None, inputs))

    bound = scorer.bounds(one).lower_bound.numpy()
    print(f"ONNX Runtime: L^>k differs by at most {np.abs(run()[0] - bound).max():.2g} nats")
    return run
