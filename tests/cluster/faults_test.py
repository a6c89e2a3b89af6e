"""Real processes die by SIGKILL or freeze in the middle of a request.

The promise: within 5 seconds the client's answer goes on, or it gets a typed error; never a wrong token; the next
request works; `troupe status` shows the loss.
"""

import contextlib
import os
import signal
import threading
import time

import pytest
from troupe_process import MODEL, Process, Server, free_port, run, wait_until

PROMPT = "The stage manager wrote down what happened that night: "
LONG = "Every actor of the troupe knew the play by heart, and yet no evening was like another. " * 90
BOUND = 5.0


def check_outcome(stream, fault_time, expected):
    """The whole fault-free answer, or a prefix of it and a typed error in time."""
    assert stream.broken is None, f"the connection broke without a typed error: {stream.broken}"
    after = [event for event in stream.events if event > fault_time]
    if stream.error is None:
        assert stream.done and stream.text == expected
        assert after and after[0] - fault_time < BOUND, "no sign of life in time"
    else:
        assert {"message", "type", "code"} <= set(stream.error), stream.error
        assert not after or after[-1] - fault_time < BOUND, "the error came late"
        assert expected.startswith(stream.text), "tokens before the error must be right"


def kill_in_stream(server, role, after_events, **fields):
    fault = {}

    def on_event(stream):
        if len(stream.events) == after_events and not fault:
            fault["pid"] = server.workers(role)[0]
            fault["time"] = time.monotonic()
            server.kill(fault["pid"])

    stream = server.stream(PROMPT, on_event=on_event, max_tokens=200, ignore_eos=True, **fields)
    assert fault, f"the stream ended after {len(stream.events)} events, before the fault"
    return stream, fault["time"]


def status_shows_loss(server, role):
    text = server.status().stdout
    return any(role in line and "lost" in line for line in text.splitlines())


@pytest.mark.parametrize("after_events", [1, 20, 120])
def test_decode_killed_in_mid_stream(after_events):
    with Server(prefill=1, decode=2) as server:
        expected = server.text(PROMPT, max_tokens=200, ignore_eos=True)
        # Two decodes serve: kill until the one that serves this request was hit, twice at most.
        victims = server.workers("decode")
        assert len(victims) == 2
        stream, when = kill_in_stream(server, "decode", after_events)
        check_outcome(stream, when, expected)
        wait_until(lambda: status_shows_loss(server, "decode"), 10, "status shows the lost decode node")
        assert server.text(PROMPT, max_tokens=200, ignore_eos=True) == expected


def test_the_only_decode_killed_in_mid_stream():
    with Server(prefill=1, decode=1) as server:
        expected = server.text(PROMPT, max_tokens=200, ignore_eos=True)
        stream, when = kill_in_stream(server, "decode", 10)
        check_outcome(stream, when, expected)
        # Nobody decodes until a new process has joined: refused at once with a status that clients retry on.
        answer = server.http.post("/v1/completions", json={"model": server.model, "prompt": "x", "max_tokens": 4},
                                  timeout=BOUND)
        assert answer.status_code in (200, 503), answer.text
        assert "error" in answer.json() or answer.status_code == 200


def test_sampling_goes_on_with_the_same_random_numbers():
    fields = {"temperature": 0.9, "seed": 99, "repetition_penalty": 1.1}
    with Server(prefill=1, decode=2) as server:
        expected = server.text(PROMPT, max_tokens=200, ignore_eos=True, **fields)
        stream, when = kill_in_stream(server, "decode", 30, **fields)
        check_outcome(stream, when, expected)


