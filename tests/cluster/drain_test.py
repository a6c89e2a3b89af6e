"""Nodes are taken out of service and restarted while requests run: none is lost, none differs."""

import contextlib
import threading
import time

from troupe_process import MODEL, Process, Repeated, Server, metric, run, wait_until

PROMPT = "The stage manager wrote down what happened that night: "
LENGTH = 160


class Load(Repeated):
    """Clients that stream one answer after the other, and what came."""

    def __init__(self, server, clients=4):
        super().__init__(self.once, clients)
        self.server, self.streams = server, []

    def once(self, number):
        self.streams.append((number, self.server.stream(f"{number} {PROMPT}", max_tokens=LENGTH, ignore_eos=True)))


def drain(server, *arguments):
    return run("drain", "--url", server.url, *arguments, timeout=120)


def test_a_rolling_restart_loses_no_request():
    with Server(prefill=1, decode=2) as server:
        expected = [server.text(f"{number} {PROMPT}", max_tokens=LENGTH, ignore_eos=True) for number in range(4)]
        before = {node["name"]: node["incarnation"] for node in server.nodes()}
        with Load(server) as load:
            wait_until(lambda: len(load.streams) >= 2, 60, "the load runs")
            done = drain(server, "--all", "--restart", "--timeout-s", "2")
            assert done.returncode == 0, done.stderr
        after = {node["name"]: node["incarnation"] for node in server.nodes() if node["state"] == "ready"}
        workers = {name for name in before if not name.startswith("gateway")}
        assert len(workers) == 3 and all(after[name] != before[name] for name in workers), (before, after)
        assert len(load.streams) >= 4
        for number, stream in load.streams:
            assert stream.status == 200 and stream.error is None and stream.broken is None, (number, stream.error)
            assert stream.done and stream.text == expected[number]
        assert server.popen.poll() is None


def test_a_drained_node_leaves_and_stays_away():
    with Server(prefill=1, decode=2) as server:
        expected = server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True)
        with contextlib.ExitStack() as stack:
            load = stack.enter_context(Load(server, clients=2))
            wait_until(lambda: load.streams, 60, "the load runs")
            done = drain(server, "decode-1")
            assert done.returncode == 0 and "decode-1: has left" in done.stdout, done.stderr
            done = drain(server, "prefill-0")
            assert done.returncode == 0, done.stderr
        assert all(stream.done and stream.error is None for _, stream in load.streams)
        time.sleep(1)  # nobody starts them again
        assert {node["name"] for node in server.nodes() if node["role"] != "gateway"} == {"decode-0"}
        refused = drain(server, "decode-0")
        assert refused.returncode == 1 and "only decode node" in refused.stderr
        assert server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True) == expected


def test_a_node_of_another_host_leaves_with_exit_code_zero():
    with Server(prefill=0, decode=1) as server:
        port = next(line.split("cluster port ")[1].split(",")[0] for line in server.log().splitlines() if "cluster port" in line)
        with Process("node", MODEL, "--role", "decode", "--name", "guest", "--join", f"127.0.0.1:{port}") as node:
            wait_until(lambda: any(n["name"] == "guest" and n["state"] == "ready" for n in server.nodes()), 30, "it joins")
            done = drain(server, "guest")
            assert done.returncode == 0, done.stderr
            assert node.wait(10) == 0


def test_bad_wishes_are_told():
    with Server(prefill=0, decode=1) as server:
        unknown = drain(server, "nobody")
        assert unknown.returncode == 1 and "nobody" in unknown.stderr
        assert drain(server).returncode == 1
        gateway = wait_until(lambda: [n["name"] for n in server.nodes() if n["role"] == "gateway"], 5, "the gateway is a member")[0]
        assert "SIGTERM" in drain(server, gateway).stderr
        answer = server.http.post("/v1/cluster/drain", json={"node": ""})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "node"
        answer = server.http.post("/v1/cluster/drain", json={"node": "decode-0"})
        assert answer.status_code == 400


def test_a_request_that_would_miss_its_deadline_gets_429_at_once():
    with Server("--max-num-seqs", 1, prefill=0, decode=1) as server:
        def ask():
            server.http.post("/v1/completions", json=server.body(PROMPT, max_tokens=300, ignore_eos=True, timeout_s=100))
        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        def refused():
            started = time.monotonic()
            answer = server.http.post("/v1/completions", json=server.body(PROMPT, max_tokens=300, ignore_eos=True, timeout_s=2))
            return (answer, time.monotonic() - started) if answer.status_code == 429 else None
        answer, seconds = wait_until(refused, 30, "a refusal")
        assert seconds < 1.5
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert metric(server.http.get("/metrics").text, "troupe_admission_refused_total", reason="overloaded") >= 1
        for thread in threads:
            thread.join(100)


def test_a_request_that_ends_two_workers_is_refused():
    with Server(prefill=0, decode=1) as server:
        prompt = "Every actor of the troupe knew the play by heart. " * 600  # some seconds to read
        answer = {}

        def ask():
            answer["is"] = server.http.post("/v1/completions", json=server.body(prompt, max_tokens=4))
        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(2):
            def busy():
                pids = server.workers("decode")
                return pids and any(n["role"] == "decode" and n["state"] == "ready" and n["running"] + n["waiting"] for n in server.nodes()) and pids
            server.kill(wait_until(busy, 20, "a worker reads it")[0])
            time.sleep(0.6)  # a heartbeat of the dead one must not count for its successor
        thread.join(30)
        assert answer["is"].status_code == 400, answer["is"].text
        assert answer["is"].json()["error"]["code"] == "request_ends_workers"
        wait_until(lambda: any(n["role"] == "decode" and n["state"] == "ready" for n in server.nodes()), 20, "the worker is back")
        again = server.http.post("/v1/completions", json=server.body(prompt, max_tokens=4))
        assert again.status_code == 400
        assert server.text("Another request", max_tokens=4)
