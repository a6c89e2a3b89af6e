#!/usr/bin/env python3
"""Random faults on a cluster of several hosts, while clients compare every answer with the fault-free one.

    tests/cluster/chaos.py [--seconds 600] [--seed N] [--clients 4]

The hosts are network namespaces with addresses of their own on one bridge (needs root): one with the gateway and a decode
node, one with a prefill node, two with a decode node each, and on one of these a KV store whose disk has room for a
fraction of what it keeps: it is full from the first minute on. Faults: SIGKILL (the harness starts the node again), SIGSTOP,
a cable pulled out, packets lost in one direction only, a link of 20 Mbit/s, memory that the system refuses (RLIMIT_AS), and,
where this machine lends its cgroups, a memory limit below what the node uses: it thrashes, or the kernel kills it. Prints what
was done and what came of the requests; exits 1 when an answer was wrong, a request outlived its bound, or something was left
behind.
"""

import argparse
import collections
import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from troupe_process import BINARY, MODEL, PATIENCE, Repeated, is_alive, metric  # noqa: E402

NET = "10.231.77"
PORT, CLUSTER_PORT = 8100, 7100
REQUEST_SECONDS = 40  # what a request may take by its own limit; more where the slowest takes a tenth of it without any fault
GRACE = 8 * PATIENCE  # and after it nobody may wait any longer
CLONE_NEWNET = 0x40000000
NODES = 5
DISK_BYTES = 4 << 20  # of the store's disk: some ten blocks
TEXT = "Every actor of the troupe knew the play by heart, and yet no evening was like another. "


def ip(*arguments, check=True):
    done = subprocess.run(["ip", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done


def namespaces_work():
    """Why they do not, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"troupe-probe-{os.getpid()}"
    try:
        done = ip("netns", "add", name, check=False)
    except FileNotFoundError:
        return "the ip command is missing (Debian's iproute2)"
    if done.returncode:
        return f"network namespaces are not allowed here: {done.stderr.strip()}"
    ip("netns", "del", name)
    return None


@contextlib.contextmanager
def inside(namespace):
    """This thread's new sockets belong to the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(here.fileno(), CLONE_NEWNET)


class Host:
    """Namespaces with a cable to the bridge. Hosts share no memory: between them KV blocks take the cable too."""

    def __init__(self, lab, number):
        self.namespace, self.address = f"{lab.prefix}-{number}", f"{NET}.{number}"
        self.cable, self.plug = f"t{number}", f"p{number}"
        self.lab = lab
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "add", self.cable, "type", "veth", "peer", "name", self.plug, "netns", lab.switch)
        ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", self.cable)
        for device in ("lo", self.cable):
            ip("-n", self.namespace, "link", "set", device, "up")
        ip("-n", lab.switch, "link", "set", self.plug, "master", "bridge", "up")
        self.ipc = lab.folder / f"ipc-{number}"
        self.ipc.touch()
        subprocess.run(["unshare", f"--ipc={self.ipc}", "true"], check=True, capture_output=True, timeout=120)

    def end(self):
        ip("netns", "del", self.namespace, check=False)
        subprocess.run(["umount", self.ipc], capture_output=True, timeout=120)

    def unplug(self):
        ip("-n", self.lab.switch, "link", "set", self.plug, "down")

    def plug_in(self):
        ip("-n", self.lab.switch, "link", "set", self.plug, "up")

    def lose_packets_to(self, other):
        ip("-n", self.namespace, "route", "add", "blackhole", f"{other.address}/32")

    def reach(self, other):
        ip("-n", self.namespace, "route", "del", "blackhole", f"{other.address}/32", check=False)

    def slow(self):
        subprocess.run(["ip", "netns", "exec", self.namespace, "tc", "qdisc", "add", "dev", self.cable, "root", "tbf", "rate", "20mbit",
                        "burst", "64k", "latency", "100ms"], check=True, capture_output=True, timeout=120)

    def fast(self):
        subprocess.run(["ip", "netns", "exec", self.namespace, "tc", "qdisc", "del", "dev", self.cable, "root"], capture_output=True, timeout=120)


class MemoryGroup:
    """A memory cgroup, of version 1 or 2."""

    def __init__(self, name):
        first = pathlib.Path("/sys/fs/cgroup/memory")
        self.folder = (first if first.is_dir() else first.parent) / name
        self.limit, self.usage, self.events, self.none = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "-1") if first.is_dir() else
            ("memory.max", "memory.current", "memory.events", "max"))
        self.folder.mkdir()
        try:
            self.lift()
        except OSError:
            self.end()
            raise

    @staticmethod
    def lent(prefix):
        """None where this machine lends none."""
        with contextlib.suppress(OSError):
            return MemoryGroup(prefix)
        return None

    def add(self, pid):
        (self.folder / "cgroup.procs").write_text(str(pid))

    def squeeze(self, share):
        used = int((self.folder / self.usage).read_text())
        for limit in (int(used * share), used):  # what cannot be reclaimed is refused with EBUSY
            with contextlib.suppress(OSError):
                return (self.folder / self.limit).write_text(str(limit))

    def lift(self):
        (self.folder / self.limit).write_text(self.none)

    def kills(self):
        return sum(int(line.split()[1]) for line in (self.folder / self.events).read_text().splitlines() if line.startswith("oom_kill "))

    def end(self):
        with contextlib.suppress(OSError):
            self.folder.rmdir()


