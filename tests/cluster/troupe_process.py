"""Starts the real `troupe` binary and talks to it; every wait is bounded."""

import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("TROUPE_BINARY", ROOT / "build/release/troupe"))
MODEL = pathlib.Path(
    os.environ.get("TROUPE_TEST_MODEL")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    / "troupe/models/SmolLM2-135M-Instruct.Q4_1.gguf")
READY_SECONDS = 60
ENDLESS = 7000  # tokens of an answer that does not end while a test disturbs it: near the context of the default model
PATIENCE = 4  # times the seconds that a state is waited for: a machine may be slow, or busy with other things
given_ports = set()


class Missed(Exception):
    """What a test wanted to disturb was not going on, or not there: no verdict. conftest.py tries the test again a few times.

    Only for what a test cannot bring about for certain; never for what the product did wrong."""

    seen = 0  # by the test that runs: it may ask for a longer answer the next time


def free_port():
    """Below the ports that the system gives to connections: nobody but us takes it before it is used."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in given_ports:
                given_ports.add(port)
                return port


def run(*arguments, seconds=60, **options):
    """One command of the binary, to its end."""
    return subprocess.run([str(BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE * seconds,
                          stdin=subprocess.DEVNULL, **options)


def wait_until(condition, seconds, what):
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE * seconds:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"after {time.monotonic() - began:.0f} s still not: {what}")


def is_alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class Process:
    """A long-running command of the binary, in a process group of its own, with its log in a file."""

    def __init__(self, *arguments, env=None):
        file, path = tempfile.mkstemp(prefix="troupe-test-", suffix=".log")
        self.log_path, self.arguments = pathlib.Path(path), [str(BINARY), *map(str, arguments)]
        with open(file, "wb") as log:
            self.popen = subprocess.Popen(self.arguments, stdout=log, stderr=subprocess.STDOUT,
                                          stdin=subprocess.DEVNULL, start_new_session=True,
                                          env={**os.environ, **(env or {})})

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait(self, seconds):
        return self.popen.wait(timeout=PATIENCE * seconds)

    def stop(self, seconds=20):
        """SIGTERM, then SIGKILL for the whole group. Returns the exit status, None if it had to be killed.

        By itself the server drains no longer than a minute, and then says what it waited for."""
        status = None
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.wait(5)
        return status

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.stop()
        if kind is None:
            self.log_path.unlink(missing_ok=True)
        else:
            print(f"--- {' '.join(self.arguments)}\n{self.log()[-6000:]}")


class Server(Process):
    """`troupe serve`, ready with all its prefill and decode nodes when the constructor returns."""

    def __init__(self, *arguments, prefill=1, decode=1, single_process=False, model=MODEL, api_key=None, env=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        shape = ["--single-process"] if single_process else ["--prefill", prefill, "--decode", decode]
        super().__init__("serve", model, "--port", self.port, *shape, *arguments, env=env)
        self.key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.http = httpx.Client(base_url=self.url, timeout=httpx.Timeout(PATIENCE * 40, connect=PATIENCE * 10), trust_env=False,
                                 headers=self.key)
        try:
            self.wait_ready()
            for role, number in (("prefill", prefill), ("decode", decode)) if not single_process else ():
                wait_until(lambda: len(self.incarnations(role)) >= number, READY_SECONDS, f"{number} {role} nodes are ready")
            self.model = self.http.get("/v1/models").json()["data"][0]["id"]
        except BaseException:
            self.stop(2)
            print(self.log()[-6000:])
            raise

    def wait_ready(self, seconds=READY_SECONDS):
        def ready():
            if self.popen.poll() is not None:
                if "is in use by another program" in self.log():  # since it was found to be free
                    raise Missed("another program took a port")
                raise AssertionError(f"the server ended with {self.popen.returncode} while starting")
            with contextlib.suppress(httpx.HTTPError):
                return self.http.get("/ready", timeout=10).status_code == 200
        wait_until(ready, seconds, f"{self.url}/ready is 200")

    def workers(self, role):
        """Pids of the live processes below this one that serve a role."""
        found, todo = [], [self.popen.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
                    todo += map(int, (thread / "children").read_text().split())
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if pid != self.popen.pid and role.encode() in words and is_alive(pid):
                    found.append(pid)
        return sorted(found)

    def nodes(self):
        return self.http.get("/v1/cluster").json()["nodes"]

    def incarnations(self, role):
        """Of the nodes of a role that are ready."""
        return {node["incarnation"] for node in self.nodes() if node["role"] == role and node["state"] == "ready"}

    def wait_replaced(self, role, before):
        """The lost processes are out of the membership, and `serve` has started others in their place: new incarnations."""
        def replaced():
            now = self.incarnations(role)
            return len(now) >= len(before) and now != before
        wait_until(replaced, 20, f"another {role} process is in the lost one's place")

    def metric(self, name, **labels):
        """As it is now; a node that is too busy to tell counts nothing: wait for what is to be seen."""
        return metric(self.http.get("/metrics").text, name, **labels) or 0

    def pid_of(self, name):
        """Of the process below this one that serves as the node of that name."""
        pids = self.workers(name)
        if len(pids) != 1:
            raise Missed(f"{name} is {len(pids)} processes")
        return pids[0]

    def busy_node(self, role, answer):
        """Name of the node that serves the only request there is, as soon as a heartbeat tells."""
        def busy():
            if answer.over:
                raise Missed(f"the answer was over before a {role} node was seen to be busy")
            return [node["name"] for node in self.nodes() if node["role"] == role and node["running"]]
        return wait_until(busy, 15, f"a {role} node is busy")[0]

    def is_idle(self):
        return not any(node["running"] or node["blocks"]["used"] for node in self.nodes() if node["role"] != "gateway")

    def tokens_before_migration(self, answer, seconds):
        """How many tokens the client was sent by the node that it lost; waits until the loss is noticed."""
        def moved():
            over = answer.over
            if found := re.search(r"attempt 0 ended after (\d+) tokens", self.log()):
                return found
            assert answer.error is None and answer.broken is None, answer.error or answer.broken
            if over:
                raise Missed("the answer was over before the fault")
            return None
        return int(wait_until(moved, seconds, "the request is given to another node")[1])

    def kill(self, pid, sig=signal.SIGKILL):
        os.kill(pid, sig)

    def status(self):
        return run("status", "--url", self.url)

    # -- requests ------------------------------------------------------------------------------------------------------
    def complete(self, prompt, **fields):
        """POST /v1/completions, not streaming; greedy unless told otherwise."""
        answer = self.http.post("/v1/completions", json=self.body(prompt, **fields))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def text(self, prompt, **fields):
        return self.complete(prompt, **fields)["choices"][0]["text"]

    def stream(self, prompt, **fields):
        """Read to its end."""
        with self.begin(prompt, **fields) as stream:
            return stream.to_its_end()

    def begin(self, prompt, **fields):
        return Stream(self, self.body(prompt, stream=True, **fields))

    def body(self, prompt, **fields):
        return {"model": self.model, "prompt": prompt, "max_tokens": 32, "temperature": 0, **fields}


class Stream:
    """A streamed completion, read by a thread of its own while the block lasts: text, times of events, error frame."""

    def __init__(self, server, request):
        self.server, self.request = server, request
        self.text, self.error, self.done, self.finish_reason, self.broken, self.status = "", None, False, None, None, None
        self.events = []  # monotonic seconds of each event
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE * 40)
        self.thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, value, trace):
        self.leave()

    def leave(self, seconds=30):
        """The client closes the connection, whatever is still to come."""
        before = self.broken
        with contextlib.suppress(OSError, AttributeError):  # it may be closed already
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE * seconds)
        assert self.over, "the reader did not end"
        self.broken = before  # not by itself

    def to_its_end(self, seconds=40):
        self.thread.join(PATIENCE * seconds)
        assert self.over, f"no end after {len(self.events)} events"
        return self

    @property
    def over(self):
        return not self.thread.is_alive()

    def wait_events(self, number):
        """Until so many more came."""
        until = len(self.events) + number

        def came():
            if self.over and len(self.events) < until:
                assert self.error is None and self.broken is None, self.error or self.broken
                raise Missed(f"the answer was over after {len(self.events)} events")
            return len(self.events) >= until
        wait_until(came, 30, f"{number} more events")

    def wait_text(self, length, seconds=30):
        wait_until(lambda: self.over or len(self.text) >= length, seconds, f"{length} characters, {len(self.text)} came")
        assert self.error is None and self.broken is None, self.error or self.broken
        assert len(self.text) >= length, f"the answer ended after {len(self.text)} characters: {self.finish_reason}"

    def _read(self):
        try:
            self.connection.request("POST", "/v1/completions", json.dumps(self.request),
                                    {**self.server.key, "Content-Type": "application/json"})
            answer = self.connection.getresponse()
            self.status = answer.status
            if self.status != 200:
                self.error = json.loads(answer.read())["error"]
                return
            for line in answer:
                if line.startswith(b"data: "):
                    self._take(line[6:].strip())
            if not self.done:
                self.broken = self.broken or EOFError("the connection ended without [DONE]")
        except Exception as error:  # whoever waits for the stream tells
            self.broken = error
        finally:
            self.connection.close()

    def _take(self, data):
        if data == b"[DONE]":
            self.done = True
        elif "error" in (frame := json.loads(data)):
            self.error = frame["error"]
        else:
            for choice in frame["choices"]:
                self.text += choice["text"]
                self.finish_reason = choice["finish_reason"] or self.finish_reason
        self.events.append(time.monotonic())


class Reference:
    """What a server that nobody disturbs answers: greedy or of a seed, it is the same everywhere. Computed once for all tests."""

    def __init__(self, server):
        self.server, self.starts, self.whole = server, {}, {}

    def text(self, prompt, tokens, **fields):
        """The answer of exactly so many tokens."""
        key = (prompt, tokens, json.dumps(fields, sort_keys=True))
        if key not in self.whole:
            self.whole[key] = self.server.text(prompt, max_tokens=tokens, ignore_eos=True, **fields)
        return self.whole[key]

    def length(self, prompt, tokens, **fields):
        """Characters of the first so many tokens."""
        offsets = self._start(prompt, fields, lambda offsets: len(offsets) > tokens)[1]
        if len(offsets) <= tokens:
            raise Missed(f"{tokens} tokens are nearly the whole answer")
        return offsets[tokens]

    def check(self, text, prompt, **fields):
        """The text is the start of the answer without any fault."""
        expected = self._start(prompt, fields, lambda offsets: offsets and offsets[-1] >= len(text))[0]
        assert expected.startswith(text), f"{text!r} instead of {expected!r}"

    def _start(self, prompt, fields, enough):
        """Text of an answer that goes on, as far as it is known, and where each token begins."""
        key, tokens = (prompt, json.dumps(fields, sort_keys=True)), 512
        while not enough(self.starts.get(key, ("", []))[1]):
            choice = self.server.complete(prompt, max_tokens=tokens, ignore_eos=True, logprobs=0, **fields)["choices"][0]
            self.starts[key] = choice["text"], choice["logprobs"]["text_offset"]
            if tokens == ENDLESS:
                break
            tokens = min(2 * tokens, ENDLESS)
        return self.starts[key]


class Repeated:
    """Calls work(number) again and again, `pause` seconds apart, on `times` threads, while the block lasts."""

    def __init__(self, work, times=1, pause=0.0, patience=60.0):
        self.patience, self.stop, self.late, self.failures = PATIENCE * patience, threading.Event(), False, []
        self.threads = [threading.Thread(target=self._repeat, args=(work, number, pause)) for number in range(times)]

    def _repeat(self, work, number, pause):
        try:
            while not self.stop.wait(pause):
                work(number)
        except BaseException as failure:  # told by the thread that waits
            self.failures.append(failure)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind, value, trace):
        self.stop.set()
        for thread in self.threads:
            thread.join(self.patience)
        self.late = any(thread.is_alive() for thread in self.threads)
        if kind is None and self.failures:
            raise self.failures[0]


def metric(text, name, **labels):
    """Sum of the samples of a metric whose labels include those given; None when there is none."""
    total = None
    for line in text.splitlines():
        match = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?", line)
        if match and match[1] == name:
            found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            if all(found.get(key) == value for key, value in labels.items()):
                total = (total or 0) + float(match[3])
    return total
