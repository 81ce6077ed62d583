"""The steps of a build and of what comes after it; each is a function of its inputs.

plan        plan, alternatives (what other schemes would take), taken (which of them there are)
quantised   packed (weights that come quantised), calibration/, scales/, gate/, quantised (what a manifest says)
built       convert, stored (a model's weights as they lie), reference, numerics, compile, package, verify, intact
afterwards  preflight, prewarm, deploy, doctor; statements (for provenance)
"""
