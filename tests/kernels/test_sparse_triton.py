from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from workbench.kernels import entmax_attention, softpick_attention

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


def ran(module, folder, **environment):
    """What a process of its own prints: triton reads its variables when it is imported."""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables = plain | {"TRITON_CACHE_DIR": str(folder)} | environment
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_triton_kernels_are_the_materialised_pattern_in_the_interpreter(tmp_path):
    assert "equal" in ran("tests.kernels.sparse_triton_cases", tmp_path, TRITON_INTERPRET="1")


def test_the_triton_kernels_compile_for_a_gpu(tmp_path):
    assert "compiled" in ran("tests.kernels.sparse_compile_cases", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_triton_without_a_gpu_runs_in_torch_and_says_so():
    q = torch.randn(1, 2, 5, 4)
    with pytest.warns(UserWarning, match="Triton needs a GPU"):
        out = entmax_attention(q, q, q, backend="triton")
    assert torch.equal(out, entmax_attention(q, q, q, backend="torch"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        softpick_attention(q, q, q)
