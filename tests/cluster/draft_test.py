"""Draft nodes in processes of their own, made of the served model's own layers: killing or freezing them costs
only speed. (Of another vocabulary: tests/actors/draft_test.cpp.)"""

import signal
import subprocess
import sys
import time

import pytest
from troupe_process import MODEL, ROOT, Repeated, Server, run, wait_until

PROMPTS = ["Tell a story about a lighthouse keeper.", "List the months of the year, one a line.",
           "Explain why the evening sky is red.", "def fibonacci(n):\n    "]
# Guesses are asked for and checked whether or not this machine gets faster by them.
FORCED = ("--speculation", "draft")


@pytest.fixture(scope="module")
def expected():
    with Server("--speculation", "off", prefill=0, decode=1) as server:
        return answers(server)


def answers(server):
    texts = [server.text(prompt, max_tokens=24, ignore_eos=True) for prompt in PROMPTS]
    return texts + [server.text(prompt, max_tokens=24, ignore_eos=True, temperature=0.8, seed=n)
                    for n, prompt in enumerate(PROMPTS)]


def wait_drafted(server, expected):
    """Until guesses of the draft have been checked; every answer on the way is the plain one."""
    def drafted():
        assert answers(server) == expected
        return server.metric("troupe_spec_drafted_tokens_total", source="draft") > 0
    try:
        wait_until(drafted, 120, "guesses of the draft were checked")
    except AssertionError:
        print("\n".join(line for line in server.http.get("/metrics").text.splitlines() if "troupe_spec_" in line))
        raise


def test_answers_are_the_plain_ones(draft_model, expected):
    with Server("--draft", 1, "--draft-model", draft_model, *FORCED, prefill=0, decode=1) as server:
        wait_drafted(server, expected)
        assert server.incarnations("draft")
        wait_until(lambda: server.metric("troupe_spec_draft_wanted") == 1, 20, "more of them are wanted")


def test_killed_and_frozen_drafts_change_no_token(draft_model, expected):
    with Server("--draft", 1, "--draft-model", draft_model, *FORCED, prefill=0, decode=1) as server:
        wait_drafted(server, expected)
        kills = []

        def harm(_):
            for pid in server.workers("draft-0"):
                server.kill(pid, signal.SIGSTOP)
                time.sleep(0.2)
                server.kill(pid)
                kills.append(pid)
        with Repeated(harm, pause=0.3):
            wait_until(lambda: answers(server) == expected and kills, 60, "a draft was killed")
            assert answers(server) == expected


def test_a_drained_draft_leaves(draft_model):
    with Server("--draft", 1, "--draft-model", draft_model, *FORCED, prefill=0, decode=1) as server:
        wait_until(lambda: server.incarnations("draft"), 60, "the draft is there")
        left = run("drain", "draft-0", "--url", server.url)
        assert left.returncode == 0, left.stderr
        assert server.text(PROMPTS[0], max_tokens=4, ignore_eos=True)


def test_what_drafts_need_is_said(draft_model, tmp_path):
    missing = run("serve", MODEL, "--draft", 1)
    assert missing.returncode == 1 and "--draft-model" in missing.stderr
    absent = run("serve", MODEL, "--draft-model", tmp_path / "absent.gguf")
    assert absent.returncode == 1 and "absent.gguf" in absent.stderr


def test_an_editor_completes_with_a_model_that_does_not_fill_in_the_middle(server, tmp_path):
    refused = server.http.post("/v1/completions", json=server.body("def f(x):", suffix="print(f(1))"))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "suffix"
    program = tmp_path / "program.py"
    program.write_text("def double(x):\n    return 2 * x\n\n\ndef triple(x):\n    return\n\n\nprint(triple(3))\n")
    done = subprocess.run([sys.executable, ROOT / "docs/examples/editor/complete.py", program, "6", "--url", server.url],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
