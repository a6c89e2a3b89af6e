#!/usr/bin/env python3
"""A prefill node and a decode node must answer as one node does, also when the prefill node is killed.

    disaggregated.py TROUPE DEVICES MODEL...     e.g. build/release/troupe cuda:0,cuda:1 --synthetic llama-3-8b

Starts servers of TROUPE, one after the other, all with --exact and temperature 0: one decode node alone on the first
device; one prefill and one decode node on DEVICES; the same, whose prefill process is killed with SIGKILL while it works.
Compares the texts, and reads from the metrics how many blocks were pulled over which path. Exit code 0: all equal, and
blocks were pulled. Prints one line a step, and first-token times.
"""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

troupe, devices, model = sys.argv[1], sys.argv[2], sys.argv[3:]
first = devices.split(",")[0]
WORDS = "the cat sat on a mat while seven red boats went by under an old stone bridge in late rain ".split()


def prompt(i, words):
    return f"Story {i}: " + " ".join(WORDS[(i * 7 + k * k) % len(WORDS)] for k in range(words))


PROMPTS = [prompt(i, 120 + 90 * (i % 4)) for i in range(8)]


class Server:
    def __init__(self, *arguments):
        self.command = [troupe, "serve", *model, "--port", "0", "--exact", "--no-prefix-caching", "--log-level", "info",
                        *arguments]
        self.log = []
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.url = None
        threading.Thread(target=self.read, daemon=True).start()
        deadline = time.time() + 120
        while self.url is None:
            if self.process.poll() is not None or time.time() > deadline:
                raise SystemExit("the server does not start:\n" + "".join(self.log[-20:]))
            time.sleep(0.05)

    def read(self):
        for line in self.process.stdout:
            self.log.append(line)
            found = re.search(r"ready after .* at (http://[^/ ]+)/v1", line)
            if found:
                self.url = found[1]

    def get(self, path):
        return urllib.request.urlopen(self.url + path, timeout=20).read().decode()

    def ask(self, text, tokens=24):
        body = {"prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=120))["choices"][0]["text"]

    def ask_all(self, after_start=None):
        texts = [None] * len(PROMPTS)

        def one(i):
            try:
                texts[i] = self.ask(PROMPTS[i])
            except Exception as e:  # shown as a difference
                texts[i] = f"ERROR {e}"

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(PROMPTS))]
        for t in threads:
            t.start()
        if after_start:
            after_start()
        for t in threads:
            t.join()
        return texts

    def wait_for(self, role):
        deadline = time.time() + 60
        while time.time() < deadline:
            status = subprocess.run([troupe, "status", "--url", self.url], capture_output=True, text=True).stdout
            if re.search(rf"{role}\S*\s.*ready", status):
                return True
            time.sleep(0.2)
        return False

    def pulled(self):
        """Bytes pulled by path, over all nodes."""
        paths = {}
        for line in self.get("/metrics").splitlines():
            found = re.match(r'troupe_kv_transfer_bytes_total\{(.*)\} ([0-9.e+]+)', line)
            if found:
                path = re.search(r'path="(\w+)"', found[1])[1]
                paths[path] = paths.get(path, 0) + float(found[2])
        return {p: int(b) for p, b in paths.items() if b > 0}

    def prefill_processes(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = open(f"/proc/{pid}/cmdline").read().split("\0")
                parent = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == self.process.pid and "prefill" in words:
                found.append(int(pid))
        return found

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()


def compare(what, expected, got):
    wrong = [i for i in range(len(expected)) if expected[i] != got[i]]
    print(f"{what}: {len(expected) - len(wrong)} of {len(expected)} answers are those of one node", flush=True)
    for i in wrong[:2]:
        print(f"  expected {expected[i]!r}\n  got      {got[i]!r}")
    return not wrong


def main():
    begun = time.time()
    alone = Server("--prefill", "0", "--decode", "1", "--device", first)
    print(f"one node on {first}: ready in {time.time() - begun:.1f} s", flush=True)
    expected = alone.ask_all()
    again = alone.ask_all()
    alone.stop()
    well = compare("one node, asked again", expected, again)

    begun = time.time()
    both = Server("--prefill", "1", "--decode", "1", "--device", devices)
    well &= both.wait_for("prefill")
    print(f"prefill and decode on {devices}: ready in {time.time() - begun:.1f} s", flush=True)
    both.ask_all()  # so that the router has measured both
    well &= compare("prefill and decode", expected, both.ask_all())
    paths = both.pulled()
    print(f"  bytes pulled by path: {paths}")
    well &= bool(paths)
    for line in both.log:
        if "KV blocks" in line:
            print("  " + line.strip())

    for delay in (0.02, 0.15, 0.4):
        if not both.wait_for("prefill"):
            print("  the prefill node did not come back")
            well = False
            break

        def kill():
            time.sleep(delay)
            for pid in both.prefill_processes():
                os.kill(pid, signal.SIGKILL)

        well &= compare(f"prefill killed after {delay:.2f} s", expected, both.ask_all(kill))
    well &= both.wait_for("prefill")
    well &= compare("after the kills", expected, both.ask_all())
    bad = [l for l in both.log if "not usable" in l or "error" in l.lower()]
    print("  " + "  ".join(bad[-4:]).strip() if bad else "  no fence failed")
    both.stop()
    print("EQUAL" if well else "FAILED", flush=True)
    return 0 if well else 1


sys.exit(main())
