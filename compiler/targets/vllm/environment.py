"""Environment of a vLLM server, by an allow-list, and which variables are in the key of its compiled cache.

A variable that is neither in the list nor pinned does not reach the server that bakes, so that the key does not depend
on the shell of whoever builds. Variables that are in the key and set on the machine that serves are a miss, which
`explain-miss` names.

Source: `compile_factors` in vllm/envs.py of 0.32.0, read in November 2026: every variable that vLLM knows is in the key
except those that it ignores. Other releases ignore others, which were not read: there every variable counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Dialect = Literal["J", "A", "M"]
"""Form of vLLM's cache. J: folder of one just-in-time backend (vLLM up to 0.16). A: ahead-of-time artifact beside that
folder (0.17 to 0.26). M: one artifact with everything (from 0.27).
"""

ALLOWED = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CC", "CXX")
"""Variables that are passed on as they are: those that say where programs, libraries and devices are."""

PINNED: Mapping[str, str] = {
    "LC_ALL": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
}
"""Variables of every server, baked and served alike."""

CACHE_FOLDERS: Mapping[str, str] = {
    "VLLM_CACHE_ROOT": "",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
}
"""Variables of cache folders, and the folder of each below the root. Without them kernels of dialect J land in /tmp."""

DIALECT: Mapping[Dialect, Mapping[str, str]] = {
    "J": {"VLLM_USE_AOT_COMPILE": "0"},
    "A": {"VLLM_USE_AOT_COMPILE": "1", "VLLM_USE_MEGA_AOT_ARTIFACT": "0"},
    "M": {"VLLM_USE_AOT_COMPILE": "1", "VLLM_USE_MEGA_AOT_ARTIFACT": "1"},
}
"""Switches of vLLM, all in the key; a release that lacks one ignores it."""

FORCED: Mapping[Dialect, Mapping[str, str]] = {
    "J": {},
    "A": {"VLLM_FORCE_AOT_LOAD": "1"},
    "M": {"VLLM_FORCE_AOT_LOAD": "1"},
}
"""Variables of the server that serves, not in the key: vLLM ends where it cannot load its artifact."""

CPU_DIALECT: Dialect = "J"
"""Dialect of vLLM's CPU platform. Its ahead-of-time artifact is no use: in 0.32.0 each load fails with `'function'
object has no attribute 'finalize_loading'`, and the server compiles again.
"""
STARTUP_PLAN: Mapping[str, str] = {"VLLM_ENABLE_STARTUP_PLAN": "1"}
"""Variables of servers on a GPU in dialect M: the result of the profiling of memory is kept below the root
(startup_plan/, by device, versions and rank), and ships with the cache. Not in the key; a release without it ignores
it. Source: vllm/v1/worker/startup_plan.py of 0.32.0, read and not run.
"""
BLOCK_SIZE: Mapping[str, int] = {"cpu": 128, "cuda": 16}
"""Tokens of a block of the KV cache, by kind of device: the defaults of vLLM 0.32.0."""
DEVICE: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "LMI_BOOT_SETTLE_ISA": "1",
        "TORCHINDUCTOR_VEC_ISA_OK": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    },
    "cuda": {},
}
"""Variables by kind of device. `VLLM_CPU_KVCACHE_SPACE`: GiB of the KV cache.

vLLM 0.32.0 loads kernels in several threads, in which torch 2.13 tries the instruction sets of the CPU, changing the
compiler's flags meanwhile (carrier/watch.py): starts that loaded every artifact compiled 1 and 10 of 10 kernels again.
The carrier lets torch do it before, without trials. Without the last variable every start compiles headers.
"""

_IGNORED_0_32 = """
CUDA_VISIBLE_DEVICES FORCE_COLOR LD_LIBRARY_PATH LOCAL_RANK MAX_JOBS NO_COLOR S3_ACCESS_KEY_ID S3_ENDPOINT_URL
S3_SECRET_ACCESS_KEY VLLM_API_KEY VLLM_ASSETS_CACHE VLLM_ASSETS_CACHE_MODEL_CLEAN VLLM_AUDIO_FETCH_TIMEOUT
VLLM_CACHE_ROOT VLLM_CONFIG_ROOT VLLM_CPU_KVCACHE_SPACE VLLM_CPU_MOE_PREPACK VLLM_CUDA_COMPATIBILITY_PATH
VLLM_DEBUG_DUMP_PATH VLLM_DEBUG_LOG_API_SERVER_RESPONSE VLLM_DO_NOT_TRACK VLLM_DP_MASTER_IP VLLM_DP_MASTER_PORT
VLLM_ELASTIC_EP_SCALE_UP_LAUNCH VLLM_ENABLE_CUDA_COMPATIBILITY VLLM_ENABLE_STARTUP_PLAN VLLM_ENABLE_V1_MULTIPROCESSING
VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR VLLM_FLASHINFER_AUTOTUNE_SKIP_OPS
VLLM_FORCE_AOT_LOAD VLLM_HOST_IP VLLM_HTTP_TIMEOUT_KEEP_ALIVE VLLM_IMAGE_FETCH_TIMEOUT VLLM_KEEP_ALIVE_ON_ENGINE_DEATH
VLLM_LOGGING_COLOR VLLM_LOGGING_CONFIG_PATH VLLM_LOGGING_LEVEL VLLM_LOGGING_PREFIX VLLM_LOGGING_STREAM
VLLM_LOG_STATS_INTERVAL VLLM_MAX_AUDIO_CLIP_FILESIZE_MB VLLM_MAX_AUDIO_DECODE_BYTES VLLM_MAX_AUDIO_DECODE_DURATION_S
VLLM_MAX_AUDIO_PREPROCESS_WORKERS VLLM_MAX_EMBED_DECODE_BYTES VLLM_MAX_IMAGE_PIXELS VLLM_MEDIA_CACHE
VLLM_MEDIA_CACHE_MAX_SIZE_MB VLLM_MEDIA_CACHE_TTL_HOURS VLLM_MEDIA_CONNECTOR VLLM_MEDIA_FETCH_MAX_RETRIES
VLLM_MEDIA_LOADING_THREAD_COUNT VLLM_MEDIA_URL_ALLOW_REDIRECTS VLLM_MODEL_REDIRECT_PATH VLLM_NIXL_SIDE_CHANNEL_HOST
VLLM_NO_USAGE_STATS VLLM_OBJECT_STORAGE_SHM_BUFFER_NAME VLLM_PORT VLLM_RANDOMIZE_DP_DUMMY_INPUTS
VLLM_RINGBUFFER_WARNING_INTERVAL VLLM_RPC_BASE_PATH VLLM_SERVER_DEV_MODE VLLM_SKIP_MODEL_NAME_VALIDATION
VLLM_SKIP_VERSION_SUFFIX VLLM_TEST_FORCE_LOAD_FORMAT VLLM_TRITON_JIT_WARMUP_NUM_THREADS VLLM_TUNED_CONFIG_FOLDER
VLLM_USAGE_STATS_SERVER VLLM_USE_MODELSCOPE VLLM_V1_OUTPUT_PROC_CHUNK_SIZE VLLM_VIDEO_FETCH_TIMEOUT
VLLM_VIDEO_LOADER_BACKEND VLLM_WORKER_MULTIPROC_METHOD VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS VLLM_XLA_CACHE_PATH
VLLM_ZENTORCH_WEIGHT_PREPACK
"""
IGNORED: Mapping[str, frozenset[str]] = {"0.32.0": frozenset(_IGNORED_0_32.split())}
"""Variables outside of the key, by release of vLLM."""


def in_key(variable: str, version: str) -> bool:
    """Whether a VLLM_ variable, or another that vLLM ignores by name somewhere, is in the key of release `version`.

    An unknown release is taken to ignore nothing but the place of its cache.
    """
    return variable not in IGNORED.get(version, frozenset({"VLLM_CACHE_ROOT", "VLLM_FORCE_AOT_LOAD"}))


def pinned(dialect: Dialect, device: str, root: str, image: Mapping[str, str]) -> dict[str, str]:
    """Variables of a server whose caches are below `root`. `image`: the environment of its container image."""
    folders = {name: f"{root}/{below}" if below else root for name, below in CACHE_FOLDERS.items()}
    plan = STARTUP_PLAN if (device, dialect) == ("cuda", "M") else {}
    return {**image, **PINNED, **DEVICE[device], **DIALECT[dialect], **plan, **folders}


def server_environment(
    host: Mapping[str, str], settings: Mapping[str, str], *, home: str, temporary: str, python_path: str
) -> dict[str, str]:
    """Whole environment of a server: what is allowed of `host`, and `settings`."""
    allowed = {name: host[name] for name in ALLOWED if name in host}
    return {**allowed, **settings, "HOME": home, "TMPDIR": temporary, "PYTHONPATH": python_path}
