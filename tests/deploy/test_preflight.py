from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.testbed.artifacts import manifest, write
from compiler.artifact.manifest import Device, Manifest
from compiler.decoder.traffic import step_bytes
from compiler.deploy.preflight import preflight, refuse
from compiler.errors import IncompatibleError, LmiCompileError, ResourceError
from compiler.machine import LEVELS, Gpu, Host, _visible, parse_gpus, this_host
from compiler.storage.files.digest import SAFETENSORS
from compiler.targets.trtllm.section import BuildLimits, Engines

V3 = frozenset[str]().union(*(LEVELS[level] for level in ("x86-64", "x86-64-v2", "x86-64-v3")))
CPU = Host("x86-64-v3", V3, {"torch": "2.13.1"}, (), None, memory=1 << 30, disk=1 << 30)
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", 80 << 30)
A10G = Gpu("NVIDIA A10G", "8.6", 24 << 30)
GPUS = replace(CPU, packages={"tensorrt_llm": "0.12.0", "tensorrt": "10.3.0"}, gpus=(H100,) * 2, driver="550.54.15")


def engines(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "target": "trtllm",
        "section": Engines(
            version="0.12.0",
            image=None,
            container="triton",
            quant_algo="",
            checkpoint={},
            checkpoint_files=(),
            argv=(),
            files=("weights/rank0.safetensors", "weights/rank1.safetensors"),
            limits=BuildLimits(max_batch_size=1, max_input_len=8, max_seq_len=16, max_num_tokens=8),
        ),
        "device": Device(kind="cuda", capability="9.0"),
        "toolchain": {"tensorrt_llm": "0.12.0", "tensorrt": "10.3.0", "cuda": "12.5"},
    }
    return manifest(**{**fields, **changes})


def refused(made: Manifest, folder: Path, host: Host) -> LmiCompileError:
    with pytest.raises((IncompatibleError, ResourceError)) as caught:
        refuse(made.name, preflight(made, folder, host))
    return caught.value


def test_machines_that_fit(tmp_path: Path) -> None:
    for made, host in ((manifest(), CPU), (engines(), GPUS)):
        findings = preflight(made, tmp_path, host)
        assert {finding.state for finding in findings} == {"ok"}
        refuse(made.name, findings)


@pytest.mark.parametrize(
    ("made", "host", "words", "remedy"),
    [
        (manifest(), replace(CPU, packages={}), "this machine has no torch", "torch==2.13.*"),
        (manifest(device=Device(kind="cpu", isa="x86-64-v4")), CPU, "lacks avx512", "--march x86-64-v3"),
        (engines(), replace(GPUS, gpus=(), driver=None), "no NVIDIA driver answers", "it fits ml.p5"),
        (engines(), replace(GPUS, gpus=(H100,)), "needs 2 x compute capability 9.0; this machine has 1 x", "ml.p5"),
        (engines(), replace(GPUS, gpus=(A10G,) * 4), "has 4 x NVIDIA A10G (8.6)", "ml.p5"),
        (
            engines(device=Device(kind="cuda", capability="8.9")),
            GPUS,
            "needs 2 x compute capability 8.9",
            "it fits ml.g6.12xlarge",
        ),
        (
            engines(),
            replace(GPUS, packages={"tensorrt_llm": "0.11.0", "tensorrt": "10.3.0"}),
            "tensorrt_llm: built with 0.12.0; 0.11.0 here",
            "run it in the LMI image 0.32.0-tensorrtllm0.12.0-cu125",
        ),
        (engines(), replace(GPUS, driver="470.57"), "CUDA 12 needs driver 525 or newer; 470.57", "InferenceAmiVersion"),
    ],
)  # fmt: skip
def test_a_mismatch_is_named_with_what_fits(
    tmp_path: Path, made: Manifest, host: Host, words: str, remedy: str
) -> None:
    error = refused(made, tmp_path, host)
    assert words in error.message
    assert remedy in error.hint
    assert error.exit_code == 7