class Node:
    """A process of the binary on a host; the harness is its supervisor."""

    def __init__(self, lab, host, name, *arguments):
        self.lab, self.host, self.name, self.arguments = lab, host, name, arguments
        self.prefix = ["ip", "netns", "exec", host.namespace, "nsenter", f"--ipc={host.ipc}"]
        self.memory = MemoryGroup.lent(f"{lab.prefix}-{name}")
        self.log = open(lab.folder / f"{name}.log", "ab")
        self.lock = threading.Lock()
        self.start()

    def start(self):
        self.popen = subprocess.Popen([*self.prefix, str(BINARY), *map(str, self.arguments)], stdout=self.log,
                                      stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        if self.memory:
            self.memory.add(self.popen.pid)

    def kill(self):
        with self.lock:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait(10 * PATIENCE)
            self.start()

    def refuse_memory(self, spare):
        """From now on the process gets no more than so many bytes beyond what it has; until it ends or is forgiven."""
        with self.lock, contextlib.suppress(ProcessLookupError, FileNotFoundError):
            size = int(pathlib.Path(f"/proc/{self.popen.pid}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(self.popen.pid, resource.RLIMIT_AS, (size + spare, resource.RLIM_INFINITY))

    def lend_memory(self):
        with self.lock, contextlib.suppress(ProcessLookupError):
            resource.prlimit(self.popen.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def signal(self, number):
        with self.lock, contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def keep_alive(self):
        with self.lock:
            if self.popen.poll() is not None:
                self.start()

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGCONT)
            self.popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(10 * PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(5 * PATIENCE)
        if self.memory:
            self.memory.end()


class Lab:
    """Hosts, nodes, and their end whatever happens."""

    def __init__(self):
        self.prefix = f"troupe{os.getpid()}"
        self.switch = f"{self.prefix}-s"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="troupe-chaos-"))
        self.nodes, self.hosts = [], []
        self.disk, self.disk_refusals = self.folder / "disk", 0
        self.request_seconds = 10 * REQUEST_SECONDS  # until it is known what they take

    def __enter__(self):
        try:
            self.disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "troupe-chaos", self.disk], check=True, timeout=120)
            ip("netns", "add", self.switch)
            ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self.switch, "link", "set", "bridge", "up")
            for number in (1, 2, 3, 4):
                self.hosts.append(Host(self, number))
            secret = self.folder / "secret"
            secret.write_text("a secret of this test\n")
            common = ["--cluster-secret-file", secret, "--threads", 1, "--kv-blocks", 1024]
            gate = self.hosts[0]
            self.gateway = Node(self, gate, "gateway", "serve", MODEL, "--host", gate.address, "--port", PORT, "--cluster-host", gate.address,
                                "--cluster-port", CLUSTER_PORT, "--prefill", 0, "--decode", 1, *common)
            for host, role, name in ((self.hosts[1], "prefill", "prefill-far"), (self.hosts[2], "decode", "decode-far"),
                                     (self.hosts[3], "decode", "decode-farther")):
                self.nodes.append(Node(self, host, name, "node", MODEL, "--role", role, "--name", name, "--join",
                                       f"{gate.address}:{CLUSTER_PORT}", "--cluster-host", host.address, *common))
            self.nodes.append(Node(self, self.hosts[3], "store", "node", MODEL, "--role", "kv-store", "--name", "store", "--join",
                                   f"{gate.address}:{CLUSTER_PORT}", "--cluster-host", self.hosts[3].address, "--cluster-secret-file",
                                   secret, "--kv-store-memory", "64M", "--kv-store-disk", self.disk))
            self.wait(lambda: len(self.ready()) == NODES, 60, "all nodes are ready")
            return self
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(self, *error):
        for node in [*self.nodes, *([self.gateway] if hasattr(self, "gateway") else [])]:
            node.stop()
        for host in self.hosts:
            host.end()
        ip("netns", "del", self.switch, check=False)
        subprocess.run(["umount", "--lazy", self.disk], capture_output=True, timeout=120)

    def note_disk(self):
        """The store counts anew after each start: the largest count is kept."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            refused = metric(self.get("/metrics"), "troupe_store_disk_write_failures_total") or 0
            self.disk_refusals = max(self.disk_refusals, int(refused))
        return self.disk_refusals

    def cable_bytes(self):
        """Of KV blocks that went from host to host, of the nodes that live now."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return metric(self.get("/metrics"), "troupe_kv_transfer_bytes_total", path="tcp")

    def get(self, path, timeout=5 * PATIENCE):
        with inside(self.hosts[0].namespace):
            connection = http.client.HTTPConnection(self.hosts[0].address, PORT, timeout=timeout)
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                text = response.read().decode()
                if response.status != 200:  # a server that starts has no other answer yet
                    raise http.client.HTTPException(f"{response.status}: {text}")
                return text
            finally:
                connection.close()

    def cluster(self):
        return [node for node in json.loads(self.get("/v1/cluster"))["nodes"] if node["role"] != "gateway"]

    def ready(self):
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            return [node for node in self.cluster() if node["state"] == "ready"]
        return []

    def wait(self, condition, seconds, what):
        deadline = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.1)
        raise AssertionError(f"after {seconds * PATIENCE} s still not: {what}; ready: {self.ready()}")


