"""What a person sees: a terminal of some width, Ctrl-C, shells that complete. Without torch."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = f'{sys.executable} -m probekit "$@"'
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(
    code: str, *, columns: int = 80, interrupt: str = "", **environment: str
) -> tuple[list[str], int]:
    """Run Python code on a terminal; Ctrl-C is typed when a word was printed.

    Returns:
        The lines that stay to be read, as a terminal would leave them, and the exit code.
    """
    number, terminal = pty.fork()
    if number == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {"TERM": "xterm", "PYTHONPATH": str(ROOT), **environment}
        os.execvpe(sys.executable, [sys.executable, "-c", code], {**os.environ, **environment})
    came, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # it has ended
            break
        if not piece:
            break
        came += piece
        if interrupt and interrupt.encode() in came:
            os.write(terminal, b"\x03")
            interrupt = ""
    os.close(terminal)
    _, status = os.waitpid(number, 0)
    return screen(came.decode()), os.waitstatus_to_exitcode(status)


def screen(text: str) -> list[str]:
    """Say what stays on the screen: a line that is cleared is gone."""
    lines = [""]
    for part in re.split(r"(\x1b\[2?K|\x1b\[1A|\r\n|\r|\n)", text):
        if part in ("\r\n", "\n"):
            lines.append("")
        elif part == "\x1b[1A":
            lines.pop()
        elif part in ("\x1b[K", "\x1b[2K"):
            lines[-1] = ""
        elif part != "\r":
            lines[-1] += CODES.sub("", part)
    return lines


BATCHES = """
import time
from types import SimpleNamespace
from probekit.cli import terminal
from probekit.cli.messages import say, say_stopped
from probekit.cli.stopping import Stopped, Stopping
try:
    with Stopping(say=say) as stopping, terminal.progress(quiet=False) as show:
        for n in range(1000):
            show(SimpleNamespace(before=0, examples=n, n_examples=1000, tokens=n, seconds=n + 1.0,
                                 n_bytes=n))
            stopping.between_batches()
            time.sleep(0.1)
except Stopped as stopped:
    say_stopped("stopped; it goes on")
    raise SystemExit(stopped.exit_code)
"""


def test_ctrl_c_leaves_the_bar_and_begins_a_line_of_its_own() -> None:
    lines, code = on_a_terminal(BATCHES, interrupt="tokens/s")
    assert code == 130
    assert "stopping after this batch; once more to stop at once" in lines
    assert lines[-2:] == ["stopped; it goes on", ""]
    bars = [line for line in lines if line.startswith("examples ")]
    assert len(bars) == 1, lines
    assert not any("^C" in line for line in lines)


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}])
def test_ctrl_c_ends_every_command_with_a_word(environment: dict[str, str]) -> None:
    code = """
import os, sys, time
from probekit.cli import commands
import probekit.store

def slow(*given, on_progress=None):
    if on_progress:
        on_progress(5, 10)
    os.write(2, b"READY")  # print would go through rich, which shows a bar
    for n in range(600):  # a signal that comes before a long sleep begins would wait for its end
        time.sleep(0.1)

probekit.store.verify = slow
sys.argv = ["probekit", "verify", "a"]
commands.main()
"""
    lines, status = on_a_terminal(code, interrupt="READY", **environment)
    assert status == 130
    assert lines[-2:] == ["stopped", ""]


SHOWS = """
import sys
from probekit.cli import commands
for line in (["--help"], ["ru"], ["run"]):
    sys.argv = ["probekit", *line]
    try:
        commands.main()
    except SystemExit:
        pass
"""


@pytest.mark.parametrize(
    ("columns", "environment"),
    [
        (20, {}),
        (80, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
        (80, {"TERM": "dumb", "NO_COLOR": "1"}),
    ],
)
def test_no_terminal_is_too_narrow_or_too_simple(columns: int, environment: dict[str, str]) -> None:
    lines, _ = on_a_terminal(SHOWS, columns=columns, **environment)
    said = "\n".join(lines)
    assert "Traceback" not in said
    assert "error: CONFIG is missing" in said


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program `probekit`, and one to complete in."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "probekit").write_text(f"#!/bin/sh\nexec {PROGRAM}\n")
    (folder / "probekit").chmod(0o755)
    (folder / "here").mkdir()
    (folder / "here" / "config of mine.yaml").touch()
    return folder


def shell(name: str, script: str, folder: Path) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (apt install {name})")
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [name, "-c", script],
        cwd=folder / "here",
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bash_completes_commands_options_and_files(program: Path) -> None:
    script = """
eval "$(probekit --show-completion bash)"
complete -p probekit
try() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _probekit_completion probekit
    echo "${COMPREPLY[*]}"
}
try probekit r
try probekit run --se
try probekit run conf
"""
    said = shell("bash", script, program).split("\n")
    # -o default: where nothing is offered, bash offers files.
    assert said[0] == "complete -o default -F _probekit_completion probekit"
    assert said[1:4] == ["run report", "--set --self-check", ""]


def test_zsh_completes_commands_and_files(program: Path) -> None:
    script = """
autoload -U compinit; compinit -D -u
source <(probekit --show-completion zsh)
echo ${_comps[probekit]}
for line in "probekit r" "probekit run conf"; do
    env _TYPER_COMPLETE_ARGS=$line _PROBEKIT_COMPLETE=complete_zsh probekit
done
"""
    said = shell("zsh", script, program)
    assert said.startswith("_probekit_completion\n")
    assert '"run":' in said and '"report":' in said and '"info":' not in said
    assert said.endswith("_files\n")


def test_fish_completes_commands_and_files(program: Path) -> None:
    script = """
probekit --show-completion fish | source
complete -C 'probekit r'
echo FILES
complete -C 'probekit run conf'
"""
    commands, files = shell("fish", script, program).split("FILES\n")
    assert [line.split("\t")[0] for line in commands.splitlines()] == ["report", "run"]
    assert files.splitlines() == ["config of mine.yaml"]
