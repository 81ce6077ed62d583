"""The partition command of an LMI image: engines made by the container's own code, for releases that need it.

LMI 0.25 and 0.26 carry a TensorRT-LLM without a checkpoint format of its own, so nothing but their image can turn a
model into engines; for later releases the command is a fallback. It runs on a GPU host, as text that is left there.

    script (serving/docker/partition/trt_llm_partition.py)      differences
    v0.25.0 - v0.28.0      --properties_dir --trt_llm_model_repo --tensor_parallel_degree [--model_path]
    v0.29.0 - 0.32.0-dlc   and --pipeline_parallel_degree, which is required although the tutorial leaves it out
    0.33.0-dlc             the same arguments; --model_path has no fallback, serving.properties has to be there, and the
                           result is a flat engine folder with that file copied in

`--model_path` names the model in all of them; properties win over OPTION_* of the environment. What the toolkit of 0.25
to 0.32 does inside is not public: that it leaves a Triton repository is documented
(serving/docs/lmi/tutorials/trtllm_aot_tutorial.md at v0.26.0), how it names its files is not.
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
    """What the command shall make.

    `model`: a Hugging Face id, an `s3://` prefix (not 0.33), or a folder on the GPU host: absolute, or with a leading
    `.`. Limits and `dtype` as in `EngineFacts`. `options`: further properties by whole name, which replace ours.

    Raises:
        RefusedError: what this release's command cannot do.
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
            raise RefusedError(f"the command of LMI {self.image.lmi} makes one pipeline stage; found pp {self.pp}")
        if self.model.startswith("s3://") and self.release >= _FLAT_SINCE:
            raise RefusedError(
                f"the command of LMI {self.image.lmi} reads no `s3://`; found `{self.model}`",
                hint="Copy the model to the GPU host and name that folder.",
            )

    @property
    def image(self) -> TrtllmImage:
        return TRTLLM[self.release]

    @property
    def is_folder(self) -> bool:
        return self.model.startswith(("/", "."))


def partition_properties(asked: Partition) -> Properties:
    """The serving.properties that the command reads. Raises UsageError or RefusedError as `Properties`."""
    answer = asked.max_seq_len - asked.max_input_len
    limits: dict[str, Value]
    if asked.release >= _FLAT_SINCE:
        limits = {"option.dtype": asked.dtype, "option.max_seq_len": asked.max_seq_len}
    else:
        limits = {"option.dtype": LMI_DTYPES[asked.dtype], "option.max_output_len": answer}
    tokens: dict[str, Value] = {"option.max_num_tokens": asked.max_num_tokens} if asked.release >= (0, 27) else {}
    return Properties(
        asked.release,
        {
            "option.tensor_parallel_degree": asked.tp,
            "option.max_rolling_batch_size": asked.max_batch_size,
            "option.max_input_len": asked.max_input_len,
            **limits,
            **tokens,
            **quant_properties(asked.release, asked.quant),
            **asked.options,
        },
    )


def partition_argv(asked: Partition) -> list[str]:
    """The command inside the container, with paths as `partition_script` mounts them.

    The result is made where it will be mounted when it serves, so that paths that the toolkit writes down hold.
    """
    pipeline = ["--pipeline_parallel_degree", str(asked.pp)] if asked.release >= _PIPELINE_SINCE else []
    return [
        "python",
        SCRIPT,
        "--properties_dir",
        _PROPERTIES,
        "--trt_llm_model_repo",
        MOUNTED,
        "--tensor_parallel_degree",
        str(asked.tp),
        *pipeline,
        "--model_path",
        _SOURCE if asked.is_folder else asked.model,
    ]


