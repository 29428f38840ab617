"""Compile the Triton kernels for a GPU that need not be there; run in a process without the interpreter."""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from workbench.kernels import triton_backward, triton_entmax, triton_pointwise
from workbench.kernels.statistics import triton_columns, triton_gradient

SIZES = {"HEADS": 4, "SHARED": 2, "WIDTH": 64, "V_WIDTH": 64, "BLOCK": 64, "V_BLOCK": 64, "M": 64, "N": 64}
SIGHT = {"CAUSAL": True, "WINDOW": 0, "MASKED": True}
POINTERS = {
    "mask": "*u8",
    "live": "*i8",
    "n_queries": "i32",
    "n_keys": "i32",
    "scale": "fp32",
    "eps": "fp32",
    "cap": "fp32",
    "threshold": "fp32",
}
HALF = ("q_base", "k_base", "v_base", "dz_base", "out_base")
# What one block may use on the GPU that is compiled for.
SHARED_MEMORY = 227 * 1024


def compiled(kernel, **own):
    """Raises where the compiler does."""
    constants = {name: value for name, value in (SIZES | SIGHT | own).items() if name in kernel.arg_names}
    types = {name: "constexpr" if name in constants else POINTERS.get(name, "*fp32") for name in kernel.arg_names}
    types |= {name: "*bf16" for name in HALF if name in types}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    built = triton.compile(
        ASTSource(kernel, types, constexprs=values), target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}
    )
    assert "ptx" in built.asm
    assert built.metadata.shared <= SHARED_MEMORY


compiled(triton_entmax.entmax_forward, KIND="1.5", STEPS=30)
compiled(triton_entmax.entmax_means, KIND="any", LEARNS=True)
compiled(triton_backward.at_queries, SPARSE=True, RULE="entmax-1.5")
compiled(triton_backward.at_keys, SPARSE=True, RULE="entmax-1.5")
compiled(triton_pointwise.pointwise_forward, RULE="softpick")
for precision in ("tf32", "ieee"):
    side = 64 if precision == "tf32" else 32
    for kernel in (triton_gradient.by_queries, triton_gradient.by_keys):
        compiled(kernel, CAP=True, PRECISION=precision, M=side, N=side)
compiled(triton_columns.columns, CAP=True)
print("compiled")  # noqa: T201
