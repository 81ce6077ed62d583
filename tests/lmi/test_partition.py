"""The script really runs, with a stand-in for docker that has the command's own argument parser."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.errors import CompileError, RefusedError
from compiler.lmi.check import check
from compiler.lmi.images import TRTLLM, Release
from compiler.lmi.partition import Partition, pack_partition, partition_argv, partition_properties, partition_script
from compiler.lmi.properties import Value
from compiler.lmi.quantize import LmiQuantization
from tests.lmi.artifacts import FLAT, RELEASES, engine_config

DOCKER = '''#!{python}
"""Stand-in of the tests: `docker run` of an LMI image whose command leaves files that are no engines."""
import argparse, json, os, pathlib, sys

outer = argparse.ArgumentParser()
outer.add_argument("run", choices=["run"])
outer.add_argument("--rm", action="store_true")
outer.add_argument("--gpus", choices=["all"])
outer.add_argument("--shm-size")
outer.add_argument("--env", action="append", default=[])
outer.add_argument("--volume", action="append", default=[])
outer.add_argument("image")
outer.add_argument("python", choices=["python"])
outer.add_argument("script")
outer, rest = outer.parse_known_args()
volumes = dict(reversed(volume.removesuffix(":ro").split(":")) for volume in outer.volume)
assert all(pathlib.Path(host).is_dir() for host in volumes.values()), volumes
inner = argparse.ArgumentParser(allow_abbrev=False)
inner.add_argument("--properties_dir", required=True)
inner.add_argument("--trt_llm_model_repo", required=True)
inner.add_argument("--tensor_parallel_degree", type=int, required=True)
if "{pipeline}":
    inner.add_argument("--pipeline_parallel_degree", type=int, required=True)
inner.add_argument("--model_path")
args = inner.parse_args(rest)
properties = pathlib.Path(volumes[args.properties_dir], "serving.properties").read_text()
pathlib.Path("{log}").write_text(json.dumps({{"image": outer.image, "properties": properties, **vars(args)}}))
if "FAIL" in os.environ:
    sys.exit("no GPU")
repo = pathlib.Path(volumes[args.trt_llm_model_repo])
flat = "{flat}"
model = repo if flat else repo / "tensorrt_llm"
engines = model if flat else model / "1"
engines.mkdir(parents=True, exist_ok=True)
for rank in range(args.tensor_parallel_degree):
    (engines / (f"rank{{rank}}.engine" if flat else f"m_float16_rank{{rank}}.engine")).write_text("no engine")
(engines / "config.json").write_text({config!r})
for name in ("tokenizer.json", "tokenizer_config.json"):
    (model / name).write_text("{{}}")
if not flat:
    (model / "config.pbtxt").write_text({pbtxt!r})
'''
PBTXT = """name: "tensorrt_llm"
model_transaction_policy { decoupled: True }
parameters: {
  key: "gpt_model_path"
  value: {
    string_value: "/tmp/trtllm/tensorrt_llm/1"
  }
}
"""


def _asked(release: Release, model: str = "org/tiny", **changed: object) -> Partition:
    fields: dict[str, object] = {
        "tp": 2,
        "dtype": "float16",
        "max_batch_size": 8,
        "max_input_len": 1024,
        "max_seq_len": 1536,
        "max_num_tokens": 4096,
    }
    return Partition(model, release, **{**fields, **changed})  # type: ignore[arg-type]


def _run(folder: Path, asked: Partition, **environment: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The script in a folder whose name has a blank; what the stand-in was told is in folder/log."""
    folder = folder / "gpu host"
    (folder / "bin").mkdir(parents=True)
    docker = folder / "bin" / "docker"
    docker.write_text(
        DOCKER.format(
            python=sys.executable,
            log=folder / "log",
            pipeline="yes" if asked.release >= (0, 29) else "",
            flat="yes" if asked.release == FLAT else "",
            config=json.dumps(engine_config() if asked.release >= (0, 27) else {"builder_config": {}}),
            pbtxt=PBTXT,
        )
    )
    docker.chmod(0o755)
    script = folder / "partition.sh"
    script.write_text(partition_script(asked))
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", script, "out dir"],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran, folder


