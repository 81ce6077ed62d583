"""Environment of the server that prewarm starts."""

from __future__ import annotations

from compiler.targets.vllm.once import show_compilers


def test_a_server_gets_the_compilers_that_prewarm_hides() -> None:
    hidden = {"PATH": "/empty", "CC": "", "CXX": "", "HOME": "/root"}
    show_compilers(hidden, "/usr/bin")
    assert hidden == {"PATH": "/usr/bin", "HOME": "/root"}
    named = {"PATH": "/empty", "CXX": "clang++"}
    show_compilers(named, "/usr/bin")
    assert named == {"PATH": "/usr/bin", "CXX": "clang++"}
