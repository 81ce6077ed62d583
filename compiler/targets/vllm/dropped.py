"""Architectures that vLLM had once and dropped, or never had although recipes here read them.

Source: `_PREVIOUSLY_SUPPORTED_MODELS` and the registry in vllm/model_executor/models/registry.py of 0.32.0. A server
of a later release ends with an error, in whatever form the weights are.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler.errors import RefusedError
from compiler.targets.vllm.images import IMAGES, Version, VllmImage, parse_version

_TABLE = """
0.9   Phi3SmallForCausalLM
0.10  DonutForConditionalGeneration MllamaForConditionalGeneration MotifForCausalLM Phi4FlashForCausalLM
0.12  Phi4MultimodalForCausalLM
0.22  JAISLMHeadModel
0.23  BaiChuanForCausalLM BaichuanForCausalLM BambaForCausalLM Dots1ForCausalLM ErnieForSequenceClassification
      ErnieForTokenClassification ErnieModel InternLM2VEForCausalLM InternLMForCausalLM MiniMaxForCausalLM
      MiniMaxM1ForCausalLM MiniMaxText01ForCausalLM MiniMaxVL01ForConditionalGeneration QWenLMHeadModel
      QwenVLForConditionalGeneration Tarsier2ForConditionalGeneration XverseForCausalLM
0.24  AquilaForCausalLM AquilaModel AyaVisionForConditionalGeneration Grok1ForCausalLM Grok1ModelForCausalLM
      MantisForConditionalGeneration MusicFlamingoForConditionalGeneration TarsierForConditionalGeneration
0.25  FuyuForCausalLM PersimmonForCausalLM TeleChatForCausalLM
0.26  OuroForCausalLM Plamo2ForCausalLM
0.28  ArcticForCausalLM ChameleonForConditionalGeneration Cheers CheersForConditionalGeneration
      Fairseq2LlamaForCausalLM FireRedLIDForConditionalGeneration GritLM HCXVisionForCausalLM MPTForCausalLM
      MptForCausalLM PrithviGeoSpatialMAE RWForCausalLM StableLMEpochForCausalLM
"""
"""Last minor release with an architecture, and its architectures."""


def _parsed(table: str) -> Mapping[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    release = (0, 0)
    for word in table.split():
        if word[0].isdigit():
            release = parse_version(word)[:2]
        else:
            found[word] = release
    return found


LAST: Mapping[str, tuple[int, int]] = _parsed(_TABLE)
"""Last minor release of vLLM with an architecture."""
NEVER = frozenset({"GPT2LMHeadCustomModel"})
"""Architectures of recipes here that 0.32.0 names neither among those that it has nor among those that it dropped."""


def has(architecture: str, version: Version) -> bool:
    """Whether a release of vLLM has the architecture, as far as its last release is known."""
    return architecture not in NEVER and version[:2] <= LAST.get(architecture, version[:2])


def check_served(architecture: str, version: Version) -> None:
    """Raise RefusedError for an architecture that vLLM `version` has no more, or never had."""
    if has(architecture, version):
        return
    if architecture in NEVER:
        reason, hint = "vLLM never had this class", "build it with `--target inductor`"
    else:
        release = ".".join(map(str, LAST[architecture]))
        image = max((each for each in IMAGES.values() if _minor(each) <= LAST[architecture]), key=_minor)
        reason = f"vLLM dropped it, {release} was the last with it; found {'.'.join(map(str, version))}"
        hint = f"`--image {image.name}` has vLLM {image.vllm}; or `--vllm-version {release}.0`, or `--target inductor`"
    raise RefusedError(f"target `vllm` does not support {architecture}: {reason}", hint=hint)


def _minor(image: VllmImage) -> tuple[int, int]:
    return parse_version(image.vllm)[:2]
