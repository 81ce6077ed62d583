"""LMI images: the toolchain of each release, and the folder layout that its front end recognizes as compiled.

    <account>.dkr.ecr.<region>.amazonaws.com/djl-inference:0.30.0-tensorrtllm0.12.0-cu125
                                                           release kind  its version toolkit

Two families of TensorRT-LLM images, which do not recognize each other's artifacts (`predicates.py` has their checks):

    triton   0.25 to 0.32   a Triton model repository one level below the root
    engine   0.33           the flat folder that TensorRT-LLM's own `LLM.save` writes

Sources: serving/docker/{tensorrt-llm,pytorch-inf2}.Dockerfile of djl-serving at v0.25.0 to v0.29.0 and on the
branches 0.30.0-dlc to 0.36.0-lmi27-dlc; its release notes at v0.36.0; the tags in src/sagemaker/image_uri_config of
the SageMaker Python SDK. No image was run.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from compiler.errors import RefusedError, UsageError

Release = tuple[int, int]
Family = Literal["triton", "engine"]
Kind = Literal["tensorrtllm", "neuronx", "lmi", "deepspeed"]


@dataclass(frozen=True)
class TrtllmImage:
    """LMI image with TensorRT-LLM. `trtllm`, `tensorrt`, `transformers`: versions inside; `cuda`: in the spelling of
    tags (`cu125`).
    """

    release: Release
    trtllm: str
    tensorrt: str
    cuda: str
    family: Family
    transformers: str
    published: bool = True

    @property
    def lmi(self) -> str:
        """Release as text: `0.30.0`."""
        return f"{self.release[0]}.{self.release[1]}.0"

    @property
    def tag(self) -> str:
        return f"{self.lmi}-tensorrtllm{self.trtllm}-{self.cuda}"


TRTLLM: dict[Release, TrtllmImage] = {
    image.release: image
    for image in (
        TrtllmImage((0, 25), "0.5.0", "9.1.0.post12.dev4", "cu122", "triton", "4.34.0"),
        TrtllmImage((0, 26), "0.7.1", "9.2.0.post12.dev5", "cu122", "triton", "4.36.2"),
        TrtllmImage((0, 27), "0.8.0", "9.2.0.post12.dev5", "cu122", "triton", "4.38.1"),
        TrtllmImage((0, 28), "0.9.0", "9.3.0.post12.dev1", "cu122", "triton", "4.40.0"),
        TrtllmImage((0, 29), "0.11.0", "10.1.0", "cu124", "triton", "4.42.4"),
        # Dockerfiles of 0.31 and 0.32 pin TensorRT 10.1.0 beside TensorRT-LLM 0.12.0; look inside the image.
        TrtllmImage((0, 30), "0.12.0", "10.3.0", "cu125", "triton", "4.44.2"),
        TrtllmImage((0, 31), "0.12.0", "10.3.0", "cu125", "triton", "4.44.2", published=False),
        TrtllmImage((0, 32), "0.12.0", "10.3.0", "cu125", "triton", "4.44.2"),
        # TensorRT-LLM 0.21 asks for transformers ~=4.51; the patch release was not looked up.
        # The release notes say 0.21.0 in the tag and 0.21.0rc1 in the text.
        TrtllmImage((0, 33), "0.21.0", "10.11", "cu128", "engine", "4.51.3"),
    )
}
"""LMI releases whose image loads engines. 0.31 exists as a branch only."""

REFUSED: dict[Release, str] = {
    (0, 34): "its branch went back to TensorRT-LLM 0.12.0 and no image of it was published",
    (0, 35): "its partition script fails on every model and its handler passes the same arguments twice",
    (0, 36): "its partition script fails on every model and its handler passes the same arguments twice",
}
"""Releases without working engines, with reasons. Source: serving/docker/partition and djl_python/lmi_trtllm on the
branches; the failures were reproduced with stubs.
"""


_TAG = re.compile(
    r"(?P<release>\d+\.\d+)\.\d+(?:-dlc)?-(?P<kind>tensorrtllm|trtllm|neuronx|lmi|deepspeed)"
    r"(?:-?(?:sdk)?(?P<version>\d+(?:\.\d+)*))?(?:-cu(?P<cuda>\d+))?"
)
_RELEASE = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)?")


@dataclass(frozen=True)
class Tag:
    """Parsed tag of an image. `version`: its toolchain's; `cuda`: `cu125`; "" for a part that the tag leaves out."""

    release: Release
    kind: Kind
    version: str
    cuda: str


def parse_tag(image: str) -> Tag:
    """Parse a tag (`0.30.0-tensorrtllm0.12.0-cu125`, `0.30.0-trtllm`) or a full image name that ends in one.

    Raises:
        UsageError: it is no tag of djl-inference.
    """
    last = image.rpartition("/")[2]
    tag = last.partition(":")[2] if ":" in last else last
    match = _TAG.fullmatch(tag.partition("@")[0])
    if match is None:
        raise UsageError(
            f"expected the tag of an LMI image such as {TRTLLM[0, 30].tag}; found `{image}`",
            hint="The tags are listed among the images of the AWS Deep Learning Containers, `djl-inference`.",
        )
    kind: Kind = "tensorrtllm" if match["kind"] == "trtllm" else match["kind"]  # type: ignore[assignment]
    cuda = f"cu{match['cuda']}" if match["cuda"] else ""
    return Tag(_release(match["release"]), kind, match["version"] or "", cuda)


