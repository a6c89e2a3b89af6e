"""The cluster's secret is asked for at every port of actors, and who lacks it learns nothing."""

import contextlib
import socket

import pytest
from troupe_process import MODEL, Missed, Process, Server, free_port, wait_until

SECRET = "a secret of this test"


def secret_file(folder, text):
    path = folder / f"secret-{abs(hash(text))}"
    path.write_text(text + "\n")
    return path


def ports_of_actors(server):
    """Where the processes of the cluster listen for each other: the one that nodes join, and each node's own."""
    return [(node["host"], node["port"]) for node in server.nodes()]


def told_to_stranger(address, says):
    """Bytes that somebody who speaks no TLS is sent until the connection ends; at most for some seconds."""
    heard = b""
    with socket.create_connection(address, timeout=60) as peer, contextlib.suppress(ConnectionError, TimeoutError):
        peer.sendall(says)
        peer.settimeout(2)
        while some := peer.recv(4096):
            heard += some
    return heard


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    port = free_port()
    file = secret_file(tmp_path_factory.mktemp("secret"), SECRET)
    with Server("--cluster-port", port, "--cluster-secret-file", file, prefill=1, decode=1) as server:
        server.cluster_port = port
        yield server


def test_requests_are_served(guarded):
    prompt = "The actors enter, and a bell rings behind the stage. " * 20
    assert guarded.complete(prompt, max_tokens=8)["usage"]["completion_tokens"] == 8
    assert guarded.metric("troupe_actor_connections_refused_total", reason="wrong_key") == 0


def test_a_node_with_the_secret_joins(guarded, tmp_path):
    file = secret_file(tmp_path, SECRET)
    with Process("node", MODEL, "--role", "prefill", "--join", f"127.0.0.1:{guarded.cluster_port}", "--cluster-secret-file", file):
        wait_until(lambda: len(guarded.incarnations("prefill")) == 2, 60, "the other prefill node has joined")


@pytest.mark.parametrize("secret, reason", [("another secret of this test", "wrong_key"), (None, "malformed")], ids=["another", "none"])
def test_a_node_without_the_secret_does_not_join(guarded, tmp_path, secret, reason):
    before = guarded.metric("troupe_actor_connections_refused_total", role="gateway", reason=reason)
    flags = ["--cluster-secret-file", secret_file(tmp_path, secret)] if secret else []
    where = f"127.0.0.1:{guarded.cluster_port}"
    with Process("node", MODEL, "--role", "prefill", "--join", where, *flags) as node:
        wait_until(lambda: f"cannot connect to {where}" in node.log() and "--cluster-secret-file" in node.log(), 60,
                   "the node says that it cannot connect, and why that may be")
        wait_until(lambda: guarded.metric("troupe_actor_connections_refused_total", role="gateway", reason=reason) > before, 60,
                   "the cluster has counted it")
        assert node.popen.poll() is None
        assert len(guarded.incarnations("prefill")) == 1
    wait_until(lambda: "connections were refused, the last from 127.0.0.1" in guarded.log(), 60, "the cluster tells of it")
    assert guarded.text("Hello", max_tokens=2)


def test_a_stranger_is_told_nothing(guarded):
    """Not even that actors are here; the port of a cluster without a secret shows what there would be to be told."""
    with Server("--cluster-port", free_port(), prefill=0, decode=1) as server:
        greeting = told_to_stranger(ports_of_actors(server)[0], b"")
        assert b"troupe-" in greeting
    ports = ports_of_actors(guarded) + [("127.0.0.1", guarded.cluster_port)]
    if len(ports) < 4:
        raise Missed("a node is away")
    for address in ports:
        assert told_to_stranger(address, b"") == b"", address
        for says in (greeting, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096):
            assert len(told_to_stranger(address, says)) <= 7, address  # a TLS alert
    assert guarded.text("Hello", max_tokens=2)
