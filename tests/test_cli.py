from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.testbed.artifacts import manifest, write
from compiler.cli import app
from compiler.cli.parse import default_output, parse_size
from compiler.errors import UsageError
from tests.command import Ran, command

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ran]:
    """The command line in this process, with a cache of its own and a toolchain that compiles nothing."""
    return partial(command, cache=tmp_path / "cache")


def test_help_lists_every_command(run: Callable[..., Ran]) -> None:
    ran = run("--help")
    names = [
        "models",
        "plan",
        "convert",
        "build",
        "package",
        "inspect",
        "verify",
        "generate",
        "serve",
        "deploy",
        "doctor",
        "cache",
    ]
    assert ran.code == 0
    assert [name for name in names if f"\n  {name} " not in ran.out] == []
    for name in names:
        assert run(name, "--help").code == 0


HEAVY = {"torch", "transformers", "boto3", "huggingface_hub", "safetensors", "rich", "numpy", "pydantic"}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["build", "--help"], {"pydantic"}),  # typer checks the values of options with it
        (["plan", "--model", "MODEL"], {"numpy", "pydantic"}),
    ],
)
def test_a_command_imports_only_what_it_needs(
    tiny_checkpoint: Callable[[str], Path], arguments: list[str], allowed: set[str]
) -> None:
    arguments = [str(tiny_checkpoint("llama")) if word == "MODEL" else word for word in arguments]
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['lmi-compile', *{arguments!r}]\n"
        "from compiler.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert set(json.loads(done.stderr.splitlines()[-1].replace("'", '"'))) <= allowed


def test_python_m_compiler_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compiler", "--version"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "0.1.0\n"


def test_errors_are_message_hint_and_exit_code(run: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path]) -> None:
    ran = run("plan", "--model", tiny_checkpoint("llama"), "--tp", "3")
    assert ran == Ran(
        4,
        "",
        "error: tp 3 cannot split this model: 8 query heads and 2 kv heads\n"
        "\n"
        "hint: `--tp` is one of 1, 2, 4, 8 for this model.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["plan", "--model", "MODEL", "--tp", "3"],
            {
                "type": "ParallelError",
                "message": "tp 3 cannot split this model: 8 query heads and 2 kv heads",
                "hint": "`--tp` is one of 1, 2, 4, 8 for this model.",
                "exit_code": 4,
            },
        ),
        (
            ["plan", "--modle", "x"],
            {
                "type": "UsageError",
                "message": "No such option: --modle (Possible options: --model, --moe-ep, --profile)",
                "hint": "`--help` after a command lists its options",
                "exit_code": 2,
            },
        ),
        (
            ["matrix", "plan", "--file", "no.toml"],
            {
                "type": "UsageError",
                "message": "cannot read no.toml: No such file or directory",
                "hint": "`--file` takes a builds.toml",
                "exit_code": 2,
            },
        ),
    ],
)
def test_with_json_an_error_is_one_json_object(
    run: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path], arguments: list[str], expected: dict[str, Any]
) -> None:
    ran = run(*(str(tiny_checkpoint("llama")) if word == "MODEL" else word for word in arguments), "--json")
    assert (ran.code, ran.out) == (expected["exit_code"], "")
    assert json.loads(ran.err.splitlines()[-1]) == {"error": expected}


def test_with_json_a_failed_build_of_the_matrix_sets_the_exit_code(run: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "builds.toml").write_text('[[build]]\nmodel = "./missing"\n')
    ran = run("matrix", "plan", "--file", tmp_path / "builds.toml", "--output", tmp_path / "out", "--json")
    assert (ran.code, [row["exit_code"] for row in ran.json]) == (3, [3])
    assert ran.json[0]["error"].startswith("no such folder")


def test_verbose_adds_the_traceback(run: Callable[..., Ran], tmp_path: Path) -> None:
    plain = run("inspect", tmp_path)
    verbose = run("-v", "inspect", tmp_path)
    assert "Traceback" not in plain.err
    assert "Traceback" in verbose.err
    assert verbose.err.endswith(plain.err)


