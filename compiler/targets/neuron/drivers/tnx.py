"""Driver `tnx`: transformers-neuronx, served by LMI 0.25 to 0.30 (djl-inference with neuronx), which is frozen.

The result has the layout that LMI's own `partition` writes: config.json with a `neuron` block, and `compiled/` with
executables and VERSION. Weights are presharded in `compiled/` from LMI 0.30 on, before that a plain checkpoint in
`checkpoint/`. The container builds its graphs again, and takes an executable only if the graph has the same bytes:
options of the build must be those of serving.properties.

Sources: transformers-neuronx at 1ade6d7 (December 2024): `base.py` (cpu_compile, save), `decoder.py`; djl-serving at
v0.29.0 and before 1132e3ab (November 2025): `djl_python/neuron_utils/model_loader.py`,
`properties_manager/tnx_properties.py`, `serving/docs/lmi/tutorials/tnx_aot_tutorial.md` (architectures by release).
`cpu_compile` needs no device by the archived developer guide; GPT-J has none. Never run here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from compiler.targets.neuron.buckets import buckets_of
from compiler.targets.neuron.drivers.driver import (
    BUILD_ENVIRONMENT,
    MODEL,
    RESULT,
    ServedAs,
    VendorConfig,
    VendorDriver,
    VendorRun,
)

if TYPE_CHECKING:
    from compiler.targets.neuron.plan import NeuronPlan

SCRIPT = "compile_tnx.py"
IMAGE = "djl-inference:{}.{}.0-neuronx-sdk{}"
SDKS = {
    (0, 25): "2.14.1", (0, 26): "2.16.0", (0, 27): "2.18.0", (0, 28): "2.18.2", (0, 29): "2.19.1", (0, 30): "2.20.1",
}  # fmt: skip
"""SDK of each LMI release. Source: Dockerfiles and documentation of djl-serving at v0.25.0 to v0.29.0 and later."""
AMP = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
"""Names of dtypes in transformers-neuronx."""
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""Names of dtypes in LMI's `option.dtype`."""

_TEXT = '''\
"""Compiles the model in {model}/ into {result}/ with transformers-neuronx."""
import json
import os
import subprocess
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer
from transformers_neuronx import NeuronAutoModelForCausalLM
from transformers_neuronx.config import ContinuousBatchingConfig, NeuronConfig, QuantizationConfig

neuron_config = NeuronConfig({config})
model = NeuronAutoModelForCausalLM.from_pretrained("{model}", neuron_config=neuron_config, {arguments})
result = Path("{result}").absolute()
(result / "compiled").mkdir(parents=True, exist_ok=True)
model.cpu_compile()
model.save(str(result / "compiled"){sharded})
version = subprocess.run(["neuronx-cc", "--version"], capture_output=True, text=True, check=True).stdout.split()
(result / "compiled" / "VERSION").write_text(version[version.index("version") + 1])
config = AutoConfig.from_pretrained("{model}")
config.update({{"neuron": {neuron}}})
config.save_pretrained(result)
AutoTokenizer.from_pretrained("{model}").save_pretrained(result)
{more}'''
_CHECKPOINT = """\
import shutil
shutil.copytree("{model}", result / "checkpoint", dirs_exist_ok=True)
config.save_pretrained(result / "checkpoint")
"""
PRESHARDED = (0, 30)
"""First LMI release that loads presharded weights."""


def lacks(plan: NeuronPlan) -> str:
    """Reason why the library, behind LMI's properties, cannot have the plan."""
    if plan.config.architecture == "GPTJForCausalLM":
        return "its GPT-J compiles only on a machine with NeuronCores"
    if len(plan.batches) > 1:
        return f"LMI has one batch size; found {', '.join(map(str, plan.batches))}"
    if plan.buckets.token != buckets_of(plan.sequence_length).token:
        return "LMI's `option.n_positions` is one number, so decode buckets double from 128"
    if plan.config.rope_scaling is not None and plan.config.rope_scaling.kind != "llama3":
        return f"it has no `{plan.config.rope_scaling.kind}` scaling of rotary positions"
    return ""


