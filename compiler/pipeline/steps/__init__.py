"""The steps of a build, one file each: the cache key, what runs, and what the progress report says of it.

step         cache key
fetch        none: it fills the caches of sources, and of weights that were unpacked
digest       none: digests of files are remembered by path, size and time of change
calibrate    the source's bytes, the config, the token ids; not scheme, alpha, tp or target
scales       the source's bytes, the config, the quantization, the calibration; not tp
convert      the source's bytes, the plan, the scales
gate         the same as convert, and the held-out text
reference    the source's bytes, the config, the text, versions of torch and transformers; not tp or target
judge        the source's bytes, the plan, the rank files, the reference
compile      of each spec of the target: the spec, the toolchain, the device
verify       the manifest (it has the digest of every file), without what it says of the artifact's quality
"""