def test_a_checkpoint_without_engines_cannot_run(tmp_path: Path) -> None:
    waiting = engines(section=engines().section.model_copy(update={"files": ()}))
    error = refused(waiting, tmp_path, GPUS)
    assert "engines are not built yet" in error.message
    assert "build-engines.sh" in error.hint


def test_everything_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    error = refused(engines(), tmp_path, replace(GPUS, packages={}, gpus=(), driver=None, disk=10))
    for subject in ("gpu:", "tensorrt_llm:", "tensorrt:", "disk:"):
        assert subject in error.message


def test_a_machine_that_is_only_too_small_is_another_error(tmp_path: Path) -> None:
    heavy = manifest(files=tuple(f.model_copy(update={"media_type": SAFETENSORS}) for f in manifest().files))
    error = refused(heavy, tmp_path, replace(CPU, memory=100))
    assert isinstance(error, ResourceError)
    assert "memory: weights of" in error.message
    assert error.exit_code == 5


def test_the_level_of_the_kernels_is_that_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMI_COMPILE_ISA", raising=False)
    text = next(f.text for f in preflight(manifest(), tmp_path, CPU) if f.subject == "decode")
    assert text == "kernels of level avx2"
    made = manifest()
    read = step_bytes(made.config, made.parallel.tp, made.dtype)
    measured = replace(CPU, bandwidth=10.0 * read)
    text = next(f.text for f in preflight(made, tmp_path, measured) if f.subject == "decode")
    assert text.startswith("at most 10 tokens/s a row: ")
    assert text.endswith("kernels of level avx2")
    monkeypatch.setenv("LMI_COMPILE_ISA", "avx512")
    found = next(f for f in preflight(manifest(), tmp_path, CPU) if f.subject == "runtime")
    assert found.state == "mismatch"
    assert "found `avx512`" in found.text


def test_files_that_exist_already_need_no_disk(tmp_path: Path) -> None:
    full = replace(CPU, disk=0)
    assert "disk" in refused(manifest(), tmp_path, full).message
    refuse("tiny", preflight(manifest(), write(tmp_path), full))


def test_gpus_need_memory_for_their_rank(tmp_path: Path) -> None:
    small = replace(H100, memory=100)
    error = refused(engines(), tmp_path, replace(GPUS, gpus=(H100, small)))
    assert "needs 400 B on each for the weights; the smallest here has 100 B" in error.message


def test_the_drivers_answer_is_read() -> None:
    text = "NVIDIA H100 80GB HBM3, 9.0, 81559, 550.54.15\nNVIDIA A10G, 8.6, [N/A], 550.54.15\nerror, of some kind\n"
    gpus, driver = parse_gpus(text)
    assert driver == "550.54.15"
    assert gpus == (Gpu("NVIDIA H100 80GB HBM3", "9.0", 81559 << 20), Gpu("NVIDIA A10G", "8.6", 0))
    assert parse_gpus("NVIDIA-SMI has failed\n") == ((), None)


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        ("GPU-a,GPU-b", [0, 1]),
    ],
)
def test_only_visible_gpus_count(wanted: str | None, left: list[int]) -> None:
    gpus = tuple(Gpu(str(index), "9.0", index) for index in range(3))
    assert _visible(gpus, wanted) == tuple(gpus[index] for index in left)


def test_this_host_is_looked_at_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    found = this_host(tmp_path / "not" / "there")
    assert found.memory > 0
    assert found.disk > 0
    assert "torch" in found.packages
    write(tmp_path / "artifact")
    code = (
        "import sys; sys.argv = ['lmi-compile', 'preflight', sys.argv[1]]\n"
        "from compiler.cli import main\n"
        "try: main()\n"
        "except SystemExit as end:\n"
        "    print(end.code or 0, sorted({'torch', 'transformers', 'boto3'} & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "artifact"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "0 []"
