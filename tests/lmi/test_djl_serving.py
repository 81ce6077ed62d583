"""djl-serving itself as the judge: only where LMI_COMPILE_DJL_SERVING names a clone of it, with its tags and branches.

Its Python runs in processes of their own, as it stands in each release; what needs a GPU is stood in for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from compiler.lmi.checkpoint import CheckpointFacts, Profile, ProfileName, checkpoint_properties
from compiler.lmi.contract import contract_of
from compiler.lmi.images import Release
from compiler.lmi.package import container_files
from compiler.lmi.properties import parse
from compiler.runtime.params import Completion, GenerationParams, TextPiece, Token
from compiler.runtime.row import Row
from compiler.serve.contract.lmi import LmiReply
from compiler.serve.contract.parameters import AnswerForm
from tests.lmi.artifacts import FLAT, facts

CLONE = os.environ.get("LMI_COMPILE_DJL_SERVING", "")
pytestmark = pytest.mark.skipif(not CLONE, reason="LMI_COMPILE_DJL_SERVING names no clone of djl-serving")

TAGS: dict[Release, str] = {
    (0, 28): "v0.28.0",
    (0, 29): "v0.29.0",
    (0, 30): "0.30.0-dlc",
    (0, 32): "0.32.0-dlc",
    FLAT: "0.33.0-dlc",
}

PROPERTIES = """
import json, os, sys, types

class Anything:
    def __init__(self, *args, **values): pass

for name in ("tensorrt_llm", "tensorrt_llm.llmapi", "tensorrt_llm._torch", "tensorrt_llm._torch.pyexecutor",
             "tensorrt_llm._torch.pyexecutor.config"):
    sys.modules[name] = types.ModuleType(name)
    for word in ("KvCacheConfig", "QuantConfig", "CalibConfig", "QuantAlgo", "PyTorchConfig"):
        setattr(sys.modules[name], word, Anything)

source = open("serving/docker/partition/utils.py").read()
begin = source.index("def load_properties")
reader = {"os": os}
exec(source[begin : source.find("\\ndef ", begin + 1)], reader)
found = reader["load_properties"](sys.argv[1])
from djl_python.properties_manager.trt_properties import TensorRtLlmProperties
known = TensorRtLlmProperties(**{k.removeprefix("option."): v for k, v in found.items()}, model_dir="/opt/ml/model")
names = ("tensor_parallel_degree", "max_rolling_batch_size", "rolling_batch", "dtype", "model_id_or_path")
print(json.dumps([found, {name: getattr(known, name) for name in names}]))
"""

CHECKPOINTS = """
import json, os, sys

source = open("serving/docker/partition/utils.py").read()
begin = source.index("def load_properties")
reader = {"os": os}
exec(source[begin : source.find("\\ndef ", begin + 1)], reader)
folder, backend = sys.argv[1].split("|")
found = reader["load_properties"](folder)
if found["engine"] == "MPI":
    found["option.mpi_mode"] = "true"  # as the front end sets it, ModelInfo.java
if backend == "vllm":
    from djl_python.properties_manager.vllm_rb_properties import VllmRbProperties as Known
else:
    from djl_python.properties_manager.lmi_dist_rb_properties import LmiDistRbProperties as Known
known = Known(**{k.removeprefix("option."): v for k, v in found.items()}, model_dir="/opt/ml/model")
names = ("tensor_parallel_degree", "max_rolling_batch_size", "rolling_batch", "max_model_len", "model_id_or_path")
print(json.dumps({name: getattr(known, name) for name in names}))
"""

EARLY_FORMATTERS = """
import inspect, json, sys
from djl_python.rolling_batch.rolling_batch import Request, Token, _json_output_formatter, _jsonlines_output_formatter

tokens = [Token(*token) for token in json.loads(sys.argv[1])]
told = []
for write in (_jsonlines_output_formatter, _json_output_formatter):
    parts = []
    if "output_formatter" in inspect.signature(Request.__init__).parameters:
        asked = Request(0, "p", {"details": True}, details=True, output_formatter=write)
    else:
        asked = Request(0, "p", {"details": True})
    for at, token in enumerate(tokens):
        last = at == len(tokens) - 1
        given = {"finish_reason": "eos_token" if last else None}
        if "output_formatter" in inspect.signature(asked.set_next_token).parameters:
            given["output_formatter"] = write
        asked.set_next_token(token, last_token=last, **given)
        parts.append(asked.get_next_token())
    told.append(parts)
print(json.dumps(told))
"""

FORMATTERS = """
import json, sys
from djl_python.output_formatter import _json_output_formatter, _jsonlines_output_formatter
from djl_python.request_io import Sequence, TextGenerationOutput, TextInput, Token

