"""What a run says of the command that started it."""

from __future__ import annotations

import sys

import pytest

from probekit.invocation import command_of_this_process, without_secrets

PLAIN = [
    *("run", "configs/a b.yaml", "--set", "inputs.max_tokens=9", "--set", "model.tokenizer=gpt2"),
    *("--set", "generate.max_new_tokens=3", "--set", "store.path=/data/keys/monkey"),
    *("--set", "probes[0].layers=[0, -1]", "--set", "inputs.batch_tokens=10"),
    *("--set", "inputs.texts=['The key to it', 'a@b']", "--set", "probes[0].record=token_logprob"),
]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--set", "hub.token=abc"], ["--set", "hub.token=***"]),
        (["--set", "a.api_key=x y"], ["--set", "a.api_key=***"]),
        (["--set", "model={name: m, access_token: abc}"],
         ["--set", "model={name: m, access_token: ***}"]),
        (["--set", 'm={"secret": "abc", "k": 1}'], ["--set", 'm={"secret": ***, "k": 1}']),
        (["--token", "abc", "x"], ["--token", "***", "x"]),
        (["--hf-token=abc"], ["--hf-token=***"]),
        (["--set", "DB_PASSWORD=abc"], ["--set", "DB_PASSWORD=***"]),
        (["model.name=hf_AbCdEfGhIjKl"], ["model.name=***"]),
        (["x/hf_AbCdEfGhIjKl/y"], ["x/***/y"]),
        (["https://me:pw@host/a"], ["https://***@host/a"]),
        (["https://h/a?token=abc&b=1"], ["https://h/a?token=***&b=1"]),
        (PLAIN, PLAIN),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_not_told(given: list[str], told: list[str]) -> None:
    assert without_secrets(given) == told


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/usr/bin/probekit", "run", "a b.yaml"], "probekit run 'a b.yaml'"),
        (["/x/probekit/__main__.py", "run", "a.yaml"], "probekit run a.yaml"),
        (["studies/hunt.py", "--password", "abc"], "python studies/hunt.py"),
        (["-c"], "python"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_the_command_is_what_was_typed(
    argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert command_of_this_process() == said


def test_a_notebook_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert command_of_this_process() == "notebook"
