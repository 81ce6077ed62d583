"""serving.properties files as users have them: each property is used, reported as without effect, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.checkpoints import write
from tests.cases.runs import plan, refused, taken

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command import Ran


def _planned(folder: Path, text: str | bytes, *options: str) -> Ran:
    """The plan of a tiny checkpoint with a serving.properties of this text."""
    model = write(folder / "model")
    file = folder / "serving.properties"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
    return plan(model, "--from-properties", file, *options)


@case(2, "tp 4, fp16, batch 3, input 128 in a file")
def sizes_are_used(folder: Path) -> None:
    """Sizes of the file are those of the plan, and the report has the line of each property."""
    lines = ["engine=MPI", "option.model_id=meta-llama/Llama-2-7b-hf", "option.tensor_parallel_degree=4"]
    lines += ["option.dtype=fp16", "option.max_rolling_batch_size=3", "option.max_input_len=128"]
    lines += ["option.max_output_len=64", "option.rolling_batch=trtllm", ""]
    ran = _planned(folder, "\n".join(lines), "--target", "trtllm", "--json")
    taken(ran)
    found = ran.json
    assert (found["tp"], found["dtype"]) == (4, "float16"), found
    assert (found["limits"]["max_batch"], found["limits"]["max_positions"]) == (3, 192), found["limits"]
    for line in range(1, 9):
        assert f" line {line} `" in ran.err, (line, ran.err)
    assert "line 3 `option.tensor_parallel_degree=4`: `--tp 4`" in ran.err
    assert "without effect  line 2 `option.model_id=meta-llama/Llama-2-7b-hf`: `--model` names the model" in ran.err


@case(2, "an option of the command line beside the same property")
def options_replace_properties(folder: Path) -> None:
    """The command line wins, and the report says so."""
    ran = _planned(folder, "option.tensor_parallel_degree=4\noption.dtype=fp16\n", "--tp", "1", "--json")
    taken(ran, "line 1 `option.tensor_parallel_degree=4`: `--tp 1` replaces it")
    assert (ran.json["tp"], ran.json["dtype"]) == (1, "float16")


@case(97, "option.tensor_parallel_degree=max")
def largest_degree(folder: Path) -> None:
    """`max` counts the devices of the instance type, as in a container."""
    ran = _planned(folder, "option.tensor_parallel_degree=max\n", "--instance-type", "ml.g5.12xlarge", "--json")
    taken(ran, "`--tp max`")
    assert ran.json["tp"] == 4


@case(98, "files for other back ends")
def other_back_ends(folder: Path) -> None:
    """Sizes are used, properties of the server are reported, and every problem is in one error with its line."""
    lines = ["engine=Python", "option.rolling_batch=vllm", "option.max_model_len=64", "option.tensor_parallel_degree=2"]
    lines += ["option.gpu_memory_utilization=0.9", "option.max_rolling_batch_size=3", ""]
    ran = _planned(folder, "\n".join(lines), "--json")
    taken(ran, "line 3 `option.max_model_len=64`: `--max-positions 64`", "line 5 `option.gpu_memory_utilization=0.9`")
    assert (ran.json["tp"], ran.json["limits"]["max_positions"], ran.json["limits"]["max_batch"]) == (2, 64, 3)
    lines = ["engine=Python", "option.max_model_len=4096", "option.n_positions=512", "option.s3url=s3://b/m"]
    lines += ["option.rolling_batch=trtllm", "option.quantize=gptq", ""]
    ran = _planned(folder, "\n".join(lines))
    refused(ran, 2, "4 properties", "vLLM", "Transformers-NeuronX", "write `option.model_id`")
    for line in (2, 3, 4, 6):
        assert f"line {line}: " in ran.err, ran.err
    assert "silently ignored" not in ran.err
    both = "engine=DeepSpeed\noption.rolling_batch=lmi-dist\n"
    refused(
        _planned(folder, both), 2, "line 1", "`engine=DeepSpeed`", "`option.rolling_batch=lmi-dist`", "two back ends"
    )
    refused(_planned(folder, "engine=Rust\n"), 2, "line 1", "`engine=Rust`", "embeddings")


@case(99, "names of environment variables in a file")
def environment_names(folder: Path) -> None:
    """The hint has the property's name."""
    for name, wanted in (
        ("OPTION_QUANTIZE", "option.quantize"),
        ("HF_MODEL_ID", "option.model_id"),
        ("TENSOR_PARALLEL_DEGREE", "option.tensor_parallel_degree"),
        ("OPTION_ENTRYPOINT", "option.entryPoint"),
        ("SERVING_JOB_QUEUE_SIZE", "job_queue_size"),
    ):
        refused(_planned(folder, f"{name}=1\n"), 2, "line 1", f"`{name}`", "environment variable", f"`{wanted}`")


@case(100, "CRLF, indents, blanks around =, comments, continuations, repeated keys")
def java_syntax(folder: Path) -> None:
    """Files are read as Java reads them, with the line in which a property begins."""
    text = (
        b"# f\xfcr Llama\r\n\r\n   option.tensor_parallel_degree = 8\r\noption.dtype : \\\r\n   fp16\r\n"
        b"option.tensor_parallel_degree=2\r\n! end\r\noption.model_id={{s3url}}\r\n"
    )
    ran = _planned(folder, text, "--json")
    taken(ran, "line 3 `option.tensor_parallel_degree=8`: line 6 replaces it", "line 4 `option.dtype=fp16`")
    assert (ran.json["tp"], ran.json["dtype"]) == (2, "float16")


@case(102, "trailing blanks, quotes, comments behind values, wrong case, decimal commas, typos")
def values_that_java_reads_otherwise(folder: Path) -> None:
    """Java keeps all of them in the value: they are shown as they are read."""
    for text, words in (
        ("option.quantize=awq \n", ("`awq `",)),
        ('option.quantize="awq"\n', ('`"awq"`',)),
        ("option.quantize=awq # 4 bit\n", ("`awq # 4 bit`",)),
        ("option.quantize=SmoothQuant\n", ("`SmoothQuant`", "smoothquant")),
        ("option.quantize=smoothquant\noption.smoothquant_alpha=0,8\n", ("line 2", "`0,8`")),
        ("option.tensor_parallel_degree=two\n", ("`two`",)),
        ("option.dtype=half\n", ("`half`", "fp16")),
        ("option.quantise=awq\n", ("`option.quantise`", "option.quantize")),
        ("option.quantize=smoothquant\noption.smoothquant_alpha=3\n", ("line 2", "0 to 1", "3")),
        ("option.max_beam_width=4\n", ("option.max_beam_width", "LMI 0.33")),
    ):
        ran = _planned(folder, text)
        refused(ran, 4 if "beam" in text else 2, "line", *words)