# -- load ----------------------------------------------------------------------------------------------------------------
def prompts():
    sampled = {"temperature": 1.0, "seed": 7, "top_p": 0.95}
    kinds = []
    for number, repeat in enumerate((1, 2, 5, 12, 30, 60)):
        for fields in ({"temperature": 0}, sampled):
            kinds.append({"prompt": f"{number} {TEXT * repeat}", "max_tokens": 60 + 30 * (number % 3), "ignore_eos": True, **fields})
    return kinds


class Answer:
    def __init__(self, lab, body):
        self.text, self.error, self.done, self.began = "", None, False, time.monotonic()
        self.longest_gap, last = 0.0, self.began
        with inside(lab.hosts[0].namespace):
            connection = http.client.HTTPConnection(lab.hosts[0].address, PORT, timeout=lab.request_seconds + GRACE)
            try:
                connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True, "timeout_s": lab.request_seconds}),
                                   {"Content-Type": "application/json"})
                response = connection.getresponse()
                if response.status != 200:
                    self.error = json.loads(response.read())["error"]
                else:
                    for line in response:
                        if not line.startswith(b"data: "):
                            continue
                        now = time.monotonic()
                        self.longest_gap, last = max(self.longest_gap, now - last), now
                        if line.startswith(b"data: [DONE]"):
                            self.done = True
                            break
                        frame = json.loads(line[6:])
                        if "error" in frame:
                            self.error = frame["error"]
                        else:
                            self.text += frame["choices"][0]["text"]
            finally:
                connection.close()
        self.seconds = time.monotonic() - self.began


class Load(Repeated):
    def __init__(self, lab, clients, seed):
        super().__init__(self.once, clients, patience=2 * REQUEST_SECONDS)
        self.lab, self.kinds = lab, prompts()
        self.expected = [Answer(lab, kind) for kind in self.kinds]
        for answer in self.expected:
            assert answer.done and answer.error is None, f"without any fault: {answer.error}"
        lab.request_seconds = max(REQUEST_SECONDS, int(10 * max(answer.seconds for answer in self.expected)))
        self.lock, self.outcomes, self.wrong, self.gaps = threading.Lock(), collections.Counter(), [], []
        self.choices = [random.Random(seed + number) for number in range(clients)]

    def once(self, client):
        number = self.choices[client].randrange(len(self.kinds))
        try:
            answer = Answer(self.lab, self.kinds[number])
        except (OSError, ValueError, http.client.HTTPException) as error:
            with self.lock:
                self.wrong.append(f"request {number}: no whole answer and no typed error: {error!r}")
            return
        expected = self.expected[number].text
        with self.lock:
            self.gaps.append(answer.longest_gap)
            if answer.seconds > self.lab.request_seconds + GRACE:
                self.wrong.append(f"request {number}: {answer.seconds:.1f} s")
            if answer.error is None:
                if not answer.done or answer.text != expected:
                    self.wrong.append(f"request {number}: {answer.text!r} instead of {expected!r}")
                self.outcomes["whole answer"] += 1
            else:
                if not expected.startswith(answer.text):
                    self.wrong.append(f"request {number}: wrong before its error: {answer.text!r}")
                self.outcomes[str(answer.error["code"])] += 1
        if answer.error is not None:
            time.sleep(0.2)

    def __exit__(self, *error):
        super().__exit__(*error)
        if self.late:
            self.wrong.append("a client still waits")


