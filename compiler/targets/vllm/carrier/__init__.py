"""Carrier of a compiled cache, a general plugin of vLLM that rides in the artifact: standard library only.

The folder is in the artifact as `lmi_boot`, beside `lmi_boot-1.dist-info`, whose entry point vLLM finds through
PYTHONPATH. vLLM loads it in every process before it makes its configuration. Settings, all from the environment:

    LMI_BOOT_ROOT       folder that the cache is restored to [default: VLLM_CACHE_ROOT]
    LMI_BOOT_ARTIFACT   folder of the artifact [default: that of this package]
    LMI_BOOT_RECORD     folder of records, lock and mark [default: <root>.boot]
    LMI_BOOT_ON_MISS    `warn` (default): a miss is recorded; `fail`: the process raises at a cache that cannot be
                        restored, and at the first run of a compiler
    LMI_BOOT_KEY        PEM file of public keys: the artifact's signature is required
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from .guard import check_capability, check_ranks
from .restore import ARCHIVE, MANIFEST, Unrestorable, restore
from .watch import Watch, observe_configs

_started: list[Watch] = []


def boot() -> None:
    """Restore the cache and watch this process; the plugin's entry point.

    Raises Unrestorable for an artifact that cannot be trusted or is for another server; OSError under `fail`.
    """
    observe_configs()
    if _started:
        return
    root = Path(os.environ.get("LMI_BOOT_ROOT") or os.environ.get("VLLM_CACHE_ROOT") or "~/.cache/vllm").expanduser()
    record = Path(os.environ.get("LMI_BOOT_RECORD") or f"{root}.boot")
    fails = os.environ.get("LMI_BOOT_ON_MISS", "warn") == "fail"
    watch = Watch(record, refuse=fails)
    _started.append(watch)
    watch.start()
    artifact = Path(os.environ.get("LMI_BOOT_ARTIFACT") or Path(__file__).absolute().parent.parent)
    if not (artifact / MANIFEST).is_file() or not (artifact / ARCHIVE).is_file():
        return
    key = os.environ.get("LMI_BOOT_KEY")
    try:
        manifest = json.loads((artifact / MANIFEST).read_bytes())
        check_ranks(manifest, sys.argv, os.environ)
        check_capability(manifest)
        restore(artifact, root, record, Path(key) if key else None)
    except (Unrestorable, OSError) as error:
        watch.problem = str(error)
        watch.write()
        if fails or isinstance(error, Unrestorable):
            raise
        print(json.dumps({"lmi_boot": "the cache was not restored", "error": str(error)}), file=sys.stderr)
