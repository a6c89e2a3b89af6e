"""Real processes die by SIGKILL or freeze in the middle of a request.

The promise: within 5 seconds the client's answer goes on, or it gets a typed error; never a wrong token; the next
request works; `troupe status` shows the loss.
"""

import signal
import time

import pytest
from troupe_process import ENDLESS, MODEL, Missed, Process, Server, free_port, is_alive, wait_until

PROMPT = "The stage manager wrote down what happened that night: "
LONG = "Every actor of the troupe knew the play by heart, and yet no evening was like another. " * 90
SAMPLED = {"temperature": 0.9, "seed": 99, "repetition_penalty": 1.1}
BOUND = 5.0
BEYOND = 40  # tokens after the fault that must be right


def check_replaced(server, role, before):
    server.wait_replaced(role, before)
    assert "killed by signal" in server.log()


def kill_busy_decode(server, answer, after_events):
    """Kills the decode node that is in the midst of the answer. Returns how many tokens the client had got from it."""
    answer.wait_events(after_events)
    server.kill(server.pid_of(server.busy_node("decode", answer)))
    return server.tokens_before_migration(answer, BOUND)


@pytest.mark.parametrize("fields", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("after_events", [1, 20, 60])  # an event holds several tokens where guesses were right
def test_decode_killed_in_mid_stream(reference, after_events, fields):
    """Another decode node goes on where the lost one was, with the same random numbers and penalties."""
    with Server(prefill=1, decode=2) as server:
        before = server.incarnations("decode")
        with server.begin(PROMPT, max_tokens=ENDLESS, ignore_eos=True, **fields) as answer:
            lost = kill_busy_decode(server, answer, after_events)
            answer.wait_text(reference.length(PROMPT, lost + BEYOND, **fields))
        reference.check(answer.text, PROMPT, **fields)
        check_replaced(server, "decode", before)
        assert server.text(PROMPT, max_tokens=128, ignore_eos=True, **fields) == reference.text(PROMPT, 128, **fields)


def test_an_answer_whose_decode_was_killed_has_its_end(reference):
    with Server(prefill=1, decode=2) as server:
        tokens = 700 << Missed.seen
        with server.begin(PROMPT, max_tokens=tokens, ignore_eos=True, **SAMPLED) as answer:
            kill_busy_decode(server, answer, 1)
            answer.to_its_end()
        assert answer.done and answer.error is None and answer.finish_reason == "length"
        assert answer.text == reference.text(PROMPT, tokens, **SAMPLED)
        wait_until(lambda: server.metric("troupe_migrations_total", outcome="resumed") == 1, 10, "it is counted")


def test_the_only_decode_killed_in_mid_stream(reference):
    """The answer goes on if a new process is there in time; or it ends with a typed error."""
    with Server(prefill=1, decode=1) as server:
        with server.begin(PROMPT, max_tokens=ENDLESS, ignore_eos=True) as answer:
            lost = kill_busy_decode(server, answer, 10)
            wait_until(lambda: answer.over or len(answer.text) >= reference.length(PROMPT, lost + BEYOND), 30, "it goes on or ends")
            ended = answer.over
        assert answer.broken is None, f"the connection broke without a typed error: {answer.broken}"
        reference.check(answer.text, PROMPT)
        if ended and answer.finish_reason != "length":
            assert answer.error is not None and {"message", "type", "code"} <= set(answer.error), answer.error
        # Nobody decodes until a new process has joined: refused at once with a status that clients retry on.

        def served():
            again = server.http.post("/v1/completions", json=server.body("x", max_tokens=4))
            assert again.status_code in (200, 503), again.text
            assert again.status_code == 200 or "error" in again.json()
            return again.status_code == 200
        wait_until(served, 20, "a new process serves")


def test_prefill_killed_while_it_reads_the_prompt(reference):
    prompt = "Tonight. " + LONG * min(1 << Missed.seen, 4) + "So"
    with Server(prefill=1, decode=1) as server:
        before = server.incarnations("prefill")  # with no measured speeds it is the prefill node that reads
        with server.begin(prompt, max_tokens=16, ignore_eos=True) as answer:
            server.kill(server.pid_of(server.busy_node("prefill", answer)))
            answer.to_its_end()
        assert answer.broken is None and answer.status is not None
        if answer.error is None:
            assert answer.done and answer.text == reference.text(prompt, 16)
        check_replaced(server, "prefill", before)
        assert server.text(prompt, max_tokens=16, ignore_eos=True) == reference.text(prompt, 16)


def test_prefill_killed_while_decode_streams(reference):
    with Server(prefill=1, decode=1) as server:
        before = server.incarnations("prefill")
        with server.begin(PROMPT, max_tokens=ENDLESS, ignore_eos=True) as answer:
            answer.wait_events(10)
            server.kill(server.workers("prefill")[0])
            came = len(answer.events)
            check_replaced(server, "prefill", before)
            wait_until(lambda: answer.over or len(answer.events) > came, 30, "it goes on: it needs no prefill once it streams")
        assert answer.error is None and answer.broken is None
        reference.check(answer.text, PROMPT)
        server.kill(server.workers("prefill")[0])
        assert server.text(LONG, max_tokens=8, ignore_eos=True) == reference.text(LONG, 8), "decode reads prompts itself if need be"


def test_frozen_prefill_delays_but_does_not_stop(reference):
    with Server(prefill=1, decode=1) as server:
        frozen = server.workers("prefill")[0]
        server.kill(frozen, signal.SIGSTOP)
        try:
            stream = server.stream(LONG, max_tokens=8, ignore_eos=True)
            assert stream.broken is None and (stream.done or stream.error)
            assert server.text(LONG, max_tokens=8, ignore_eos=True) == reference.text(LONG, 8)
        finally:
            server.kill(frozen, signal.SIGCONT)
        assert stream.error is not None or stream.text == reference.text(LONG, 8)
        assert server.text(LONG, max_tokens=8, ignore_eos=True) == reference.text(LONG, 8)


def test_workers_end_when_the_server_is_killed():
    with Server(prefill=1, decode=1) as server:
        workers = server.workers("prefill") + server.workers("decode")
        assert len(workers) == 2
        server.kill(server.popen.pid)
        server.wait(5)
        wait_until(lambda: not any(is_alive(pid) for pid in workers), 15, "the orphaned workers have ended")


def test_sigterm_drains(reference):
    """What runs is finished, the exit status is 0."""
    tokens = 150 << Missed.seen
    with Server(prefill=1, decode=1) as server, server.begin(PROMPT, max_tokens=tokens, ignore_eos=True) as answer:
        answer.wait_events(1)
        server.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining: " in server.log(), 10, "it drains")
        if answer.over:
            raise Missed("nothing was left to be finished")
        answer.to_its_end()
        assert answer.done and answer.error is None and answer.text == reference.text(PROMPT, tokens)
        assert server.wait(20) == 0


def test_second_sigterm_stops_at_once():
    with Server(prefill=1, decode=1) as server, server.begin(PROMPT, max_tokens=ENDLESS, ignore_eos=True) as answer:
        answer.wait_events(1)
        server.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining: " in server.log(), 10, "it drains")
        server.popen.send_signal(signal.SIGTERM)
        server.wait(5)
        answer.to_its_end()
        if answer.finish_reason == "length":
            raise Missed("it was over before the signals, or it was waited for")


def test_status_shows_a_lost_node(reference):
    """A node that nobody restarts: `troupe status` goes on showing it as lost, and serving goes on."""
    port = free_port()
    with Server("--cluster-port", port, prefill=0, decode=1) as server:
        before = reference.text(LONG, 8)
        with Process("node", MODEL, "--role", "prefill", "--name", "understudy", "--join", f"127.0.0.1:{port}") as node:
            def shown(state):
                return any(line.split()[:3] == ["understudy", "prefill", state] for line in server.status().stdout.splitlines())
            wait_until(lambda: shown("ready"), 30, "status shows the node as ready")
            node.popen.kill()
            node.popen.wait(5)
            wait_until(lambda: shown("lost"), BOUND, "status shows the node as lost")
            time.sleep(2)
            assert shown("lost"), "the loss is still shown"
        assert server.text(LONG, max_tokens=8, ignore_eos=True) == before


def test_a_node_joins_a_running_cluster_and_leaves(reference):
    port = free_port()
    with Server("--cluster-port", port, prefill=0, decode=1) as server:
        before = reference.text(LONG, 8)
        with Process("node", MODEL, "--role", "prefill", "--join", f"127.0.0.1:{port}") as node:
            def joined():
                assert node.popen.poll() is None, node.log()
                return any("prefill" in line and "ready" in line for line in server.status().stdout.splitlines())
            wait_until(joined, 60, "the new prefill node is ready")
            assert server.text(LONG, max_tokens=8, ignore_eos=True) == before
        assert server.text(LONG, max_tokens=8, ignore_eos=True) == before