def changed(source: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(source, target)
    file = target / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return target


def test_bad_input_by_exit_code(
    run: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_checkpoint("llama")
    unknown = changed(model, tmp_path / "unknown", architectures=["LlamaForCausalLn"])
    cases: list[tuple[list[str | Path], int, str, str]] = [
        (["--model", tmp_path / "no"], 3, "no such folder", "`--model` takes"),
        (["--model", "lama3-8b"], 2, "neither a folder nor a known model", "llama3-8b"),
        (["--model", unknown], 4, "LlamaForCausalLn", "LlamaForCausalLM"),
        (["--model", model, "--recipe", "gpt5"], 4, "no recipe is called `gpt5`", "llama"),
        (
            ["--model", model, "--recipe", "qwen2"],
            4,
            "reads Qwen2ForCausalLM; config.json names the architecture LlamaForCausalLM",
            "leave `--recipe` out",
        ),
        (["--model", model, "--tp", "two"], 2, "--tp two", "--tp 1"),
        (["--model", model, "--tp", "0"], 2, "--tp 0", "--tp 1"),
        (["--model", model, "--tp", "max", "--instance-type", "ml.t2.medium"], 2, "ml.t2.medium", "--tp N"),
        (["--model", model, "--tp", "max", "--instance-type", "ml.t3.medium"], 2, "ml.t3.medium", "ml.t2.medium"),
        (["--model", model, "--target", "cobol"], 2, "no target is called `cobol`", "inductor"),
        (["--model", model, "--dtype", "int3"], 4, "int3", ""),
        (["--model", model, "--rope-scaling", "magic:2"], 4, "magic:2", ""),
        (["--model", model, "--max-positions", "300"], 4, "2 to 256", "--rope-scaling"),
        (["--model", model, "--max-batch", "0"], 4, "--max-batch", ""),
        (["--model", model, "--max-memory", "some"], 2, "`some` is not a size", "GiB"),
        (["--model", model, "--revision", "main"], 2, "no revisions", "--revision"),
    ]
    for arguments, code, message, hint in cases:
        ran = run("plan", *arguments)
        error, _, advice = ran.err.partition("\n\nhint: ")
        assert (ran.code, ran.out) == (code, ""), (arguments, ran)
        assert error.startswith("error: ")
        assert message in error, ran
        assert hint in advice, ran


def test_a_port_that_does_not_exist_is_refused(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("serve", tmp_path, "--port", "80999")
    assert (ran.code, ran.out) == (2, "")
    assert "65535" in ran.err


def test_a_ceiling_too_small_for_one_row_says_how_much_is_needed(
    run: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    ran = run("convert", "--model", tiny_checkpoint("llama"), "--output", output, "--max-memory", "64")
    assert ran.code == 5
    assert "more than the ceiling of 64 bytes" in ran.err
    needed = ran.err.rsplit(" ", 1)[1].strip()
    assert not output.exists()
    argv = ["convert", "--model", tiny_checkpoint("llama"), "--output", output, "--max-memory", needed]
    assert run(*argv).code == 0


def test_models(run: Callable[..., Ran]) -> None:
    rows = {row["recipe"]: row for row in run("models", "--json").json}
    assert rows["mixtral"]["architectures"] == ["MixtralForCausalLM"]
    assert rows["mixtral"]["models"]["mixtral"] == "mistralai/Mixtral-8x7B-v0.1"
    assert "mixtral" in run("models").out


def test_plan(run: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path]) -> None:
    argv = ["plan", "--model", tiny_checkpoint("mixtral"), "--tp", "max", "--instance-type", "g5.12xlarge"]
    plan = run(*argv, "--json").json
    assert (plan["tp"], len(plan["ranks"]), plan["recipe"]) == (4, 4, "mixtral")
    text = run(*argv).out
    assert "2 query and 1 kv heads a rank" in text
    assert "weights/rank3.safetensors" in text


def test_longer_contexts_cost_cache(run: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path]) -> None:
    argv = ["plan", "--model", tiny_checkpoint("llama"), "--json"]
    key = "kv_cache_bytes_per_rank_at_limits"
    assert run(*argv, "--rope-scaling", "linear:2").json[key] == 2 * run(*argv).json[key]


def test_build_and_inspect(run: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    output = tmp_path / "artifact"
    argv = ["build", "--model", tiny_checkpoint("qwen2"), "--tp", "2", "--output", output]
    first = run(*argv)
    assert (first.code, first.out) == (0, f"{output}\n")
    assert [line.split(":")[0] for line in first.err.splitlines()] == [
        "plan", "digest", "convert", "compile", "package", "verify",
    ]  # fmt: skip
    again = run(*argv, "--json")
    assert again.json["up_to_date"]
    assert again.json["made"] == {}
    inspected = run("inspect", output, "--json").json
    assert inspected["parallel"] == {"tp": 2, "pp": 1, "moe_ep": 1, "parallel_embedding": False}
    assert inspected["model"]["recipe"] == "qwen2"
    assert again.json["digest"] in run("inspect", output).out
    assert run("verify", output).code == 0
    stages = {line["stage"] for line in run("cache", "ls", "--json").json}
    assert stages == {"convert", "compile"}
    assert "entries" in run("cache", "ls").out
    assert run("cache", "clear", "--json").json["bytes"] > 0
    assert run("cache", "ls", "--json").json == []
    assert run("verify", output).code == 0


def test_build_until(run: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    output = tmp_path / "artifact"
    ran = run("build", "--model", tiny_checkpoint("llama"), "--output", output, "--until", "convert", "--json")
    assert (ran.code, ran.json["output"], ran.json["made"]) == (0, None, {"convert": 1})
    assert not output.exists()


def test_a_damaged_artifact(run: Callable[..., Ran], tmp_path: Path) -> None:
    write(tmp_path, manifest(toolchain={}))
    (tmp_path / "weights/rank0.safetensors").write_bytes(b"short")
    ran = run("verify", tmp_path)
    assert ran.code == 7
    assert "weights/rank0.safetensors: expected 400 bytes, found 5" in ran.err
    assert "hint: copy the artifact again" in ran.err


def test_an_artifact_for_another_torch(run: Callable[..., Ran], tmp_path: Path) -> None:
    write(tmp_path, manifest(toolchain={"torch": "1.13"}))
    for argv in (["verify", tmp_path], ["generate", tmp_path, "x"]):
        ran = run(*argv)
        assert ran.code == 7
        assert "was built with torch 1.13" in ran.err


def test_doctor(run: Callable[..., Ran]) -> None:
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert {finding["subject"] for finding in ran.json["findings"]} >= {"python", "torch", "g++"}
    assert "builds here" in run("doctor").out


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GiB", 1 << 30), ("1 GB", 10**9), ("1.5MiB", 3 << 19), ("64", 64), ("2k", 2000), ("7B", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1XB", "0", "1 2"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)


def test_every_option_says_what_it_is() -> None:
    import typer

    group: Any = typer.main.get_command(app)
    silent = [
        f"{name} {parameter.name}"
        for name, command in group.commands.items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("model", "tp", "dtype", "expected"),
    [
        ("mixtral", 8, None, "artifacts/mixtral-inductor-tp8"),
        ("mistralai/Mistral-7B-v0.1", 4, None, "artifacts/Mistral-7B-v0.1-inductor-tp4"),
        ("s3://bucket/models/llama/", 2, "float16", "artifacts/llama-inductor-tp2-float16"),
    ],
)
def test_the_output_has_a_name_when_none_is_given(model: str, tp: int, dtype: str | None, expected: str) -> None:
    assert default_output(model, "inductor", tp, dtype) == Path(expected)
