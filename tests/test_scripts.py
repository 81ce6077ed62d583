"""The shell scripts: valid, executable, and `scripts/setup` installs when and only when it has to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci/run"] if path.is_file())

# Stands for every Python: makes an environment by copying itself, and writes down what pip is asked to do.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip config list") echo "${PIP_CONFIG:-}" ;;
    "-m pip "*) sleep 0.1; echo "$*" >>"$PIP_LOG"; exit "${PIP_EXIT:-0}" ;;
esac
"""


class Checkout:
    """A folder with `scripts/setup` and what it reads, and a PATH that holds only what a test put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "programs"
        self.log = folder / "pip.log"
        self.programs.mkdir()
        for tool in ("bash", "basename", "cat", "cp", "cut", "dirname", "env", "flock", "mkdir", "rm"):
            self._link(tool)
        for tool in ("sha256sum", "sleep"):
            self._link(tool)
        self.add("python3", FAKE_PYTHON)
        self.add("g++", "#!/usr/bin/env bash\n")
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts/setup", folder / "scripts/setup")
        for name in ("pyproject.toml", "constraints.txt"):
            (folder / name).write_text(f"# {name}\n")

    def _link(self, tool: str) -> None:
        found = shutil.which(tool)
        assert found, f"the tests of scripts/setup need `{tool}`"
        (self.programs / tool).symlink_to(found)

    def add(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {"PATH": str(self.programs), "PIP_LOG": str(self.log), **variables}
        # From another folder: the script finds its checkout itself.
        return subprocess.Popen(
            [self.folder / "scripts/setup", *arguments], env=environment, cwd="/", stderr=subprocess.PIPE, text=True
        )

    def setup(self, *arguments: str, **variables: str) -> tuple[int, str]:
        run = self.start(*arguments, **variables)
        _, errors = run.communicate(timeout=60)
        return run.returncode, errors

    def installed(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)


def test_setup_installs_torch_first_then_this_checkout(checkout: Checkout) -> None:
    assert checkout.setup()[0] == 0
    torch, rest = checkout.installed()
    assert torch.endswith(" torch")
    assert rest.endswith("--editable .")
    assert all("--constraint constraints.txt" in line for line in (torch, rest))


def test_setup_adds_what_the_tests_need_and_keeps_it(checkout: Checkout) -> None:
    checkout.setup()
    checkout.setup("--dev")
    assert checkout.installed()[-1].endswith("--editable .[dev,neuron]")
    count = len(checkout.installed())
    assert [checkout.setup("--dev"), checkout.setup()] == [(0, ""), (0, "")]
    assert len(checkout.installed()) == count


@pytest.mark.parametrize(("configured", "used"), [("", "uv"), ("global.index-url='https://mirror.example'", "pip")])
def test_setup_uses_uv_unless_pip_is_configured(checkout: Checkout, configured: str, used: str) -> None:
    checkout.add("uv", '#!/usr/bin/env bash\necho "uv $*" >>"$PIP_LOG"\n')
    assert checkout.setup(PIP_CONFIG=configured)[0] == 0
    torch, rest = checkout.installed()
    assert torch.startswith("uv pip install --python .venv/bin/python" if used == "uv" else "-m pip install")
    assert all("--constraint constraints.txt" in line for line in (torch, rest))


def test_setup_does_nothing_the_second_time(checkout: Checkout) -> None:
    checkout.setup()
    assert checkout.setup() == (0, "")
    assert len(checkout.installed()) == 2


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_setup_installs_again_when_a_version_changed(checkout: Checkout, name: str) -> None:
    checkout.setup()
    (checkout.folder / name).write_text("# another\n")
    checkout.setup()
    assert len(checkout.installed()) == 4


def test_setup_tries_again_after_a_failed_installation(checkout: Checkout) -> None:
    assert checkout.setup(PIP_EXIT="1")[0] != 0
    assert checkout.setup()[0] == 0
    assert len(checkout.installed()) == 3


def test_two_setups_at_once_install_once(checkout: Checkout) -> None:
    runs = [checkout.start(), checkout.start()]
    for run in runs:
        run.communicate(timeout=60)
    assert [run.returncode for run in runs] == [0, 0]
    assert len(checkout.installed()) == 2


def test_setup_says_what_to_install_where_the_compiler_is_missing(checkout: Checkout) -> None:
    (checkout.programs / "g++").unlink()
    code, errors = checkout.setup()
    assert code == 1
    assert "no `g++` on PATH" in errors
    assert "apt-get install g++" in errors
    assert checkout.installed() == []


def test_setup_refuses_a_python_that_is_too_old_or_a_dead_shim(checkout: Checkout) -> None:
    checkout.add("python3", "#!/usr/bin/env bash\nexit 1\n")
    code, errors = checkout.setup()
    assert code == 1
    assert "expected Python 3.11 or later" in errors
    checkout.add("python3.12", FAKE_PYTHON)
    assert checkout.setup()[0] == 0


def test_constraints_pin_every_dependency_exactly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert len(pinned) == len(lines)
    names = {re.split(r"[\[<>=!~]", line)[0].lower().replace("_", "-") for line in asked}
    assert names <= pinned


def test_the_readme_names_only_scripts_that_exist() -> None:
    named = set(re.findall(r"\./(scripts/[\w-]+)", (ROOT / "README.md").read_text()))
    assert {"scripts/demo", "scripts/test"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_readme_demo_and_documentation_use_only_commands_and_options_that_exist() -> None:
    from typer.core import TyperGroup
    from typer.main import get_command

    from compiler.cli import app

    root = get_command(app)
    assert isinstance(root, TyperGroup)
    pages = [
        page
        for page in (ROOT / "docs/pages").rglob("*.md")
        if page.name not in ("cli.md", "builds-toml.md", "manifest.md")
    ]
    texts = [path.read_text() for path in (ROOT / "README.md", ROOT / "scripts/demo", *pages)]
    used = [match for text in texts for match in re.findall(r"lmi-compile ([a-z-]+)([^`#\n]*)", text)]
    assert {"build", "verify", "generate"} <= {command for command, _ in used}
    for command, rest in used:
        assert command in root.commands
        found = root.commands[command]
        if isinstance(found, TyperGroup) and rest.split():
            found = found.commands.get(rest.split()[0], found)
        known = {option for param in found.params for option in (*param.opts, *param.secondary_opts)}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known