@pytest.mark.parametrize("release", RELEASES)
def test_the_script_makes_what_a_container_serves(tmp_path: Path, release: Release) -> None:
    asked = _asked(release)
    ran, folder = _run(tmp_path, asked)
    assert ran.returncode == 0, ran.stderr
    told = json.loads((folder / "log").read_text())
    assert told["image"].endswith(f"/djl-inference:{TRTLLM[release].tag}")
    assert told["model_path"] == "org/tiny"
    assert told["tensor_parallel_degree"] == 2
    assert told["properties"] == partition_properties(asked).to_bytes().decode()
    made = folder / "out dir"
    for path, data in pack_partition(made, asked).items():
        (made / path).write_bytes(data)
    assert check(made, release) == []
    assert sorted(path.name for path in folder.iterdir()) == ["bin", "log", "out dir", "partition.sh"]


def test_a_command_that_fails_leaves_nothing(tmp_path: Path) -> None:
    ran, folder = _run(tmp_path, _asked((0, 26)), FAIL="1")
    assert ran.returncode == 1
    assert "no GPU" in ran.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["bin", "log", "partition.sh"]


def test_an_output_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "gpu host" / "out dir").mkdir(parents=True)
    ran, folder = _run(tmp_path, _asked((0, 26)))
    assert ran.returncode == 2
    assert "out dir is there already" in ran.stderr
    assert not (folder / "log").exists()


def test_a_local_model_is_mounted(tmp_path: Path) -> None:
    model = tmp_path / "a model's folder"
    model.mkdir()
    ran, folder = _run(tmp_path, _asked((0, 30), str(model)))
    assert ran.returncode == 0, ran.stderr
    assert json.loads((folder / "log").read_text())["model_path"] == "/opt/source"


def test_names_cannot_become_commands(tmp_path: Path) -> None:
    name = "org/$(touch hacked)\n`touch hacked`'"
    ran, folder = _run(tmp_path, _asked((0, 30), name))
    assert ran.returncode == 0, ran.stderr
    assert json.loads((folder / "log").read_text())["model_path"] == name
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (
            (0, 26),
            {
                "option.tensor_parallel_degree": 2,
                "option.max_rolling_batch_size": 8,
                "option.max_input_len": 1024,
                "option.dtype": "fp16",
                "option.max_output_len": 512,
                "option.quantize": "smoothquant",
                "option.smoothquant_alpha": 0.5,
                "option.smoothquant_per_token": True,
                "option.smoothquant_per_channel": True,
                "option.multi_query_mode": False,
            },
        ),
        (
            FLAT,
            {
                "option.tensor_parallel_degree": 2,
                "option.max_rolling_batch_size": 8,
                "option.max_input_len": 1024,
                "option.dtype": "float16",
                "option.max_seq_len": 1536,
                "option.max_num_tokens": 4096,
                "option.quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
                "option.smoothquant_val": 0.5,
            },
        ),
    ],
)
def test_the_properties_of_each_script(release: Release, expected: dict[str, Value]) -> None:
    quant = LmiQuantization("W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", alpha=0.5)
    assert partition_properties(_asked(release, quant=quant)).entries == expected


def test_the_arguments_of_each_script() -> None:
    assert "--pipeline_parallel_degree" not in partition_argv(_asked((0, 28)))
    assert shlex.join(partition_argv(_asked((0, 29), pp=2))).endswith(
        "--tensor_parallel_degree 2 --pipeline_parallel_degree 2 --model_path org/tiny"
    )


def test_what_the_command_cannot_do() -> None:
    with pytest.raises(RefusedError, match="found pp 2"):
        _asked((0, 28), pp=2)
    with pytest.raises(RefusedError, match="does not read `s3://`"):
        _asked(FLAT, "s3://bucket/model/")
    assert _asked((0, 30), "s3://bucket/model/").model


def test_a_folder_that_the_command_did_not_make(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"config\.pbtxt is missing; config\.json is missing; .* found none"):
        pack_partition(tmp_path, _asked((0, 26)))
