"""Nodes that are cut off for a while, and a gateway that comes back: nothing is wrong, nothing is stuck, all meet again."""

import signal
import time

from troupe_process import MODEL, Process, Server, free_port, run, wait_until

PROMPT = "The stage manager wrote down what happened that night: "
LENGTH = 400
BOUND = 6.0  # seconds of silence after which a frozen node is replaced


def test_a_frozen_decode_is_replaced_and_harmless_when_it_wakes():
    with Server(prefill=1, decode=2) as server:
        expected = server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True)
        frozen = {}

        def freeze(stream):
            if len(stream.events) == 20 and not frozen:
                name = wait_until(lambda: [n["name"] for n in server.nodes() if n["role"] == "decode" and n["running"]], 3, "it is busy")[0]
                frozen["pid"] = next(pid for pid in server.workers("decode") if name in open(f"/proc/{pid}/cmdline").read().split("\0"))
                frozen["name"], frozen["time"] = name, time.monotonic()
                server.kill(frozen["pid"], signal.SIGSTOP)

        stream = server.stream(PROMPT, on_event=freeze, max_tokens=LENGTH, ignore_eos=True)
        try:
            assert stream.error is None and stream.done and stream.text == expected
            pause = next(event for event in stream.events if event > frozen["time"] + 0.5) - frozen["time"]
            assert pause < BOUND, f"{pause:.1f} s of silence"
            # What it was sent before the cut was noticed must not come a second time when it wakes.
            server.kill(frozen["pid"], signal.SIGCONT)
            wait_until(lambda: any(n["name"] == frozen["name"] and n["state"] == "ready" for n in server.nodes()), 20, "it is back")
            wait_until(lambda: all(n["running"] == 0 and n["blocks"]["used"] == 0 for n in server.nodes() if n["role"] != "gateway"),
                       20, "nothing of the request is left")
            for _ in range(4):  # both nodes get some
                assert server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True) == expected
        finally:
            server.kill(frozen["pid"], signal.SIGCONT)


def test_nodes_find_a_gateway_that_was_killed_and_started_again():
    port = free_port()
    fixed = ["--cluster-port", port]
    with Server(*fixed, prefill=0, decode=1) as first:
        expected = first.text(PROMPT, max_tokens=32)
        with Process("node", MODEL, "--role", "decode", "--name", "guest", "--join", f"127.0.0.1:{port}") as node:
            def guest(server):
                return [n for n in server.nodes() if n["name"] == "guest" and n["state"] == "ready"]
            wait_until(lambda: guest(first), 30, "it joins")
            incarnation = guest(first)[0]["incarnation"]
            stream_left_alone = first.http.stream("POST", "/v1/completions", json=first.body(PROMPT, stream=True, max_tokens=2000, ignore_eos=True))
            with stream_left_alone as answer:
                next(answer.iter_lines())
                first.kill(first.popen.pid)
            first.popen.wait(10)
            with Server(*fixed, prefill=0, decode=1) as second:
                back = wait_until(lambda: guest(second), 20, "it joins again by itself")[0]
                assert back["incarnation"] == incarnation, "the process went on"
                wait_until(lambda: guest(second) and guest(second)[0]["running"] == 0 and guest(second)[0]["blocks"]["used"] == 0, 20,
                           "the lost gateway's request is cleaned up")
                for _ in range(4):
                    assert second.text(PROMPT, max_tokens=32) == expected
                assert node.popen.poll() is None


def test_a_cluster_port_that_is_not_there_any_more_is_told():
    port = free_port()
    with Process("node", MODEL, "--role", "decode", "--name", "alone", "--join", f"127.0.0.1:{port}") as node:
        wait_until(lambda: "goes on trying" in node.log(), 20, "it says so")
        assert run("status", "--url", f"http://127.0.0.1:{free_port()}", timeout=20).returncode == 1
