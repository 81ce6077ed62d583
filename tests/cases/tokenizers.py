"""Tokenizers as they are published: in older forms, with code of their own, with tokens in other files, or damaged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compiler.runtime.ends import end_ids
from compiler.tokenizer.load import load_tokenizer
from tests.cases.case import case
from tests.cases.checkpoints import write, write_json
from tests.cases.runs import build, convert, plan, refused, taken
from tests.tokenizer import samples

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.tokenizer.tokenizer import Tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 499723\n"
USER = {"content": "<|user|>", **samples.EXTRA}


@case(52, "LFS pointer for tokenizer.json or tokenizer.model")
def pointer(folder: Path) -> None:
    """Plan, convert and build find it before any weight is converted."""
    for name in ("tokenizer.json", "tokenizer.model"):
        model = _bare(folder / name)
        (model / name).write_text(POINTER)
        for ran in (plan(model), convert(model, folder / "out"), build(model, folder / "artifact")):
            refused(ran, 3, name, "git-lfs pointer", "git lfs pull")


@case(85, "add_bos_token true in tokenizer_config.json alone, as R1-Distill")
def bos_in_settings(folder: Path) -> None:
    """The difference between releases of transformers is noted, with the class and the setting."""
    model = _fast(folder / "model", samples.byte_level(), tokenizer_class="LlamaTokenizerFast", add_bos_token=True)
    taken(plan(model), "prompts begin without `<s>` here", "LlamaTokenizerFast, `add_bos_token` true")
    assert _loaded(model).encode("low")[0] != 0


@case(85, "the same for an LMI image, whose transformers adds BOS")
def bos_in_an_image(folder: Path) -> None:
    """The version of transformers in the image decides, and is named."""
    model = _fast(folder / "model", samples.byte_level(), tokenizer_class="LlamaTokenizerFast", add_bos_token=True)
    ran = plan(model, "--target", "trtllm")
    taken(ran, "with it in transformers 4.44.2 of the image", "the endpoint will do the latter")


@case(86, "add_bos_token false over a post-processor with BOS")
def bos_in_template(folder: Path) -> None:
    """BOS stays, as in transformers 5, and the difference is noted."""
    text = samples.with_bos(samples.byte_level())
    model = _fast(folder / "model", text, tokenizer_class="LlamaTokenizerFast", add_bos_token=False)
    taken(plan(model), "prompts begin with `<s>` here", "`add_bos_token` false")
    assert _loaded(model).encode("low")[0] == 0


@case(87, "added token in tokenizer_config.json alone")
def added_in_settings(folder: Path) -> None:
    """One id instead of the bytes of its name, in the plan's model and in the packed artifact."""
    size = len(json.loads(samples.byte_level())["model"]["vocab"])
    model = _fast(folder / "model", samples.byte_level(), added_tokens_decoder={str(size): USER})
    assert _loaded(model).encode("<|user|>") == [size]
    taken(build(model, folder / "artifact"))
    assert _loaded(folder / "artifact" / "tokenizer").encode("<|user|>") == [size]


@case(88, "tokenizer.model alone, with add_bos_token, as Llama 1 and 2")
def sentencepiece_alone(folder: Path) -> None:
    """The ids of sentencepiece, with BOS; no other package is asked for."""
    from sentencepiece import SentencePieceProcessor

    model = _bare(folder / "model")
    data = samples.sentencepiece_model()
    (model / "tokenizer.model").write_bytes(data)
    own: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "add_bos_token": True}
    samples.write_config(model, **own)
    reader = SentencePieceProcessor(model_proto=data)
    for text in samples.TEXTS:
        assert _loaded(model).encode(text) == [1, *reader.encode(text)]
    taken(build(model, folder / "artifact"))
    assert _loaded(folder / "artifact" / "tokenizer").encode("low") == [1, *reader.encode("low")]


@case(88, "tokenizer.model alone with a class of the checkpoint's code, as Baichuan and InternLM")
def sentencepiece_with_code(folder: Path) -> None:
    """sentencepiece reads the vocabulary; the code is named and not run."""
    model = _bare(folder / "model")
    (model / "tokenizer.model").write_bytes(samples.sentencepiece_model())
    own = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    samples.write_config(model, tokenizer_class="OwnTokenizer", add_bos_token=False, auto_map=own)
    taken(plan(model), "tokenization_own.py", "not run", "tokenizer.model alone")