def run(plan: NeuronPlan, _platform: str, *, presharded: bool) -> VendorRun:
    """Call of `cpu_compile` and `save` by a script. The library compiles for trn1, whose code inf2 runs too."""
    config = ["on_device_embedding=True", f"group_query_attention='{plan.heads.strategy}'"]
    if plan.continuous_batching:
        config.append(f"continuous_batching=ContinuousBatchingConfig(batch_size_for_shared_caches={plan.batch})")
    if plan.weights:
        config.append(f"quant=QuantizationConfig(quant_dtype='s8', dequant_dtype='{AMP[plan.dtype]}')")
    if plan.heads.sequence_shards > 1:
        config.append("shard_over_sequence=True")
    arguments = [
        f"batch_size={plan.batch}",
        f"amp='{AMP[plan.dtype]}'",
        f"tp_degree={plan.tp}",
        f"n_positions={[plan.sequence_length] if plan.continuous_batching else plan.sequence_length}",
        f"context_length_estimate={list(plan.buckets.context)}",
    ]
    text = _TEXT.format(
        model=MODEL,
        result=RESULT,
        config=", ".join(config),
        arguments=", ".join(arguments),
        neuron=neuron_block(plan),
        sharded=", sharded_weights=True" if presharded else "",
        more="" if presharded else _CHECKPOINT.format(model=MODEL),
    )
    return VendorRun(("python3", SCRIPT), dict(BUILD_ENVIRONMENT), {SCRIPT: text.encode()})


def neuron_block(plan: NeuronPlan) -> dict[str, object]:
    """Block `neuron` of config.json, without the compiler's version."""
    return {
        "auto_cast_type": AMP[plan.dtype],
        "batch_size": 1 if plan.continuous_batching else plan.batch,
        "checkpoint_id": None,
        "checkpoint_revision": None,
        "compiler_type": "neuronx-cc",
        "num_cores": plan.tp,
        "sequence_length": plan.sequence_length,
    }


def required(plan: NeuronPlan, *, presharded: bool) -> list[str]:
    """Files of LMI's layout."""
    found = ["config.json", "compiled/VERSION", "compiled/*.neff"]
    if not presharded:
        return [*found, "checkpoint/config.json", "checkpoint/*.safetensors"]
    layers = (f"compiled/decoder_layer_{layer}.safetensors" for layer in range(plan.config.layers))
    return [*found, "compiled/DecoderLMHead.safetensors", *layers]


def config(plan: NeuronPlan, platform: str) -> VendorConfig:
    """Block `neuron` of config.json."""
    del platform
    return VendorConfig("config.json", ("neuron",), neuron_block(plan))


def served(plan: NeuronPlan) -> ServedAs:
    """serving.properties with the options of the build."""
    rolling = plan.continuous_batching
    lines = [
        "engine=Python",
        "option.model_id=/opt/ml/model",
        "option.entryPoint=djl_python.transformers_neuronx",
        f"option.tensor_parallel_degree={plan.tp}",
        f"option.n_positions={plan.sequence_length}",
        f"option.dtype={DTYPES[plan.dtype]}",
        f"option.rolling_batch={'auto' if rolling else 'disable'}",
        f"option.max_rolling_batch_size={plan.batch}" if rolling else f"option.batch_size={plan.batch}",
        f"option.group_query_attention={plan.heads.strategy}",
        "option.on_device_embedding=true",
        f"option.context_length_estimate={','.join(map(str, plan.buckets.context))}",
        *(["option.quantize=static_int8"] if plan.weights else []),
        *(["option.shard_over_sequence=true"] if plan.heads.sequence_shards > 1 else []),
    ]
    return ServedAs(files={"serving.properties": ("\n".join(lines) + "\n").encode()})


def driver(release: tuple[int, int] = PRESHARDED) -> VendorDriver:
    """Driver for an LMI release."""
    presharded = release >= PRESHARDED
    return VendorDriver(
        name="tnx",
        package="transformers-neuronx",
        command="python3",
        sdk=SDKS.get(release, SDKS[PRESHARDED]),
        images=dict.fromkeys(("inf2", "trn1", "trn1n"), IMAGE.format(*release, SDKS.get(release, SDKS[PRESHARDED]))),
        lacks=lacks,
        run=partial(run, presharded=presharded),
        required=partial(required, presharded=presharded),
        config=config,
        served=served,
        keyed=True,
    )