def trtllm_image(image: str) -> TrtllmImage:
    """Image with TensorRT-LLM of a tag, a full name, or a release (`0.30.0`).

    Raises:
        UsageError: no tag, a tag of another kind of image, or a tag with versions that do not belong together.
        RefusedError: a release without engines.
    """
    if _RELEASE.fullmatch(image):
        return _image_of(_release(image))
    tag = parse_tag(image)
    if tag.kind != "tensorrtllm":
        raise UsageError(
            f"engines need an LMI image with TensorRT-LLM; `{image}` is of kind `{tag.kind}`",
            hint=f"For example `{TRTLLM[0, 30].tag}`.",
        )
    facts = _image_of(tag.release)
    found = {"TensorRT-LLM": (tag.version, facts.trtllm), "CUDA": (tag.cuda, facts.cuda)}
    wrong = [f"{name} {has}, the tag says {says}" for name, (says, has) in found.items() if says and says != has]
    if wrong:
        raise UsageError(f"LMI {facts.lmi} carries {'; '.join(wrong)}", hint=f"The published image is `{facts.tag}`.")
    return facts


def image_for_trtllm(version: str) -> TrtllmImage | None:
    """Newest published LMI image with this TensorRT-LLM (`0.12.0`; `0.21.0rc1` counts as 0.21.0), None without one."""
    wanted = re.sub(r"rc\d+$", "", version)
    found = [image for image in TRTLLM.values() if image.trtllm == wanted and image.published]
    return max(found, key=lambda image: image.release, default=None)


def parse_release(text: str) -> Release | None:
    """LMI release of `0.30.0`, `v0.30` and the like; None for anything else."""
    return _release(text) if _RELEASE.fullmatch(text) else None


def _release(text: str) -> Release:
    match = _RELEASE.fullmatch(text)
    assert match is not None
    return int(match[1]), int(match[2])


def _image_of(release: Release) -> TrtllmImage:
    if release in TRTLLM:
        return TRTLLM[release]
    first, last = TRTLLM[min(TRTLLM)], TRTLLM[max(TRTLLM)]
    why = REFUSED.get(release, "no documentation describes engines for its image")
    raise RefusedError(
        f"LMI {first.lmi} to {last.lmi} serve engines; found {release[0]}.{release[1]}: {why}",
        hint=f"Use `{last.tag}` or `{TRTLLM[0, 30].tag}`.",
    )


_COMMON = (
    "ap-northeast-1 ap-northeast-2 ap-south-1 ap-southeast-1 ap-southeast-2 ca-central-1 eu-central-1 eu-north-1 "
    "eu-west-1 eu-west-2 eu-west-3 sa-east-1 us-east-1 us-east-2 us-west-1 us-west-2"
)
ACCOUNTS: dict[str, str] = {
    **dict.fromkeys(_COMMON.split(), "763104351884"),
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-east-2": "975050140332",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ap-southeast-5": "550225433462",
    "ap-southeast-7": "590183813437",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "mx-central-1": "637423239942",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}
"""Registry account of AWS's Deep Learning Containers in each region that has one. Sources, read in November 2026: the
list of images in the repository aws/deep-learning-containers, and tables of the SageMaker Python SDK.
"""


def account_of(region: str) -> str:
    """Registry account of a region. Raises UsageError for a region without one, with the nearest names."""
    if region not in ACCOUNTS:
        near = difflib.get_close_matches(region, ACCOUNTS, n=3)
        raise UsageError(
            f"expected a region with a registry of AWS's Deep Learning Containers; found `{region}`",
            hint=f"nearest: {', '.join(near)}" if near else "pass the image's full name, with its registry",
        )
    return ACCOUNTS[region]


def image_uri(image: str, region: str) -> str:
    """Full name of an image in a region's registry; a name with a registry is returned unchanged.

    A release (`0.30.0`) or a tag without versions means the published image with TensorRT-LLM; a tag alone, one of
    djl-inference; `vllm:TAG`, `huggingface-vllm...:TAG`, AWS's images with vLLM. Raises UsageError for a region without
    a registry.
    """
    if "/" in image:
        return image
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    host = f"{account_of(region)}.dkr.ecr.{region}.{suffix}"
    if image.startswith(("vllm:", "huggingface-vllm")):
        return f"{host}/{image}"
    image = image.removeprefix("djl-inference:")
    if _RELEASE.fullmatch(image):
        image = trtllm_image(image).tag
    tag = parse_tag(image)
    if tag.kind == "tensorrtllm" and not (tag.version and tag.cuda):
        image = trtllm_image(image).tag
    return f"{host}/djl-inference:{image}"


_VLLM_SINCE: Release = (0, 33)
"""First LMI release whose `lmi` image is LMI 15 (vLLM 0.8.4)."""


def targets_of_image(image: str) -> tuple[str, ...]:
    """Targets whose artifacts an image serves, the default one first: `trtllm`, `vllm`, `neuron`, `checkpoint`, or
    `inductor`.

    Images: djl-inference, AWS's `vllm` (also for Neuron), `vllm-openai` of the vLLM project, and this project's own
    (ci/images). Raises UsageError for any other name.
    """
    name, _, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
    if name.startswith(("vllm", "huggingface-vllm", "pytorch-inference-vllm-neuron")):
        return ("neuron",) if "neuron" in name else ("vllm",)
    if name.startswith("lmi-compile"):
        return (tag,) if tag in ("trtllm", "neuron") else ("inductor",)
    if parse_release(image):
        return ("trtllm", "checkpoint")
    try:
        found = parse_tag(image)
    except UsageError as error:
        raise UsageError(
            f"`--image {image}` does not tell which target makes its artifacts",
            hint="name the target, too: `--target trtllm` for engines, `--target inductor` for this project's server",
        ) from error
    if found.kind == "lmi":
        return ("vllm", "checkpoint") if found.release >= _VLLM_SINCE else ("checkpoint",)
    return ({"tensorrtllm": "trtllm", "neuronx": "neuron", "deepspeed": "checkpoint"}[found.kind],)