@case(88, "tokenizer.model that is no sentencepiece model, as GLM-4")
def no_sentencepiece(folder: Path) -> None:
    """The message names the file, the class and its code, and a form that is read."""
    model = _bare(folder / "model")
    (model / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    own = {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]}
    samples.write_config(model, tokenizer_class="ChatGLM4Tokenizer", auto_map=own)
    refused(plan(model), 3, "tokenizer.model", "ChatGLM4Tokenizer", "tokenization_chatglm.py", "--tokenizer DIR")


@case(90, "tokenizer.model without tokenizer_config.json")
def sentencepiece_without_settings(folder: Path) -> None:
    """BOS as transformers 4 adds it, and a note that transformers 5 does not."""
    model = _bare(folder / "model")
    (model / "tokenizer.model").write_bytes(samples.sentencepiece_model())
    taken(plan(model), "prompts begin with `<s>` here, the default of transformers 4; transformers 5 adds it only")


@case(91, "tekken.json alone, as Devstral")
def tekken(folder: Path) -> None:
    """Read, named in the plan, and packed as a tokenizer.json with the same ids."""
    model = samples.write_tekken(_bare(folder / "model"))
    taken(plan(model), "tekken.json is packed as a tokenizer.json with the same ids")
    taken(build(model, folder / "artifact"))
    packed = folder / "artifact" / "tokenizer"
    assert (packed / "tokenizer.json").is_file()
    assert [_loaded(packed).encode(text) for text in samples.TEXTS] == [
        _loaded(model).encode(text) for text in samples.TEXTS
    ]


@case(92, "qwen.tiktoken and tokenization_qwen.py")
def remote_code(folder: Path) -> None:
    """Packed as a tokenizer.json that a container reads without code; tokenizer_config.json names no code any more."""
    model = samples.write_qwen(_bare(folder / "model"))
    ran = build(model, folder / "artifact", "--max-batch", "1")
    taken(ran, "qwen.tiktoken is packed as a tokenizer.json")
    packed = folder / "artifact" / "tokenizer"
    settings = json.loads((packed / "tokenizer_config.json").read_text())
    assert "auto_map" not in settings
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not list(packed.glob("*.py"))
    assert [_loaded(packed).encode(text) for text in samples.TEXTS] == [
        _loaded(model).encode(text) for text in samples.TEXTS
    ]


@case(94, "ids that end an answer: lists, null, generation_config.json over config.json")
def ends(folder: Path) -> None:
    """As transformers takes them."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {"eos_token_id": 9})
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 7]})
    assert end_ids(folder) == {2, 7}
    write_json(folder / "generation_config.json", {"eos_token_id": None})
    assert end_ids(folder) == {9}


@case(88, "ids beyond the model's embeddings: another model's tokenizer")
def another_model(folder: Path) -> None:
    """Refused with both numbers."""
    model = write(folder / "model")
    (model / "tokenizer.json").write_text(samples.byte_level())
    refused(plan(model), 3, "embeddings for 0 to 258", "--tokenizer DIR")


@case(88, "an added token beyond the model's embeddings")
def padding_beyond(folder: Path) -> None:
    """Noted with the token and its id: only prompts with it are refused."""
    model = write(folder / "model")
    samples.write_config(model, additional_special_tokens=["<extra>"])
    taken(plan(model), "beyond the model's 259 embeddings: `<extra>` (259)")


def _bare(folder: Path) -> Path:
    """The checkpoint for 512 tokens, without a tokenizer."""
    model = write(folder, {"vocab_size": 512})
    for file in model.glob("tokenizer*"):
        file.unlink()
    return model


def _fast(folder: Path, text: str, **settings: Any) -> Path:
    """The checkpoint with the tokenizer.json `text` and the settings."""
    model = _bare(folder)
    (model / "tokenizer.json").write_text(text)
    samples.write_config(model, bos_token="<s>", eos_token="</s>", **settings)
    return model


def _loaded(folder: Path) -> Tokenizer:
    found = load_tokenizer(folder)
    assert found is not None
    return found