def test_prefill_killed_while_it_reads_the_prompt():
    with Server(prefill=1, decode=1) as server:
        expected = server.text(LONG + "So", max_tokens=16)
        outcome = {}
        # Another first word: nothing of this prompt is in a cache.
        prompt = "Tonight. " + LONG + "So"
        thread = threading.Thread(target=lambda: outcome.update(stream=server.stream(prompt, max_tokens=16)))
        victim = server.workers("prefill")[0]
        thread.start()
        time.sleep(0.4)
        when = time.monotonic()
        server.kill(victim)
        thread.join(90)
        assert "stream" in outcome, "the client is stuck"
        stream = outcome["stream"]
        assert stream.broken is None
        if stream.error is None:
            assert stream.done and stream.text
        else:
            assert time.monotonic() - when < BOUND + 1
        wait_until(lambda: status_shows_loss(server, "prefill"), 10, "status shows the lost prefill node")
        assert server.text(LONG + "So", max_tokens=16) == expected
        if stream.error is None:
            assert server.text(prompt, max_tokens=16) == stream.text


def test_prefill_killed_while_decode_streams():
    with Server(prefill=1, decode=1) as server:
        expected = server.text(PROMPT, max_tokens=200, ignore_eos=True)
        stream, when = kill_in_stream(server, "prefill", 10)
        check_outcome(stream, when, expected)
        assert stream.error is None, "decode needs no prefill once it streams"
        assert server.text(LONG, max_tokens=8), "decode reads prompts itself when no prefill is left"


def test_frozen_prefill_delays_but_does_not_stop():
    with Server(prefill=1, decode=1) as server:
        expected = server.text(LONG, max_tokens=8)
        frozen = server.workers("prefill")[0]
        server.kill(frozen, signal.SIGSTOP)
        try:
            started = time.monotonic()
            stream = server.stream("Once more. " + LONG, max_tokens=8)
            assert stream.broken is None and (stream.done or stream.error)
            assert time.monotonic() - started < 60
            assert server.text(LONG, max_tokens=8) == expected
        finally:
            server.kill(frozen, signal.SIGCONT)
        assert server.text(LONG, max_tokens=8) == expected


def test_workers_end_when_the_server_is_killed():
    with Server(prefill=1, decode=1) as server:
        workers = server.workers("prefill") + server.workers("decode")
        assert len(workers) == 2
        server.kill(server.popen.pid)
        server.popen.wait(timeout=5)

        def gone():
            return not any(os.path.exists(f"/proc/{pid}") and b"troupe" in cmdline(pid) for pid in workers)
        wait_until(gone, 15, "the orphaned workers have ended")


def cmdline(pid):
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    return b""


def test_sigterm_drains():
    """What runs is finished, what is new is refused, the exit status is 0."""
    with Server(prefill=1, decode=1) as server:
        expected = server.text(PROMPT, max_tokens=150, ignore_eos=True)
        sent = {}

        def on_event(stream):
            if len(stream.events) == 5:
                server.popen.send_signal(signal.SIGTERM)
                sent["time"] = time.monotonic()
        stream = server.stream(PROMPT, on_event=on_event, max_tokens=150, ignore_eos=True)
        assert sent and stream.done and stream.error is None and stream.text == expected
        assert server.wait(20) == 0


def test_second_sigterm_stops_at_once():
    with Server(prefill=1, decode=1) as server:
        times = {}

        def on_event(stream):
            if len(stream.events) == 5:
                server.popen.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                server.popen.send_signal(signal.SIGTERM)
                times["sent"] = time.monotonic()
        server.stream(PROMPT, on_event=on_event, max_tokens=2000, ignore_eos=True)
        server.wait(5)
        assert time.monotonic() - times["sent"] < 6


def test_a_node_joins_a_running_cluster_and_leaves():
    port = free_port()
    with Server("--cluster-port", port, prefill=0, decode=1) as server:
        before = server.text(LONG, max_tokens=8)
        with Process("node", MODEL, "--role", "prefill", "--join", f"127.0.0.1:{port}") as node:
            def joined():
                assert node.popen.poll() is None, node.log()
                return any("prefill" in line and "ready" in line for line in server.status().stdout.splitlines())
            wait_until(joined, 60, "the new prefill node is ready")
            assert server.text(LONG, max_tokens=8) == before
        assert server.text(LONG, max_tokens=8) == before
