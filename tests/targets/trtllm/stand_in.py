"""A stand-in for `trtllm-build`, for tests only: it reads the checkpoint, writes files named like engines, and says in
its version that it is none. `MODE` in its environment makes it fail, hang, be killed, or leave something out; `VERSION`
is the TensorRT-LLM that it plays."""

from __future__ import annotations

import sys
from pathlib import Path

_SCRIPT = """#!{python}
import json, os, signal, struct, sys, time
from pathlib import Path
if sys.argv[1:] == ["--help"]:
    print("--checkpoint_dir --output_dir --max_batch_size --context_fmha")
    raise SystemExit
mode = os.environ.get("MODE", "")
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
checkpoint, output = Path(arguments["--checkpoint_dir"]), Path(arguments["--output_dir"])
print("building", checkpoint, flush=True)
if mode == "fail":
    sys.exit("tensor has the wrong shape")
if mode == "hang":
    time.sleep(60)
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
config = json.loads((checkpoint / "config.json").read_text())
output.mkdir(exist_ok=True)
for rank in range(config["mapping"]["world_size"]):
    data = (checkpoint / f"rank{{rank}}.safetensors").read_bytes()
    assert "lm_head.weight" in json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    if mode != "nothing":
        (output / f"rank{{rank}}.engine").write_bytes(b"stand-in" if (mode, rank) != ("empty", 1) else b"")
if mode == "other":
    config["vocab_size"] += 1
version = "0.9.0" if mode == "older" else os.environ.get("VERSION", "0.12.0")
folders = ("--checkpoint_dir", "--output_dir", "--workers")
limits = {{name[2:]: int(text) if text.isdigit() else text for name, text in arguments.items() if name not in folders}}
if mode == "small":
    limits["max_batch_size"] = 1
content = {{"version": version + "+stand-in", "pretrained_config": config, "build_config": limits}}
(output / "config.json").write_text(json.dumps(content))
"""


def write_stand_in(folder: Path) -> Path:
    """The executable `trtllm-build` in `folder`, which belongs on PATH."""
    path = folder / "trtllm-build"
    path.write_text(_SCRIPT.format(python=sys.executable))
    path.chmod(0o755)
    return path
