"""timm comes without torch's compiler, which is there as ever for who compiles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.networks import write_random_bundle

_COMPILER = ("torch._dynamo", "torch._inductor", "sympy")


def printed(code: str) -> list[str]:
    """What code prints in a process that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_neither_the_engine_nor_a_run_imports_the_compiler(tmp_path: Path) -> None:
    code = f"""
import sys, numpy as np, tonno_core as tonno, tonno_core.worker.engine
print("timm", *sys.modules)
image = tonno.Volume(np.random.default_rng(0).random((12, 12, 12), dtype=np.float32), np.eye(4))
settings = tonno.ReconstructionSettings(methods=("tonno", "matched-cam"), slices=8, directions=4)
tonno.reconstruct(image, {str(write_random_bundle(tmp_path / "model"))!r}, settings, device="cpu", progress=False)
print(*sys.modules)
"""
    modules = set(printed(code))
    assert "timm" in modules
    assert not {*_COMPILER, "torch._dynamo.utils"} & modules


def test_what_was_put_off_is_there_when_it_is_wanted() -> None:
    code = """
import torch
now = torch.compiler.disable
from tonno_core.encoding.quick_timm import _without_compiler
assert torch.compiler.disable is now
with _without_compiler():
    @torch.compiler.disable
    def left_alone(x):
        return x + float(not torch.compiler.is_compiling())
    @torch.compiler.disable(recursive=False)
    def itself(x):
        return x + float(not torch.compiler.is_compiling())
zero = torch.zeros(1)
print(*(float(torch.compile(function, backend="eager")(zero)) for function in (left_alone, itself)))
print(float(torch.compile(lambda x: x + float(torch.compiler.is_compiling()), backend="eager")(zero)))
from torchvision.ops import roi_align  # the function, of the module's name
import sys
taken = sys.modules["torchvision.ops.roi_align"].is_compile_supported
print(taken("cpu") == sys.modules["torch._dynamo.utils"].is_compile_supported("cpu"))
"""
    assert printed(code) == ["1.0", "1.0", "1.0", "True"]


def test_who_wants_the_compiler_meanwhile_gets_it() -> None:
    code = """
import sys, torch
sys.modules["timm"] = sys  # not imported here
from tonno_core.encoding.quick_timm import _without_compiler
with _without_compiler():
    stand_in = sys.modules["torch._dynamo.utils"]
    from torch._dynamo.utils import counters
    import torch._dynamo
    print(sys.modules["torch._dynamo.utils"] is not stand_in, counters is torch._dynamo.utils.counters)
print(sys.modules["torch._dynamo.utils"].counters is counters)
"""
    assert printed(code) == ["True"] * 3