# -- faults --------------------------------------------------------------------------------------------------------------
def one_fault(lab, choice, nap):
    node = choice.choice(lab.nodes)
    gate, duration = lab.hosts[0], choice.uniform(1, 7)
    kind = choice.choice(["SIGKILL", "SIGKILL", "SIGSTOP", "cable", "one way out", "one way in", "slow link", "no memory",
                          *(["memory limit"] if node.memory else [])])
    if kind == "SIGKILL":
        node.kill()
    elif kind == "SIGSTOP":
        node.signal(signal.SIGSTOP)
        nap(duration)
        node.signal(signal.SIGCONT)
    elif kind == "cable":
        node.host.unplug()
        nap(duration)
        node.host.plug_in()
    elif kind == "one way out":
        node.host.lose_packets_to(gate)
        nap(duration)
        node.host.reach(gate)
    elif kind == "one way in":
        gate.lose_packets_to(node.host)
        nap(duration)
        gate.reach(node.host)
    elif kind == "no memory":
        node.refuse_memory(choice.choice((0, 1 << 20, 16 << 20)))
        nap(duration)
        node.lend_memory()
    elif kind == "memory limit":
        node.memory.squeeze(choice.choice((0.5, 0.8, 0.95)))
        nap(duration)
        node.memory.lift()
    else:
        node.host.slow()
        nap(duration)
        node.host.fast()
    return kind


def nothing_left(lab):
    nodes = lab.ready()
    return len(nodes) == NODES and all(node["running"] + node["waiting"] + node["blocks"]["used"] + node["blocks"]["quarantined"] == 0 for node in nodes)


def run_chaos(seconds, seed, clients=4):
    """Returns the lines of a report, and what went wrong."""
    choice, faults = random.Random(seed), collections.Counter()
    with Lab() as lab:
        load = Load(lab, clients, seed)
        with load:
            lab.wait(lab.note_disk, 30, "the store's disk is full")
            lab.wait(lab.cable_bytes, 30, "KV blocks go over the cables")
            end = time.monotonic() + seconds
            while time.monotonic() < end and not load.wrong:
                faults[one_fault(lab, choice, time.sleep)] += 1
                for node in lab.nodes:
                    node.keep_alive()
                lab.note_disk()
                time.sleep(choice.uniform(0.3, 2))
        try:
            started = time.monotonic()
            lab.wait(lambda: nothing_left(lab), 60, "all nodes are back and hold nothing")
            quiet = time.monotonic() - started
            for number in range(0, len(load.kinds), 3):
                last = Answer(lab, load.kinds[number])
                if last.error is not None and last.error["code"] == "request_ends_workers":
                    continue  # what it was suspected of during the chaos is not forgotten so soon
                if last.error is not None or last.text != load.expected[number].text:
                    load.wrong.append(f"after the faults request {number} gives {last.error or last.text!r}")
        except AssertionError as error:
            load.wrong.append(str(error))
            quiet = float("nan")
        lab.note_disk()
        if lab.disk_refusals == 0:
            load.wrong.append("the store's full disk was not counted in troupe_store_disk_write_failures_total")
        if not is_alive(lab.gateway.popen.pid):
            load.wrong.append("the gateway ended")
        gaps = sorted(load.gaps) or [0.0]
        lines = [f"{seconds} s, seed {seed}, {clients} clients, logs in {lab.folder}",
                 "faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())),
                 "requests: " + ", ".join(f"{count} {what}" for what, count in load.outcomes.most_common()),
                 f"the store's full disk refused {lab.disk_refusals} writes or more",
                 "memory limits: " + (f"{sum(node.memory.kills() for node in lab.nodes)} processes killed by the kernel"
                                      if lab.nodes[0].memory else "this machine lends no cgroups"),
                 f"longest silence of a request: median {gaps[len(gaps) // 2]:.2f} s, p99 {gaps[int(len(gaps) * 0.99)]:.2f} s, most {gaps[-1]:.2f} s",
                 f"quiet {quiet:.1f} s after the last fault; wrong: {len(load.wrong)}"]
        return lines, load.wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    reason = namespaces_work()
    if reason:
        sys.exit(reason)
    lines, wrong = run_chaos(options.seconds, options.seed, options.clients)
    print("\n".join([*lines, *wrong]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
