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
from troupe_process import MODEL, Process, Server, free_port, metric, wait_until

PROMPT = "The stage manager wrote down what happened that night: "
LONG = "Every actor of the troupe knew the play by heart, and yet no evening was like another. " * 90
BOUND = 5.0
LENGTH = 400  # tokens of the answers that are disturbed


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


def kill_in_stream(server, role, after_events, victim=None, **fields):
    """Streams, and kills after so many events: victim() gives the pid. Returns the stream and the time of the kill."""
    fault = {}

    def on_event(stream):
        if len(stream.events) == after_events and not fault:
            fault["pid"] = victim() if victim else server.workers(role)[0]
            fault["time"] = time.monotonic()
            server.kill(fault["pid"])

    stream = server.stream(PROMPT, on_event=on_event, max_tokens=LENGTH, ignore_eos=True, **fields)
    assert fault, f"the stream ended after {len(stream.events)} events, before the fault"
    return stream, fault["time"]


def busy_decode(server):
    """The pid of the decode node that serves the only request there is, as soon as a heartbeat tells."""
    def busy():
        return [node["name"] for node in server.nodes() if node["role"] == "decode" and node["running"]]
    name = wait_until(busy, 3, "a decode node is busy")[0]
    return next(pid for pid in server.workers("decode") if name.encode() in cmdline(pid).split(b"\0"))


def incarnations(server, role):
    return {node["incarnation"] for node in server.nodes() if node["role"] == role and node["state"] == "ready"}


def check_replaced(server, role, before):
    """The lost process is out of the membership, and `serve` has started another in its place: a new incarnation."""
    def replaced():
        now = incarnations(server, role)
        return len(now) == len(before) and now != before
    wait_until(replaced, 20, f"another {role} process is in the lost one's place")
    assert "killed by signal" in server.log()


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.9, "seed": 99, "repetition_penalty": 1.1}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("after_events", [1, 20, 60])  # an event holds several tokens where guesses were right
def test_decode_killed_in_mid_stream(after_events, fields):
    """Another decode node goes on where the lost one was, with the same random numbers and penalties."""
    with Server(prefill=1, decode=2) as server:
        expected = server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True, **fields)
        before = incarnations(server, "decode")
        assert len(before) == 2
        wait_until(lambda: not any(node["running"] for node in server.nodes()), 5, "heartbeats tell that nothing runs")
        stream, when = kill_in_stream(server, "decode", after_events, victim=lambda: busy_decode(server), **fields)
        check_outcome(stream, when, expected)
        assert stream.error is None, "there was a spare decode node"
        assert metric(server.http.get("/metrics").text, "troupe_migrations_total", outcome="resumed") == 1
        check_replaced(server, "decode", before)
        assert server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True, **fields) == expected


def test_the_only_decode_killed_in_mid_stream():
    with Server(prefill=1, decode=1) as server:
        expected = server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True)
        stream, when = kill_in_stream(server, "decode", 10)
        check_outcome(stream, when, expected)
        # Nobody decodes until a new process has joined: refused at once with a status that clients retry on.
        answer = server.http.post("/v1/completions", json={"model": server.model, "prompt": "x", "max_tokens": 4},
                                  timeout=BOUND)
        assert answer.status_code in (200, 503), answer.text
        assert "error" in answer.json() or answer.status_code == 200


def test_prefill_killed_while_it_reads_the_prompt():
    with Server(prefill=1, decode=1) as server:
        expected = server.text(LONG + "So", max_tokens=16)
        outcome = {}
        # Another first word: nothing of this prompt is in a cache.
        prompt = "Tonight. " + LONG + "So"
        thread = threading.Thread(target=lambda: outcome.update(stream=server.stream(prompt, max_tokens=16)))
        victim, before = server.workers("prefill")[0], incarnations(server, "prefill")
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
        check_replaced(server, "prefill", before)
        assert server.text(LONG + "So", max_tokens=16) == expected
        if stream.error is None:
            assert server.text(prompt, max_tokens=16) == stream.text


def test_prefill_killed_while_decode_streams():
    with Server(prefill=1, decode=1) as server:
        expected = server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True)
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
        def on_event(stream):
            if len(stream.events) == 5:
                server.popen.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                server.popen.send_signal(signal.SIGTERM)
        stream = server.stream(PROMPT, on_event=on_event, max_tokens=2000, ignore_eos=True)
        server.wait(5)
        assert stream.finish_reason != "length", "it was not waited for"


def test_status_shows_a_lost_node():
    """A node that nobody restarts: `troupe status` goes on showing it as lost, and serving goes on."""
    port = free_port()
    with Server("--cluster-port", port, prefill=0, decode=1) as server:
        before = server.text(LONG, max_tokens=8)
        with Process("node", MODEL, "--role", "prefill", "--name", "understudy", "--join", f"127.0.0.1:{port}") as node:
            def shown(state):
                return any(line.split()[:3] == ["understudy", "prefill", state] for line in server.status().stdout.splitlines())
            wait_until(lambda: shown("ready"), 30, "status shows the node as ready")
            node.popen.kill()
            node.popen.wait(5)
            wait_until(lambda: shown("lost"), BOUND, "status shows the node as lost")
            time.sleep(2)
            assert shown("lost"), "the loss is still shown"
        assert server.text(LONG, max_tokens=8) == before


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
