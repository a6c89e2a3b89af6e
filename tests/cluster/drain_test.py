"""Nodes are taken out of service and restarted while requests run: none is lost, none differs."""

import contextlib
import time

from troupe_process import ENDLESS, MODEL, Missed, Process, Repeated, Server, free_port, run, wait_until

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
    return run("drain", "--url", server.url, *arguments, seconds=120)


def test_a_rolling_restart_loses_no_request(reference):
    with Server(prefill=1, decode=2) as server:
        before = {node["name"]: node["incarnation"] for node in server.nodes()}
        with Load(server) as load:
            wait_until(lambda: len(load.streams) >= 2, 60, "the load runs")
            done = drain(server, "--all", "--restart", "--timeout-s", "2")
            assert done.returncode == 0, done.stderr
        workers = {name for name in before if not name.startswith("gateway")}

        def all_anew():
            after = {node["name"]: node["incarnation"] for node in server.nodes() if node["state"] == "ready"}
            return all(after.get(name, before[name]) != before[name] for name in workers)
        wait_until(lambda: len(workers) == 3 and all_anew(), 20, "all were started again")
        assert not load.late, "a client still waits"
        for number, stream in load.streams:
            assert stream.status == 200 and stream.error is None and stream.broken is None, (number, stream.error)
            assert stream.done and stream.text == reference.text(f"{number} {PROMPT}", LENGTH)
        assert server.popen.poll() is None


def test_a_drained_node_leaves_and_stays_away(reference):
    with Server(prefill=1, decode=2) as server:
        with contextlib.ExitStack() as stack:
            load = stack.enter_context(Load(server, clients=2))
            wait_until(lambda: load.streams, 60, "the load runs")
            done = drain(server, "decode-1")
            assert done.returncode == 0 and "decode-1: has left" in done.stdout, done.stderr
            done = drain(server, "prefill-0")
            assert done.returncode == 0, done.stderr
        assert not load.late, "a client still waits"
        assert all(stream.done and stream.error is None for _, stream in load.streams)

        def alone():
            return {node["name"] for node in server.nodes() if node["role"] != "gateway"} == {"decode-0"}
        wait_until(alone, 20, "they have left")
        time.sleep(1)  # nobody starts them again
        assert alone()
        refused = drain(server, "decode-0")
        assert refused.returncode == 1 and "only decode node" in refused.stderr
        assert server.text(PROMPT, max_tokens=LENGTH, ignore_eos=True) == reference.text(PROMPT, LENGTH)


def test_a_node_of_another_host_leaves_with_exit_code_zero():
    port = free_port()
    with Server("--cluster-port", port, prefill=0, decode=1) as server:
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


def test_a_drain_that_waits_in_vain_says_for_what():
    with Server("--drain-timeout-s", 1, prefill=0, decode=1) as server, server.begin(PROMPT, max_tokens=ENDLESS, ignore_eos=True) as answer:
        answer.wait_events(3)
        server.busy_node("decode", answer)
        assert server.stop() == 0
        assert "cut off at the drain limit: 1 requests at the door, 1 behind it; decode-0 had 1 running" in server.log()


def test_of_a_single_process_only_guests_leave():
    port = free_port()
    with Server("--single-process", "--cluster-port", port, prefill=0, decode=2) as server:
        def ready():
            return [node["state"] for node in server.nodes() if node["role"] == "decode"] == ["ready", "ready"]
        wait_until(ready, 30, "both are ready")
        for wish in (["decode-0", "--force"], ["--all", "--restart"]):
            refused = drain(server, *wish)
            assert refused.returncode == 1 and "--single-process" in refused.stderr and "SIGTERM" in refused.stderr
        assert ready()
        with Process("node", MODEL, "--role", "decode", "--name", "guest", "--join", f"127.0.0.1:{port}") as node:
            wait_until(lambda: any(n["name"] == "guest" and n["state"] == "ready" for n in server.nodes()), 30, "it joins")
            assert drain(server, "guest").returncode == 0
            assert node.wait(10) == 0


def test_a_request_that_would_miss_its_deadline_gets_429_at_once():
    with Server("--max-num-seqs", 1, prefill=0, decode=1) as server, contextlib.ExitStack() as others:
        for _ in range(32):  # some end soon, and tell how long the others will take
            others.enter_context(server.begin(PROMPT, max_tokens=600, ignore_eos=True))

        def refused():
            answer = server.http.post("/v1/completions", json=server.body(PROMPT, max_tokens=300, ignore_eos=True, timeout_s=2))
            return answer if answer.status_code == 429 else None
        answer = wait_until(refused, 30, "a refusal")
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        wait_until(lambda: server.metric("troupe_admission_refused_total", reason="overloaded") >= 1, 10, "it is counted")


def test_a_request_that_ends_two_workers_is_refused():
    """Three workers: nobody has to start in time for the second death."""
    prompt = "Every actor of the troupe knew the play by heart. " * (600 if Missed.seen < 2 else 700)  # some seconds to read
    with Server(prefill=0, decode=3) as server:
        with server.begin(prompt, max_tokens=4) as answer:
            dead = set()
            for _ in range(2):
                dead.add(kill_reader(server, answer, dead))
            answer.to_its_end()
        assert answer.status == 400 or answer.error, answer.text
        assert answer.error["code"] == "request_ends_workers", answer.error
        wait_until(lambda: server.incarnations("decode"), 20, "a worker is there")
        again = server.http.post("/v1/completions", json=server.body(prompt, max_tokens=4))
        assert again.status_code == 400
        assert server.text("Another request", max_tokens=4)


def kill_reader(server, answer, dead):
    """Kills the worker that reads the only prompt there is; not one whose last heartbeat is what is left of it."""
    def busy():
        if answer.over and answer.error is None:
            raise Missed("the prompt was read before a worker was seen to read it")
        return [n for n in server.nodes() if n["role"] == "decode" and n["state"] == "ready" and n["incarnation"] not in dead
                and n["running"] + n["waiting"]]
    reader = wait_until(busy, 15, "a worker reads it")[0]
    server.kill(server.pid_of(reader["name"]))
    return reader["incarnation"]
