from __future__ import annotations

import io
import pickle
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.testbed.artifacts import CONTENT, manifest, write
from compiler.artifact.archive import check_contained
from compiler.artifact.check import check_files
from compiler.artifact.manifest import ArtifactFile
from compiler.errors import ArtifactError
from compiler.storage.files.digest import OCTETS, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "packages/attn.prefill.pt2"


def archive(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as opened:
        for name, data in members:
            opened.writestr(name, data)
    return made.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def flagged(name: str, data: bytes, flag: int) -> bytes:
    """An archive of one member whose flags claim something, in its own header and in the directory."""
    made = bytearray(archive((name, data)))
    made[6] |= flag
    made[made.rindex(b"PK\x01\x02") + 8] |= flag
    return bytes(made)


def bomb() -> bytes:
    return archive(("model/data", bytes(32 << 20)), compression=zipfile.ZIP_DEFLATED)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a pickle was loaded",))


HARMFUL: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: archive(("/etc/cron.d/job", b"x")), "`/etc/cron.d/job` leads out of the folder"),
    "parent": (lambda: archive(("model/../../x.so", b"x")), r"`model/\.\./\.\./x\.so` leads out"),
    "backslash": (lambda: archive(("..\\x.so", b"x")), "leads out"),
    "link": (lambda: archive((link("model/lib"), b"/etc/passwd")), "`model/lib` is a link"),
    "pickled member": (lambda: archive(("model/a", pickle.dumps(Runs(), 4))), "`model/a` is a pickle"),
    "torch.save": (lambda: archive(("model/data.pkl", b"whatever")), r"`model/data\.pkl` is a pickle"),
    "pickle": (lambda: pickle.dumps(Runs(), 2), "is a pickle"),
    "encrypted": (lambda: flagged("model/a", b"x", 1), "`model/a` is encrypted"),
    "bomb": (bomb, "claims 33,554,432 bytes in"),
    "truncated": (lambda: archive(("model/a", b"x" * 1000))[:500], "is a broken zip archive"),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_a_harmful_file_is_refused_by_what_is_in_it(tmp_path: Path, case: str) -> None:
    make, words = HARMFUL[case]
    (tmp_path / "innocent.bin").write_bytes(make())
    with pytest.raises(ArtifactError, match=words) as caught:
        check_contained(tmp_path, ["innocent.bin"])
    assert "innocent.bin: " in caught.value.message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(archive(("model/a", b"1"), ("model/a", b"2")))
    with pytest.raises(ArtifactError, match="two members `model/a`"):
        check_contained(tmp_path, ["f"])


def test_the_files_of_a_package_are_let_through(tmp_path: Path) -> None:
    members = [("p/.data/version", b"1"), ("p/data/model.so", b"\x7fELF" + b"\0" * 1000), ("p/empty/", b"")]
    (tmp_path / "p.pt2").write_bytes(archive(*members, compression=zipfile.ZIP_DEFLATED))
    (tmp_path / "plain").write_bytes(b"\x80")
    check_contained(tmp_path, ["p.pt2", "plain", "missing"])


@pytest.mark.parametrize("whole", ["file", "folder"])
def test_a_link_out_of_the_artifact_is_refused(tmp_path: Path, whole: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    artifact = write(tmp_path / "artifact")
    moved = artifact / ("tokenizer/tokenizer.json" if whole == "file" else "tokenizer")
    moved.rename(outside / "moved")
    moved.symlink_to(outside / "moved")
    with pytest.raises(ArtifactError, match=r"tokenizer/tokenizer\.json: leads out of the folder"):
        check_files(manifest(), artifact)


def test_a_link_to_the_artifact_itself_is_no_harm(tmp_path: Path) -> None:
    write(tmp_path / "artifact")
    (tmp_path / "mounted").symlink_to(tmp_path / "artifact")
    check_files(manifest(), tmp_path / "mounted", by="sha256")


def test_every_check_of_an_artifact_looks_into_its_archives(tmp_path: Path) -> None:
    """The manifest may vouch for a harmful package: its digest does not make it harmless."""
    data = archive(("../x", b"x"))
    content = {**CONTENT, PACKAGE: data}
    made = manifest(
        files=tuple(
            ArtifactFile(path=path, media_type=OCTETS, digest=digest_bytes(blob), size=len(blob))
            for path, blob in content.items()
        )
    )
    write(tmp_path, made)
    (tmp_path / PACKAGE).write_bytes(data)
    with pytest.raises(ArtifactError, match=r"attn\.prefill\.pt2: member `\.\./x` leads out of the folder"):
        check_files(made, tmp_path, by="sha256")


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "a\\b", "./a", "", "."])
def test_a_manifest_cannot_name_what_is_outside(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        ArtifactFile(path=path, media_type=OCTETS, digest=digest_bytes(b""), size=0)
