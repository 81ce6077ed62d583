"""Partition command of an LMI image: engines made by the container's own code, for releases that need it.

LMI 0.25 and 0.26 have a TensorRT-LLM without a checkpoint format, so only their image can turn a model into engines;
for later releases the command is a fallback. It runs on a GPU host, from a shell script.

    script (serving/docker/partition/trt_llm_partition.py)      differences
    v0.25.0 - v0.28.0      --properties_dir --trt_llm_model_repo --tensor_parallel_degree [--model_path]
    v0.29.0 - 0.32.0-dlc   and --pipeline_parallel_degree, which is required although the tutorial omits it
    0.33.0-dlc             the same arguments; --model_path has no fallback, serving.properties is required, and the
                           result is a flat engine folder with a copy of that file

`--model_path` names the model in all of them; properties override OPTION_* of the environment. The toolkit of 0.25 to
0.32 is not public: its result is documented as a Triton repository
(serving/docs/lmi/tutorials/trtllm_aot_tutorial.md at v0.26.0), the names of its files are not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compiler.errors import CompileError, RefusedError
from compiler.lmi.files import rank_problems
from compiler.lmi.images import TRTLLM, Release, TrtllmImage, image_uri
from compiler.lmi.package import LMI_DTYPES, EngineFacts, container_files
from compiler.lmi.properties import SERVING_PROPERTIES, Properties, Value
from compiler.lmi.quantize import NONE, LmiQuantization, quant_properties
from compiler.lmi.triton import MODEL, MOUNTED

SCRIPT = "/opt/djl/partition/trt_llm_partition.py"
_PIPELINE_SINCE: Release = (0, 29)
_FLAT_SINCE: Release = (0, 33)
_SOURCE = "/opt/source"
_PROPERTIES = "/opt/properties"


@dataclass(frozen=True)
class Partition:
    """Inputs of the partition command.

    `model`: a Hugging Face id, an `s3://` prefix (not 0.33), or a folder on the GPU host: absolute, or with a leading
    `.`. Limits and `dtype` as in `EngineFacts`. `options`: further properties by full name, which override the others.

    Raises:
        RefusedError: the release's command does not support the model or pp.
    """

    model: str
    release: Release
    tp: int
    dtype: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    pp: int = 1
    quant: LmiQuantization = NONE
    options: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pp > 1 and self.release < _PIPELINE_SINCE:
            raise RefusedError(
                f"the command of LMI {self.image.lmi} makes one pipeline stage; found pp {self.pp}",
                hint="LMI 0.29 and later make several.",
            )
        if self.model.startswith("s3://") and self.release >= _FLAT_SINCE:
            raise RefusedError(
                f"the command of LMI {self.image.lmi} does not read `s3://`; found `{self.model}`",
                hint="Copy the model to the GPU host and pass that folder.",
            )

    @property
    def image(self) -> TrtllmImage:
        return TRTLLM[self.release]

    @property
    def is_folder(self) -> bool:
        return self.model.startswith(("/", "."))


def partition_properties(partition: Partition) -> Properties:
    """serving.properties for the command. Raises UsageError or RefusedError as `Properties`."""
    answer = partition.max_seq_len - partition.max_input_len
    limits: dict[str, Value]
    if partition.release >= _FLAT_SINCE:
        limits = {"option.dtype": partition.dtype, "option.max_seq_len": partition.max_seq_len}
    else:
        limits = {"option.dtype": LMI_DTYPES[partition.dtype], "option.max_output_len": answer}
    tokens: dict[str, Value] = (
        {"option.max_num_tokens": partition.max_num_tokens} if partition.release >= (0, 27) else {}
    )
    return Properties(
        partition.release,
        {
            "option.tensor_parallel_degree": partition.tp,
            "option.max_rolling_batch_size": partition.max_batch_size,
            "option.max_input_len": partition.max_input_len,
            **limits,
            **tokens,
            **quant_properties(partition.release, partition.quant),
            **partition.options,
        },
    )


def partition_argv(partition: Partition) -> list[str]:
    """Command line inside the container, with the paths that `partition_script` mounts.

    The output path is SageMaker's mount point of the artifact, so that paths in the toolkit's files are valid there.
    """
    pipeline = ["--pipeline_parallel_degree", str(partition.pp)] if partition.release >= _PIPELINE_SINCE else []
    return [
        "python",
        SCRIPT,
        "--properties_dir",
        _PROPERTIES,
        "--trt_llm_model_repo",
        MOUNTED,
        "--tensor_parallel_degree",
        str(partition.tp),
        *pipeline,
        "--model_path",
        _SOURCE if partition.is_folder else partition.model,
    ]


def partition_script(partition: Partition, region: str = "us-east-1") -> str:
    """Shell script that makes the engines on a GPU host with docker. Its first argument is the output folder, $IMAGE
    overrides the image and $MODEL a local model. It leaves the whole folder or nothing.
    """
    image, ranks = partition.image, partition.tp * partition.pp
    source = (
        [f"model=${{MODEL:-{shlex.quote(partition.model)}}}", 'model=$(cd -- "$model" && pwd)']
        if partition.is_folder
        else []
    )
    mounted = [f'    --volume "$model:{_SOURCE}:ro" \\'] if partition.is_folder else ["    --env HF_TOKEN \\"]
    return "\n".join(
        [
            "#!/bin/sh",
            f"# Engines of {_comment(partition.model)}: LMI {image.lmi}, tp {partition.tp}, pp {partition.pp}.",
            f"# Made by the image's own command, with TensorRT-LLM {image.trtllm}.",
            f"# Needs docker with NVIDIA's runtime, and {ranks} GPU(s) of the model that will serve.",
            "# usage: sh partition.sh [FOLDER]      IMAGE=... and MODEL=... replace what stands below",
            "set -eu",
            'output=${1:-"compiled"}',
            f"image=${{IMAGE:-{shlex.quote(image_uri(image.tag, region))}}}",
            *source,
            'if [ -e "$output" ]; then echo "error: $output is there already" >&2; exit 2; fi',
            'parent=$(dirname -- "$output")',
            'mkdir -p -- "$parent"',
            'work=$(cd -- "$parent" && mktemp -d "$(pwd)/.partition.XXXXXX")',
            "trap 'rm -rf -- \"$work\"' EXIT",
            "trap 'exit 130' INT TERM",
            'mkdir -- "$work/properties" "$work/repo"',
            f"cat > \"$work/properties/{SERVING_PROPERTIES}\" <<'END_OF_PROPERTIES'",
            partition_properties(partition).to_bytes().decode().rstrip("\n"),
            "END_OF_PROPERTIES",
            "docker run --rm --gpus all --shm-size 12gb \\",
            f'    --volume "$work/properties:{_PROPERTIES}:ro" \\',
            f'    --volume "$work/repo:{MOUNTED}" \\',
            *mounted,
            f'    "$image" {shlex.join(partition_argv(partition))}',
            'mv -- "$work/repo" "$output"',
            'echo "made $output"',
            "",
        ]
    )


def pack_partition(folder: Path, partition: Partition, tokenizer_files: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Files to add to the command's output folder, so that a container serves it mounted: path -> bytes.

    serving.properties for serving, and under 0.25 to 0.32 the toolkit's config.pbtxt with the mounted path.

    Raises:
        CompileError: the folder is no complete output of the command; the message lists the missing files.
        TokenizerError: neither the toolkit's output nor `tokenizer_files` has a tokenizer.
    """
    flat = partition.release >= _FLAT_SINCE
    model, engines = (folder, folder) if flat else (folder / MODEL, folder / MODEL / "1")
    problems = [] if flat or (model / "config.pbtxt").is_file() else [f"{MODEL}/config.pbtxt is missing"]
    names = _names(engines)
    problems += [problem.text for problem in rank_problems(names, partition.tp * partition.pp)]
    if problems:
        raise CompileError(
            f"{folder} is no output of the partition command of LMI {partition.image.lmi}: {'; '.join(problems)}",
            hint="Run the script again with an empty folder, and read its log.",
        )
    facts = EngineFacts(
        model=partition.model,
        release=partition.release,
        tp=partition.tp,
        pp=partition.pp,
        dtype=partition.dtype,
        max_batch_size=partition.max_batch_size,
        max_input_len=partition.max_input_len,
        max_seq_len=partition.max_seq_len,
        max_num_tokens=partition.max_num_tokens,
        engine_files=tuple(names),
        tokenizer_files=(*_names(model), *tokenizer_files),
        quant=quant_properties(partition.release, partition.quant),
        options=partition.options,
    )
    files = {SERVING_PROPERTIES: container_files(facts)[SERVING_PROPERTIES]}
    if not flat:
        files[f"{MODEL}/config.pbtxt"] = _mounted((model / "config.pbtxt").read_text()).encode()
    return files


def _mounted(pbtxt: str) -> str:
    """config.pbtxt with SageMaker's mount point in `gpt_model_path`."""
    path = re.compile(r'(key\s*:\s*"gpt_model_path"\s*value\s*:?\s*\{\s*string_value\s*:\s*)"[^"]*"')
    return path.sub(rf'\g<1>"{MOUNTED}/{MODEL}/1"', pbtxt)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _comment(text: str) -> str:
    """Text without line breaks and control characters, for a comment line."""
    return re.sub(r"[^\x20-\x7e]", "?", text)
