"""Architectures that no recipe reads: what they need that the decoder lacks, and what serves them instead.

Names are those of `architectures` in config.json: classes of transformers 4.30 to 5.23, and of published checkpoints
with code of their own. A row that a recipe reads does no harm: recipes are asked first.
"""

from __future__ import annotations

from dataclasses import dataclass

VLLM = "serve it with LMI's vLLM image (`option.rolling_batch=vllm`), which compiles when it starts"
_EMBEDDING = "serve it with a server for embeddings or classification, such as Text Embeddings Inference"
_SEQ2SEQ = "serve it with LMI's Python back end or with TensorRT-LLM's own encoder-decoder example"
_TEXT = "serve it with LMI's vLLM image"
_HEAD = "build the causal model that it was made from, or serve it with LMI's vLLM image"


@dataclass(frozen=True)
class Family:
    """Architectures that need the same thing. `needs`: what the decoder lacks; `instead`: what to do."""

    needs: str
    instead: str
    names: frozenset[str]


def _family(needs: str, instead: str, names: str) -> Family:
    return Family(needs, instead, frozenset(names.split()))


FAMILIES = (
    _family("state-space layers (Mamba), which have a state instead of a KV cache", VLLM, """
        MambaForCausalLM Mamba2ForCausalLM FalconMambaForCausalLM MambaLMHeadModel CodestralMambaForCausalLM
        xLSTMForCausalLM
    """),
    _family("state-space or linear-attention layers between its attention layers", VLLM, """
        JambaForCausalLM ZambaForCausalLM Zamba2ForCausalLM BambaForCausalLM FalconH1ForCausalLM NemotronHForCausalLM
        GraniteMoeHybridForCausalLM Qwen3NextForCausalLM Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM KimiLinearForCausalLM
        MiniMaxForCausalLM MiniMaxText01ForCausalLM MiniMaxM1ForCausalLM RecurrentGemmaForCausalLM PLaMo2ForCausalLM
        Plamo2ForCausalLM HymbaForCausalLM Phi4FlashForCausalLM SambaForCausalLM OlmoHybridForCausalLM
        BailingHybridForCausalLM BailingMoeLinearForCausalLM BailingMoeV2_5ForCausalLM Mamba2HybridForCausalLM
    """),
    _family("short convolutions between its attention layers", VLLM, """
        Lfm2ForCausalLM Lfm2MoeForCausalLM Lfm3ForCausalLM StripedHyenaModelForCausalLM StripedHyenaForCausalLM
    """),
    _family("recurrent layers (RWKV)", "serve it with its own runtime", """
        RwkvForCausalLM Rwkv5ForCausalLM Rwkv6ForCausalLM RWKV7ForCausalLM RwkvHybridForCausalLM
    """),
    _family("sparse attention with an index (DSA) or compressed blocks", VLLM, """
        DeepseekV32ForCausalLM DeepseekV4ForCausalLM GlmMoeDsaForCausalLM MiniCPM4ForCausalLM
    """),
    _family("multi-head latent attention with another wiring than DeepSeek's", VLLM, """
        MiniCPM3ForCausalLM LongcatFlashForCausalLM Glm4MoeLiteForCausalLM YoutuForCausalLM KimiK2ForCausalLM
        Mistral4ForCausalLM MistralLarge3ForCausalLM
    """),
    _family("experts with another router or activation than the decoder's", VLLM, """
        PhimoeForCausalLM PhiMoEForCausalLM DbrxForCausalLM Grok1ForCausalLM Grok1ModelForCausalLM OlmoeForCausalLM
        FlexOlmoForCausalLM JetMoeForCausalLM GraniteMoeForCausalLM GraniteMoeSharedForCausalLM ArcticForCausalLM
        Glm4MoeForCausalLM Dots1ForCausalLM Ernie4_5_MoeForCausalLM Ernie4_5_MoEForCausalLM HunYuanMoEV1ForCausalLM
        MiniMaxM2ForCausalLM BailingMoeForCausalLM BailingMoeV2ForCausalLM AfmoeForCausalLM MiMoV2FlashForCausalLM
        ExaoneMoeForCausalLM Step3TextForCausalLM Step3p5ForCausalLM SolarOpenForCausalLM HYV3ForCausalLM
        DeepseekForCausalLM OpenMoeForCausalLM XverseMoeForCausalLM SwitchTransformersForConditionalGeneration
        Cohere2MoeForCausalLM OrionMOECausalLM PanguProMoEForCausalLM
    """),
    _family("a wiring of norms, scales or positions that no recipe describes yet", VLLM, """
        OlmoForCausalLM Olmo3ForCausalLM Glm4ForCausalLM NemotronForCausalLM MiniCPMForCausalLM ExaoneForCausalLM
        Exaone4ForCausalLM Ernie4_5ForCausalLM HunYuanDenseV1ForCausalLM HunYuanForCausalLM SeedOssForCausalLM
        ArceeForCausalLM ApertusForCausalLM HeliumForCausalLM DiffLlamaForCausalLM BitNetForCausalLM BitnetForCausalLM
        MiMoForCausalLM Phi3SmallForCausalLM PersimmonForCausalLM CodeGenForCausalLM GPTNeoForCausalLM XGLMForCausalLM
        BioGptForCausalLM CTRLLMHeadModel OpenAIGPTLMHeadModel GPTNeoXJapaneseForCausalLM PhiMSFTForCausalLM
        MixFormerSequentialForCausalLM RWForCausalLM DeciLMForCausalLM DeciCoderForCausalLM SolarForCausalLM
        GraniteSWAForCausalLM InternLM3ForCausalLM OrionForCausalLM XverseForCausalLM AquilaForCausalLM
        AquilaModel YiForCausalLM StableLMEpochForCausalLM StableLMAlphaForCausalLM CwmForCausalLM DogeForCausalLM
        JAISLMHeadModel Jais2ForCausalLM MistralYarnForCausalLM OpenELMForCausalLM TeleChatForCausalLM
        TeleChat2ForCausalLM TeleFLMForCausalLM ZhinaoForCausalLM NanoChatForCausalLM VaultGemmaForCausalLM
        Gemma3nForCausalLM Gemma4ForCausalLM MinistralForCausalLM Ministral3ForCausalLM Plamo3ForCausalLM
        PlamoForCausalLM Zamba3ForCausalLM GPTPanguForCausalLM SkyworkForCausalLM BlueLMForCausalLM FairseqT5LM
    """),
    _family("diffusion over tokens instead of one token after another", "serve it with its own runtime", """
        LLaDAModelLM LLaDAMoEModelLM LLaDA2MoeModelLM DreamModel SDARForCausalLM SDARMoeForCausalLM
        DiffusionGemmaForBlockDiffusion DiffuCoderModel
    """),
    _family("a pipeline of several models that makes images or sound", "serve it with LMI's diffusers handler", """
        StableDiffusionPipeline StableDiffusionXLPipeline FluxPipeline UNet2DConditionModel SD3Transformer2DModel
        FluxTransformer2DModel AutoencoderKL MusicgenForConditionalGeneration BarkModel VitsModel
    """),
    _family("an encoder without a decoder: it gives vectors or labels, no next tokens", _EMBEDDING, """
        BertModel BertForMaskedLM BertForSequenceClassification BertForTokenClassification BertForQuestionAnswering
        RobertaModel RobertaForMaskedLM RobertaForSequenceClassification XLMRobertaModel XLMRobertaForMaskedLM
        XLMRobertaForSequenceClassification DistilBertModel DistilBertForMaskedLM DistilBertForSequenceClassification
        DebertaV2Model DebertaV2ForMaskedLM DebertaV2ForSequenceClassification ElectraModel AlbertModel MPNetModel
        MPNetForMaskedLM ModernBertModel ModernBertForMaskedLM ModernBertForSequenceClassification NomicBertModel
        NewModel GteModel JinaBertForMaskedLM CLIPModel CLIPTextModel SiglipModel Siglip2Model ViTModel Wav2Vec2Model
        HubertModel ESMForMaskedLM EsmForMaskedLM LayoutLMv3Model ColBERT HF_ColBERT
    """),
    _family("an encoder and a decoder with cross-attention", _SEQ2SEQ, """
        T5ForConditionalGeneration T5WithLMHeadModel MT5ForConditionalGeneration UMT5ForConditionalGeneration
        LongT5ForConditionalGeneration BartForConditionalGeneration BartModel MBartForConditionalGeneration
        PegasusForConditionalGeneration PegasusXForConditionalGeneration M2M100ForConditionalGeneration MarianMTModel
        NllbMoeForConditionalGeneration LEDForConditionalGeneration BlenderbotForConditionalGeneration
        BlenderbotSmallForConditionalGeneration ProphetNetForConditionalGeneration PLBartForConditionalGeneration
        FSMTForConditionalGeneration EncoderDecoderModel SpeechEncoderDecoderModel VisionEncoderDecoderModel
        WhisperForConditionalGeneration MoonshineForConditionalGeneration SeamlessM4Tv2Model
        T5GemmaForConditionalGeneration Florence2ForConditionalGeneration Pix2StructForConditionalGeneration
        BigBirdPegasusForConditionalGeneration
        DonutSwinModel SpeechT5ForTextToSpeech
    """),
    _family("cross-attention to images inside its text layers", _TEXT, """
        MllamaForConditionalGeneration MllamaForCausalLM IdeficsForVisionText2Text BlipForConditionalGeneration
        GitForCausalLM FlamingoForCausalLM EvollaForProteinText2Text CogVLMForCausalLM
    """),
    _family("attention in both directions over a prompt", _TEXT, """
        PaliGemmaForConditionalGeneration ColPaliForRetrieval T5Gemma2ForConditionalGeneration
    """),
    _family("a text part that no recipe describes, with images or sound", _TEXT, """
        FuyuForCausalLM MolmoForCausalLM Molmo2ForConditionalGeneration Phi3VForCausalLM Phi4MMForCausalLM
        Phi4MultimodalForCausalLM Emu3ForConditionalGeneration ChameleonForConditionalGeneration
        Glm4vForConditionalGeneration Glm4vMoeForConditionalGeneration Glm46VForConditionalGeneration
        Gemma3nForConditionalGeneration
        Gemma4ForConditionalGeneration Qwen2_5OmniModel Qwen2_5OmniForConditionalGeneration
        Qwen3OmniMoeForConditionalGeneration Ernie4_5_VLMoeForConditionalGeneration MoshiForCausalLM
        QWenVLForCausalLM VoxtralForConditionalGeneration
    """),
)  # fmt: skip
"""Known families, the first one with a name counts."""

HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForRewardModel", "RewardModel", "ForQuestionAnswering",
         "ForReward", "ForScore", "ForProcessRewardModel", "ForTextEmbedding", "ForEmbedding")  # fmt: skip
"""Ends of names of models with another head than that of a causal language model."""
_HEAD_FAMILY = Family("a head for scores, labels or vectors instead of next tokens", _HEAD, frozenset())
_DRAFT = Family(
    "a draft of speculative decoding (EAGLE, Medusa, MTP), which is no model by itself",
    "build the model that it drafts for",
    frozenset((
        "EagleLlamaForCausalLM", "Eagle3LlamaForCausalLM", "LlamaForCausalLMEagle", "LlamaForCausalLMEagle3",
        "MedusaModel", "MLPSpeculatorPreTrainedModel", "DeepSeekMTPModel",
    )),
)  # fmt: skip


def family_of(architecture: str) -> Family | None:
    """Family of an architecture; None if it is not known."""
    for one in (*FAMILIES, _DRAFT):
        if architecture in one.names:
            return one
    return _HEAD_FAMILY if architecture.endswith(HEADS) else None


def misspelled(architecture: str, known: tuple[str, ...]) -> str | None:
    """Known name that `architecture` misspells: in upper and lower case, or in at most two letters, one for a name of
    up to eight; never in a digit, which names another model. None without one.
    """
    stem = architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel").casefold()
    most = 1 if len(stem) <= 8 else 2
    for name in known:
        if _digits(name) == _digits(architecture) and _distance(name.casefold(), architecture.casefold()) <= most:
            return name
    return None


def _digits(name: str) -> str:
    return "".join(letter for letter in name if letter.isdigit())


def _distance(a: str, b: str) -> int:
    """Fewest letters to insert, remove or replace to get from `a` to `b` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]
