"""The tokenizer of an artifact for a container, loaded from the packed folder before the artifact is put in place."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.testbed.artifacts import manifest
from compiler.artifact.manifest import ArtifactFile, Device, Manifest
from compiler.artifact.parts import written
from compiler.pipeline.install import packed_notes
from compiler.targets.trtllm.section import BuildLimits, Engines
from tests.tokenizer import samples
from tests.tokenizer.samples import write_config

ENGINE = "tensorrt_llm/1/rank0.engine"


def packed(folder: Path, stand_in: bool = False, **settings: Any) -> Manifest:
    """An artifact for LMI 0.30 with the tokenizer of `samples.byte_level` and the settings, as far as notes read it."""
    write_config(folder / "tensorrt_llm", bos_token="<s>", unk_token="<unk>", **settings)
    (folder / "tensorrt_llm/tokenizer.json").write_text(samples.byte_level())
    (folder / "tensorrt_llm/1").mkdir()
    (folder / ENGINE).write_bytes(b"no engine")
    files = [written(str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
    return manifest(
        target="trtllm",
        device=Device(kind="cuda", capability="9.0"),
        stand_in=stand_in,
        files=tuple(ArtifactFile(**asdict(part.descriptor)) for part in sorted(files, key=lambda part: part.path)),
        section=Engines(
            version="0.12.0",
            image="0.30.0-tensorrtllm0.12.0-cu125",
            container="triton",
            quant_algo="",
            checkpoint={},
            checkpoint_files=(),
            files=(ENGINE,),
            limits=BuildLimits(max_batch_size=1, max_input_len=8, max_seq_len=16, max_num_tokens=8),
            argv=(),
        ),
    )


def test_a_tokenizer_with_the_same_ids_has_no_notes(tmp_path: Path) -> None:
    assert packed_notes(packed(tmp_path, tokenizer_class="PreTrainedTokenizerFast"), tmp_path) == []


def test_other_ids_are_noted_with_the_version_in_the_image(tmp_path: Path) -> None:
    """GemmaTokenizer of transformers 5 splits texts by itself, whatever tokenizer.json says."""
    notes = packed_notes(packed(tmp_path, tokenizer_class="GemmaTokenizer"), tmp_path)
    assert notes
    assert all("the image has transformers 4.44.2" in note for note in notes)


def test_a_tokenizer_of_a_stand_in_is_not_loaded(tmp_path: Path) -> None:
    assert packed_notes(packed(tmp_path, stand_in=True, tokenizer_class="GemmaTokenizer"), tmp_path) == []
