"""Stand-in for vLLM: a package `vllm` that has a cache with a key, counters, plugins and an OpenAI server.

It compiles nothing: a "kernel" is a file that a program named g++ writes. What is made with it says so in its version.
`write_stand_in` writes it to a folder for PYTHONPATH.
"""

from __future__ import annotations

from pathlib import Path

VERSION = "0.32.0+stand.in"
FILES = {
    f"vllm-{VERSION}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n",
    "vllm/__init__.py": f'__version__ = "{VERSION}"\n',
    "vllm/envs.py": """
import os

IGNORED = {"VLLM_CACHE_ROOT", "VLLM_FORCE_AOT_LOAD", "VLLM_LOGGING_LEVEL", "VLLM_API_KEY", "VLLM_CPU_KVCACHE_SPACE"}


def compile_factors():
    known = ("VLLM_PROCESS_NAME_PREFIX", "VLLM_ENGINE_READY_TIMEOUT_S", "VLLM_USE_AOT_COMPILE")
    return {name: os.environ.get(name) for name in known if name not in IGNORED}
""",
    "torch/__init__.py": "",
    "torch/_inductor/__init__.py": "",
    "torch/_inductor/cpu_vec_isa.py": "def valid_vec_isa_list():\n    return []\n",
    "vllm/compilation/__init__.py": "",
    "vllm/compilation/counter.py": """
class Counter:
    def __init__(self):
        self.num_models_seen = self.num_inductor_compiles = self.num_aot_compiles = self.num_aot_artifacts_loaded = 0


compilation_counter = Counter()
""",
    "vllm/config/__init__.py": "",
    "vllm/config/utils.py": """
import hashlib
import json


def hash_factors(items):
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()
""",
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/openai/__init__.py": "",
    "vllm/entrypoints/openai/api_server.py": """
import http.server
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import vllm.config.utils as utils
from vllm import envs
from vllm.compilation.counter import compilation_counter


MODEL = b"\\x80\\x04 stand-in"


class ModelConfig:
    def __init__(self, arguments):
        self.arguments = arguments

    def compute_hash(self):
        kept = {k: v for k, v in self.arguments.items() if k not in ("--load-format", "--seed", "--port", "--host")}
        return utils.hash_factors(kept)


def compile_or_load(arguments):
    key = utils.hash_factors([utils.hash_factors(envs.compile_factors()), ModelConfig(arguments).compute_hash()])
    root = Path(os.environ["VLLM_CACHE_ROOT"]) / "torch_compile_cache"
    # kernels have the path of their sources in their names, and the key has not
    place = utils.hash_factors(str(Path(utils.__file__).parent))[:6]
    artifact, kernel = root / key[:10] / "model", root / key[:10] / "inductor_cache" / f"kernel-{place}.so"
    compilation_counter.num_models_seen = 1
    if artifact.is_file() and artifact.read_bytes() == MODEL:
        compilation_counter.num_aot_artifacts_loaded = compilation_counter.num_compiled_artifacts_loaded = 1
    elif os.environ.get("VLLM_FORCE_AOT_LOAD") == "1":
        raise FileNotFoundError(artifact)
    else:
        compilation_counter.num_aot_compiles = compilation_counter.num_inductor_compiles = 1
        artifact.parent.mkdir(parents=True, exist_ok=True)
        artifact.write_bytes(MODEL)
        (artifact.parent / "x.lock").touch()
    if not kernel.is_file():
        kernel.parent.mkdir(parents=True, exist_ok=True)
        compiler = Path(os.environ["TMPDIR"]) / "g++"
        compiler.write_text(f"#!{sys.executable}\\nimport sys\\nopen(sys.argv[2], 'w').write('stand-in')\\n")
        compiler.chmod(0o755)
        subprocess.run([str(compiler), "-o", str(kernel)], check=True)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = list(body["prompt"].encode()) if isinstance(body["prompt"], str) else body["prompt"]
        token = sum(prompt) % MODULUS
        # a model for which every token is as likely as any other
        likely = [None, *({str(id): {"logprob": -5.5568}} for id in prompt[1:])]
        of_tokens = {"tokens": [str(token)], "token_logprobs": [-float(token)]}
        choice = {"text": str(token), "token_ids": [token], "logprobs": of_tokens, "finish_reason": "length"}
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = likely
        text = json.dumps({"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 1}})
        self.answer(f"data: {text}\\n\\ndata: [DONE]\\n\\n" if body.get("stream") else text)

    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


if __name__ == "__main__":
    for plugin in entry_points(group="vllm.general_plugins"):
        plugin.load()()
    words = sys.argv[1:]
    arguments = dict(zip(words[::2], words[1::2]))
    compile_or_load(arguments)
    weights = Path(arguments["--model"]) / "modulus"
    MODULUS = int(weights.read_text()) if weights.is_file() else 7
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    http.server.ThreadingHTTPServer(("127.0.0.1", int(arguments["--port"])), Handler).serve_forever()
""",
}


def write_stand_in(folder: Path) -> Path:
    """Write the package into `folder`; returns it."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
