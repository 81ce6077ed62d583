"""Stand-in for `optimum-cli`: compiles one graph by neuronx-cc behind a compile cache, copies a result, and serves it.

What it does is in the file `mode` beside it, as words:

    fail N        the first N exports end with exit code 1, after their graph is in the cache
    temporary     the key of the cache has the temporary folder in it: a fresh process compiles again
    path          the compiler is started by its full path
    touch         a file is put into the cache although nothing was compiled
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.targets.neuron.stand_in import VERSION

_PROGRAM = """#!{python}
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.targets.neuron.library import main
sys.exit(main(sys.argv[1:], Path({folder!r})))
"""


def install(folder: Path, graph: bytes, result: Path, mode: str = "") -> Path:
    """Put the command and the metadata of its distribution into `folder`, for PATH and sys.path."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "optimum-cli"
    command.write_text(_PROGRAM.format(python=sys.executable, root=str(Path(__file__).parents[3]), folder=str(folder)))
    command.chmod(0o755)
    (folder / "mode").write_text((folder / "mode").read_text() if (folder / "mode").exists() else "ok")
    (folder / "library.mode").write_text(mode)
    (folder / "graph").write_bytes(graph)
    (folder / "result").symlink_to(result)
    about = folder / "optimum_neuron-0.4.4.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: optimum-neuron\nVersion: 0.4.4\n")
    return command


def exports(folder: Path) -> list[str]:
    """Working folders of the exports up to now."""
    log = folder / "exports"
    return log.read_text().splitlines() if log.exists() else []


def main(argv: list[str], folder: Path) -> int:
    """The command."""
    mode = (folder / "library.mode").read_text().split()
    if argv[:2] == ["neuron", "serve"]:
        compiled(folder, mode)
        serve(argv, int(argv[argv.index("--port") + 1]))
        return 0
    assert argv[:2] == ["export", "neuron"], argv
    with (folder / "exports").open("a") as log:
        log.write(f"{Path.cwd()}\n")
    assert os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] == "inf2"
    assert "NEURON_RT_NUM_CORES" not in os.environ, "a variable of the caller is not the call's"
    assert Path("model").is_dir()
    compiled(folder, mode)
    if mode[:1] == ["fail"] and len(exports(folder)) <= int(mode[1]):
        print("backend crashed", file=sys.stderr)
        return 1
    shutil.copytree(folder / "result", argv[-1])
    return 0


def compiled(folder: Path, mode: list[str]) -> None:
    """Take the graph from the cache, or compile it."""
    graph = (folder / "graph").read_bytes()
    key = graph + os.environ.get("TMPDIR", "").encode() * ("temporary" in mode)
    cache = Path(os.environ["NEURON_COMPILE_CACHE_URL"]) / f"neuronxcc-{VERSION}"
    entry = cache / f"MODULE_{hashlib.sha256(key).hexdigest()[:20]}+e30acd3a"
    if not (entry / "model.done").exists():
        entry.mkdir(parents=True, exist_ok=True)
        (entry / "model.lock").touch()
        hlo, neff = entry / "model.hlo_module.pb", entry / "model.neff"
        hlo.write_bytes(graph)
        command = str(folder / "neuronx-cc") if "path" in mode else "neuronx-cc"
        flags = ["--target=inf2", "--model-type=transformer", "--auto-cast=none", "--verbose=35"]
        argv = [command, "compile", "--framework=XLA", str(hlo), "--output", str(neff), *flags]
        subprocess.run(argv, check=True)
        (entry / "model.done").touch()
    if "touch" in mode:
        (cache / f"of-{os.getpid()}").touch()


def serve(argv: list[str], port: int) -> None:
    """Answer /health and /v1/completions."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(b"{}")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body["model"] == argv[argv.index("--model") + 1]
            choice = {"text": f"{body['prompt']} again", "finish_reason": "length"}
            usage = {"prompt_tokens": 1, "completion_tokens": body["max_tokens"]}
            self.send(json.dumps({"choices": [choice], "usage": usage}).encode())

        def send(self, data: bytes) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
