"""Nodes that are cut off for a while, and a gateway that comes back: nothing is wrong, nothing is stuck, all meet again."""

import signal

from troupe_process import ENDLESS, MODEL, Process, Server, free_port, run, wait_until

PROMPT = "The stage manager wrote down what happened that night: "
BOUND = 6.0  # seconds of silence after which a frozen node is replaced


def test_a_frozen_decode_is_replaced_and_harmless_when_it_wakes(reference):
    with Server(prefill=1, decode=2) as server, server.begin(PROMPT, max_tokens=ENDLESS, ignore_eos=True) as answer:
        answer.wait_events(20)
        name = server.busy_node("decode", answer)
        frozen = server.pid_of(name)
        server.kill(frozen, signal.SIGSTOP)
        try:
            lost = server.tokens_before_migration(answer, BOUND)
            answer.wait_text(reference.length(PROMPT, lost + 40))
        finally:
            server.kill(frozen, signal.SIGCONT)
        # What it was sent before the cut was noticed must not come a second time when it wakes.
        wait_until(lambda: any(n["name"] == name and n["state"] == "ready" for n in server.nodes()), 20, "it is back")
        answer.wait_events(20)
        answer.leave()
        assert answer.error is None and answer.broken is None
        reference.check(answer.text, PROMPT)
        wait_until(server.is_idle, 20, "nothing of the request is left")
        for _ in range(4):  # both nodes get some
            assert server.text(PROMPT, max_tokens=128, ignore_eos=True) == reference.text(PROMPT, 128)


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
        assert run("status", "--url", f"http://127.0.0.1:{free_port()}").returncode == 1