tokens = [Token(*token) for token in json.loads(sys.argv[1])]
told = []
for write in (_jsonlines_output_formatter, _json_output_formatter):
    asked = TextInput(request_id=0, input_text="p", parameters={"details": True})
    output = TextGenerationOutput(request_id=0, input=asked)
    output.sequences[0] = sequence = Sequence()
    parts = []
    for at, token in enumerate(tokens):
        last = at == len(tokens) - 1
        sequence.set_next_token(token, is_last_token=last)
        if last:
            sequence.finish_reason, output.finished = "eos_token", True
        parts.append(write(output))
    told.append(parts)
print(json.dumps(told))
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """`run(tag, script, argument)`: what the script prints as JSON, inside the sources of the tag."""

    def ran(tag: str, script: str, argument: str) -> Any:
        parts = ("engines/python/setup", "serving/docker/partition")
        packed = subprocess.run(["git", "-C", CLONE, "archive", tag, *parts], capture_output=True, check=True).stdout
        folder = tmp_path / tag
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        told = subprocess.run(
            [sys.executable, "-c", script, argument],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": "engines/python/setup"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout.splitlines()[-1])

    return ran


@pytest.mark.parametrize("release", TAGS)
def test_its_property_classes_take_our_files(run: Callable[..., Any], tmp_path: Path, release: Release) -> None:
    written = container_files(facts(release))["serving.properties"]
    (tmp_path / "serving.properties").write_bytes(written)
    read, known = run(TAGS[release], PROPERTIES, str(tmp_path))
    assert list(read) == list(parse(written, release).entries)
    assert known == {
        "tensor_parallel_degree": 2,
        "max_rolling_batch_size": 8,
        "rolling_batch": "disable" if release == FLAT else "trtllm",
        "dtype": "float16" if release == FLAT else "fp16",
        "model_id_or_path": "/opt/ml/model",
    }


@pytest.mark.parametrize("backend", ["vllm", "lmi-dist"])
@pytest.mark.parametrize("release", [(0, 28), (0, 29), (0, 30), (0, 31)])
def test_its_property_classes_take_the_files_of_checkpoints(
    run: Callable[..., Any], tmp_path: Path, release: Release, backend: ProfileName
) -> None:
    options = {"option.enable_lora": True, "option.max_loras": 2}
    made = checkpoint_properties(CheckpointFacts(Profile(backend, release), 2, "float16", 8, 1024, options))
    (tmp_path / "serving.properties").write_bytes(made.to_bytes())
    tag = TAGS.get(release, "0.31.0-dlc")
    assert run(tag, CHECKPOINTS, f"{tmp_path}|{backend}") == {
        "tensor_parallel_degree": 2,
        "max_rolling_batch_size": 8,
        "rolling_batch": backend,
        "max_model_len": 1024,
        "model_id_or_path": "/opt/ml/model",
    }


def _ours(version: str, tokens: list[Token]) -> tuple[list[Any], Any]:
    """Lines of our stream, and our whole answer."""
    done = Completion(" a", tuple(tokens), "eos_token", 1, -2.0, 0.1)
    texts = [" a", *[""] * (len(tokens) - 1)]
    pieces = [
        TextPiece(text, token, done if token is tokens[-1] else None) for text, token in zip(texts, tokens, strict=True)
    ]
    row = Row(0, [1], GenerationParams(), 10, frozenset(), None)
    contract = contract_of(version, "trtllm")
    stream, whole = (
        LmiReply(contract, AnswerForm(details=True), ["p"], as_list=False, stream=stream, seed=None)
        for stream in (True, False)
    )
    return [json.loads(stream.part(0, row, piece)) for piece in pieces], json.loads(whole.whole([row], [pieces]))


@pytest.mark.parametrize("version", ["0.26", "0.27", "0.28", "0.29", "0.30", "0.31", "0.32"])
def test_its_formatters_write_what_we_write(run: Callable[..., Any], version: str) -> None:
    tokens = [Token(5, " a", -0.5, special=False), Token(0, "", 0.0, special=False), Token(7, "", -1.5, special=True)]
    given = json.dumps([[t.id, t.text, t.log_prob, t.special] for t in tokens])
    tag = {"0.30": "0.30.0-dlc", "0.31": "0.31.0-dlc", "0.32": "0.32.0-dlc"}.get(version, f"v{version}.0")
    script = EARLY_FORMATTERS if version in ("0.26", "0.27") else FORMATTERS
    lines, whole = run(tag, script, given)
    ours, our_whole = _ours(version, tokens)
    assert [json.loads(line) for line in lines] == ours
    assert json.loads("".join(whole)) == our_whole
