"""Compile the Triton kernels for compute capability 9.0 with no GPU; print what they use as JSON.

Run by test_ops_scan_triton.py in a process of its own, where triton is not interpreted.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ssmlab.ops.scan import launch, triton_complex, triton_kernels
from ssmlab.ops.scan.backend import Problem

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
SIGNALS = ["x", "dt", "z", "y", "dy", "dx", "ddt", "dz", "B", "C"]


def resources(name: str, dtype: torch.dtype, **options: bool) -> dict[str, int]:
    """Compile one kernel of a real A at state 16 with every option on, as it is launched."""
    length, channels, state = 64, 2048, 16
    x = torch.empty(8, length, channels, dtype=dtype)
    A, B = torch.empty(channels, state), torch.empty(8, length, state, dtype=dtype)
    d = A[:, 0]
    call = launch.Call(Problem(x, x, A, B, B, A, D=d, z=x, dt_bias=d, softplus=True))
    function, constants = triton_kernels.specialised(call, name, **options)
    others = [a for a in function.arg_names if a not in constants]
    sizes = others.index("length")
    signature = {}
    for i, argument in enumerate(others):
        pointer = f"*{NAMES[dtype] if argument in SIGNALS else 'fp32'}"
        signature[argument] = pointer if i < sizes else "i32"
    signature |= dict.fromkeys(constants, "constexpr")
    units = {a for a in others[sizes:] if a.endswith(("xd", "dd", "yd", "zd", "n"))}
    signature |= dict.fromkeys(units, "constexpr")
    attributes = {
        (function.arg_names.index(a),): [["tt.divisibility", 16]] for a in others if a not in units
    }
    return used(ASTSource(function, signature, constants | dict.fromkeys(units, 1), attributes))


def resources_of_complex(name: str) -> dict[str, int]:
    """Compile one kernel of a complex A at state 16, all of it in float32."""
    function = getattr(triton_complex, f"{name}_kernel")
    constants = {"STATE": 16, "LANES": 16, "TILE": 16, "STEPS": launch.STEPS}
    constants |= {"STEP_B": True, "STEP_C": True, "KEEP": True}
    constants = {k: v for k, v in constants.items() if k in function.arg_names}
    others = [a for a in function.arg_names if a not in constants]
    sizes = others.index("length")
    signature = {a: "*fp32" if i < sizes else "i32" for i, a in enumerate(others)}
    return used(ASTSource(function, signature | dict.fromkeys(constants, "constexpr"), constants))


def used(source: ASTSource) -> dict[str, int]:
    """Compile for one warp, and read what the machine code uses."""
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": 1},
    )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run(
            [tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
    found = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text))
    return {
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]),
        "local": int(found["LOCAL"]),
        "shared": int(found["SHARED"]),
        "exponentials": compiled.asm["ptx"].count("ex2.approx"),
    }


if __name__ == "__main__":
    compiled = {
        "forward bf16": ("forward", torch.bfloat16, {"KEEP": False}),
        "forward and keep fp32": ("forward", torch.float32, {"KEEP": True}),
        "forward and keep bf16": ("forward", torch.bfloat16, {"KEEP": True}),
        "channels bf16": ("channels", torch.bfloat16, {}),
        "states bf16": ("states", torch.bfloat16, {}),
    }
    found = {k: resources(name, dtype, **o) for k, (name, dtype, o) in compiled.items()}
    found |= {f"complex A, {k}": resources_of_complex(k) for k in ("forward", "backward")}
    print(json.dumps(found))
