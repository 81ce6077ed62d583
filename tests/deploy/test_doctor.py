from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.cli.text import diagnosis_text
from compiler.deploy.doctor import Diagnosis, doctor

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def states(diagnosis: Diagnosis) -> dict[str, str]:
    return {finding.subject: finding.state for finding in diagnosis.findings}


def test_this_machine_builds_for_its_cpu(tmp_path: Path) -> None:
    diagnosis = doctor(tmp_path)
    assert states(diagnosis).items() >= {"python": "ok", "torch": "ok", "g++": "ok", "cpu": "ok"}.items()
    ability = diagnosis.abilities[0]
    assert (ability.target, ability.compiles, ability.runs, ability.why) == ("inductor (cpu)", True, True, "")


def test_a_missing_compiler_stops_building_and_not_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    diagnosis = doctor(tmp_path)
    found = next(finding for finding in diagnosis.findings if finding.subject == "g++")
    assert found.state == "missing"
    assert "apt-get install g++" in found.remedy
    ability = diagnosis.abilities[0]
    assert (ability.compiles, ability.runs, ability.why) == (False, True, "needs g++")


def test_an_old_compiler_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "c++"
    old.write_text('#!/bin/sh\n[ "$1" = -dumpversion ] && echo 10 || echo "c++ (Some) 10.2.1"\n')
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    found = next(finding for finding in doctor(tmp_path).findings if finding.subject == "g++")
    assert (found.state, found.text) == ("missing", "c++ (Some) 10.2.1, expected 11 or newer")


def test_every_missing_thing_comes_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for finding in doctor(tmp_path).findings:
        assert finding.state == "ok" or finding.remedy, finding


def test_a_target_that_cannot_be_built_names_the_one_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv("LMI_COMPILE_VLLM_PYTHON", raising=False)
    diagnosis = doctor(tmp_path)
    found = {ability.target: ability for ability in diagnosis.abilities}
    mends = {name: ability.mend for name, ability in found.items() if not ability.compiles}
    assert mends["inductor (cpu)"] == "apt-get install -y g++"
    assert mends["inductor (cuda)"] == ""  # another machine
    assert mends["trtllm (engines)"].startswith("pip install tensorrt_llm ")
    assert "pip install vllm" in mends["vllm"]
    assert mends["neuron (executables)"].startswith("pip install neuronx-cc ")
    assert all(not ability.mend for ability in found.values() if ability.compiles)
    lines = diagnosis_text(diagnosis).splitlines()
    assert [line for name, mend in mends.items() for line in lines if mend and line.split("  ")[0] == name] != []
    assert all(any(mend in line for line in lines) for mend in mends.values())


def test_the_driver_is_there_and_torch_cannot_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA L4, 570.0, 8.9'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    ability = next(one for one in doctor(tmp_path).abilities if one.target == "inductor (cuda)")
    assert ability.mend == "pip install torch --index-url https://download.pytorch.org/whl/cu128"


def test_credentials_are_seen_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HF_HOME", "HF_TOKEN_PATH", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    bare = states(doctor(tmp_path))
    assert (bare["Hugging Face token"], bare["AWS credentials"]) == ("note", "note")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    diagnosis = doctor(tmp_path)
    assert (states(diagnosis)["Hugging Face token"], states(diagnosis)["AWS credentials"]) == ("ok", "ok")
    assert "secret" not in (diagnosis_text(diagnosis) + repr(diagnosis)).lower()


def test_the_size_of_the_cache_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 2_500_000)
    found = next(finding for finding in doctor(tmp_path).findings if finding.subject == "cache")
    assert "2.5 MB used" in found.text


def test_the_level_of_the_kernels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMI_COMPILE_ISA", "portable")
    found = next(finding for finding in doctor(tmp_path).findings if finding.subject == "kernels")
    assert (found.state, found.text.partition(";")[0]) == ("ok", "level portable")
    monkeypatch.setenv("LMI_COMPILE_ISA", "sse9")
    diagnosis = doctor(tmp_path)
    found = next(finding for finding in diagnosis.findings if finding.subject == "kernels")
    assert found.state == "missing"
    assert "found `sse9`" in found.text
    ability = diagnosis.abilities[0]
    assert (ability.compiles, ability.runs, ability.why) == (False, False, "needs kernels")
