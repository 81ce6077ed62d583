"""Names of engines and of the formats of definitions. Imports nothing: the help texts of the command line name them."""

from __future__ import annotations

NAMES = ("local", "ray", "sagemaker", "batch")
"""Engines that `matrix build --on` takes, by the names of their modules in executors/."""

FORMATS = {
    "kubernetes": "kubernetes",
    "argo": "argo",
    "github": "github",
    "codebuild": "codebuild",
    "step-functions": "step_functions",
}
"""Formats that `matrix emit --as` takes, and their modules in emit/."""
