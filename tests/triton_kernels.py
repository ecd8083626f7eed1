"""Triton kernels without a GPU: run by Triton's interpreter, and compiled for GPUs that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which torch for Linux brings")


def interpreted(code: str, folder: Path, **given: object) -> dict[str, np.ndarray]:
    """Run code that finds arrays in ``given`` and puts some into ``found``.

    In a process of its own, as the interpreter is chosen when Triton is imported.
    """
    before, after = folder / "given.npz", folder / "found.npz"
    np.savez(before, **given)  # type: ignore[arg-type]
    lines = f"import numpy as np, torch\ngiven, found = np.load({str(before)!r}), {{}}\n{code}\n"
    lines += f"np.savez({str(after)!r}, **found)"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", lines], check=True, env=environment, timeout=300)
    with np.load(after) as arrays:
        return dict(arrays)


def machine_code(kernel: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, **arguments: str | int) -> bytes:
    """A kernel for an NVIDIA GPU of compute capability 9.0; arguments: Triton's types, numbers for constants.

    The interpreter takes any Python; the compiler does not, and no machine without a GPU would tell.
    """
    triton = pytest.importorskip("triton", minversion="3.3", reason="compiles by the interface of Triton 3.3")
    from triton.backends.compiler import GPUTarget

    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    signature = {name: kind if isinstance(kind, str) else "constexpr" for name, kind in arguments.items()}
    constants = {
        (kernel.arg_names.index(name),): value for name, value in arguments.items() if not isinstance(value, str)
    }
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    return bytes(compiled.asm["cubin"])