def partition_script(asked: Partition, region: str = "us-east-1") -> str:
    """An executable shell script that makes the engines on a GPU host with docker; its first argument is the folder to
    make, $IMAGE replaces the image and $MODEL a local model. It leaves the whole folder or nothing.
    """
    image, ranks = image_uri(asked.image.tag, region), asked.tp * asked.pp
    source = (
        [f"model=${{MODEL:-{shlex.quote(asked.model)}}}", 'model=$(cd -- "$model" && pwd)'] if asked.is_folder else []
    )
    mounted = [f'    --volume "$model:{_SOURCE}:ro" \\'] if asked.is_folder else ["    --env HF_TOKEN \\"]
    return "\n".join(
        [
            "#!/bin/sh",
            f"# Engines of {_comment(asked.model)}: LMI {asked.image.lmi}, tp {asked.tp}, pp {asked.pp}.",
            f"# Made by the image's own command, with TensorRT-LLM {asked.image.trtllm}.",
            f"# Needs docker with NVIDIA's runtime, and {ranks} GPU(s) of the model that will serve.",
            "# usage: sh partition.sh [FOLDER]      IMAGE=... and MODEL=... replace what stands below",
            "set -eu",
            'output=${1:-"compiled"}',
            f"image=${{IMAGE:-{shlex.quote(image)}}}",
            *source,
            'if [ -e "$output" ]; then echo "error: $output is there already" >&2; exit 2; fi',
            'parent=$(dirname -- "$output")',
            'mkdir -p -- "$parent"',
            'work=$(cd -- "$parent" && mktemp -d "$(pwd)/.partition.XXXXXX")',
            "trap 'rm -rf -- \"$work\"' EXIT",
            "trap 'exit 130' INT TERM",
            'mkdir -- "$work/properties" "$work/repo"',
            f"cat > \"$work/properties/{SERVING_PROPERTIES}\" <<'END_OF_PROPERTIES'",
            partition_properties(asked).to_bytes().decode().rstrip("\n"),
            "END_OF_PROPERTIES",
            "docker run --rm --gpus all --shm-size 12gb \\",
            f'    --volume "$work/properties:{_PROPERTIES}:ro" \\',
            f'    --volume "$work/repo:{MOUNTED}" \\',
            *mounted,
            f'    "$image" {shlex.join(partition_argv(asked))}',
            'mv -- "$work/repo" "$output"',
            'echo "made $output"',
            "",
        ]
    )


def pack_partition(folder: Path, asked: Partition, tokenizer_files: tuple[str, ...] = ()) -> dict[str, bytes]:
    """What to write into the folder that the command made, so that a container serves it mounted: path -> bytes.

    serving.properties of the run, and under 0.25 to 0.32 the toolkit's config.pbtxt with the path that holds there.

    Raises:
        CompileError: the folder is not what the command makes; lists what is missing.
        TokenizerError: the toolkit left no tokenizer, and there is none among `tokenizer_files`.
    """
    flat = asked.release >= _FLAT_SINCE
    model, engines = (folder, folder) if flat else (folder / MODEL, folder / MODEL / "1")
    problems = [] if flat or (model / "config.pbtxt").is_file() else [f"{MODEL}/config.pbtxt is missing"]
    names = _names(engines)
    problems += [problem.text for problem in rank_problems(names, asked.tp * asked.pp)]
    if problems:
        raise CompileError(
            f"{folder} is not what the partition command of LMI {asked.image.lmi} makes: {'; '.join(problems)}",
            hint="Its log says more: run the script again into an empty folder.",
        )
    facts = EngineFacts(
        model=asked.model,
        release=asked.release,
        tp=asked.tp,
        pp=asked.pp,
        dtype=asked.dtype,
        max_batch_size=asked.max_batch_size,
        max_input_len=asked.max_input_len,
        max_seq_len=asked.max_seq_len,
        max_num_tokens=asked.max_num_tokens,
        engine_files=tuple(names),
        tokenizer_files=(*_names(model), *tokenizer_files),
        quant=quant_properties(asked.release, asked.quant),
        options=asked.options,
    )
    files = {SERVING_PROPERTIES: container_files(facts)[SERVING_PROPERTIES]}
    if not flat:
        files[f"{MODEL}/config.pbtxt"] = _mounted((model / "config.pbtxt").read_text()).encode()
    return files


def _mounted(pbtxt: str) -> str:
    """config.pbtxt with `gpt_model_path` where SageMaker mounts the artifact."""
    path = re.compile(r'(key\s*:\s*"gpt_model_path"\s*value\s*:?\s*\{\s*string_value\s*:\s*)"[^"]*"')
    return path.sub(rf'\g<1>"{MOUNTED}/{MODEL}/1"', pbtxt)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _comment(text: str) -> str:
    """Text that cannot leave its comment line."""
    return re.sub(r"[^\x20-\x7e]", "?", text)
