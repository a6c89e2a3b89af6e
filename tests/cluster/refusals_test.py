"""What must not start does not start: exit status 1 (configuration) or 2 (model), one line that names the cause."""

import shutil
import socket

import httpx
import pytest
from troupe_process import MODEL, Process, Server, free_port, run, wait_until


def refused(result, *words):
    assert result.returncode in (1, 2), f"{result.returncode}\n{result.stderr[-2000:]}"
    text = result.stderr + result.stdout
    for word in words:
        assert word in text, f"{word!r} is not in:\n{text[-2000:]}"
    assert "terminate called" not in text and "Sanitizer" not in text
    return text


def test_port_in_use(tmp_path):
    """Told before the model is so much as looked for."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(run("serve", MODEL, "--port", port, "--single-process"), "port", str(port))
        nothing = tmp_path / "nothing.gguf"
        for flags in (("--port", port), ("--port", free_port(), "--cluster-port", port)):
            assert "nothing.gguf" not in refused(run("serve", nothing, *flags), flags[-2], str(port))
        node = run("node", MODEL, "--role", "decode", "--join", "127.0.0.1:1", "--cluster-port", port)
        refused(node, "--cluster-port", str(port))


def test_unknown_role():
    refused(run("node", MODEL, "--role", "director", "--join", "127.0.0.1:1"), "role", "director", "prefill", "decode")


def test_unknown_flag_and_command():
    refused(run("serve", "--prefil", "1"), "--prefil")
    refused(run("perform"), "perform")


@pytest.mark.parametrize("arguments", [("--prefill", "-1"), ("--prefill", "many"), ("--port", "99999"), ("--threads", "0"), ("--decode", "0")],
                         ids=" ".join)
def test_bad_numbers(arguments):
    refused(run("serve", MODEL, *arguments), arguments[0])


def test_missing_model(tmp_path):
    refused(run("serve", tmp_path / "nothing.gguf", "--port", free_port()), "nothing.gguf")
    refused(run("inspect", tmp_path / "nothing.gguf"), "nothing.gguf")


@pytest.mark.parametrize("size", [0, 3, 4, 24, 1000, 100_000, 50_000_000])
def test_truncated_model(tmp_path, size):
    path = tmp_path / "short.gguf"
    with open(MODEL, "rb") as source:
        path.write_bytes(source.read(size))
    refused(run("inspect", path))
    refused(run("serve", path, "--port", free_port(), "--single-process"))


def test_not_a_model(tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("this is no model\n" * 1000)
    refused(run("inspect", path), "text.gguf")


def test_nobody_to_join():
    """A node may start before its cluster: it says that nobody answers, goes on trying, and still ends when told to."""
    port = free_port()
    with Process("node", MODEL, "--role", "prefill", "--join", f"127.0.0.1:{port}") as node:
        wait_until(lambda: f"127.0.0.1:{port}" in node.log(), 15, "the log says whom the node cannot reach")
        assert node.popen.poll() is None
        assert node.stop(10) == 0, "SIGTERM ends it"


def test_other_model_is_refused_with_both_identities(tmp_path):
    other = tmp_path / "other.gguf"
    shutil.copyfile(MODEL, other)
    with open(other, "r+b") as file:  # one bit of the last tensor: the same shape, another model
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))

    def digest(path):
        lines = [line for line in run("inspect", path).stdout.splitlines() if "digest" in line]
        assert lines, "inspect shows the model's digest"
        return lines[0].split()[-1]
    ours, theirs = digest(MODEL), digest(other)
    assert ours != theirs
    port = free_port()
    with Server("--cluster-port", port, prefill=1, decode=1) as server:
        before = server.text("Who is on stage?")
        result = run("node", other, "--role", "prefill", "--join", f"127.0.0.1:{port}")
        refused(result, ours[:12], theirs[:12])
        assert server.text("Who is on stage?") == before


def test_bytes_that_are_not_ours_on_the_cluster_port():
    port = free_port()
    with Server("--cluster-port", port, prefill=1, decode=1) as server:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"\0" * 64, b""):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
                peer.sendall(data)
        assert server.text("Hello", max_tokens=2)


def test_api_key(tmp_path):
    """Every door but /live wants the key; the key is in no answer and no log."""
    key = "secret-for-the-test"
    file = tmp_path / "key"
    file.write_text(key + "\n")
    with Server("--api-key-file", file, single_process=True, api_key=key) as server:
        assert server.text("Hello", max_tokens=1)
        assert httpx.get(server.url + "/live", timeout=60, trust_env=False).status_code == 200
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer " + key[:-1]}, {"Authorization": key},
                       {"Authorization": "Bearer " + key.upper()}, {"Authorization": "Bearer " + key + "x"}):
            for path in ("/v1/models", "/metrics", "/version", "/v1/models/", "//v1/models", "/v1/../v1/models", "/%761/models"):
                answer = httpx.get(server.url + path, headers=header, timeout=60, trust_env=False)
                assert answer.status_code == 401, (path, header, answer.status_code)
                assert answer.json()["error"]["code"] == "invalid_api_key"
            for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
                answer = httpx.post(server.url + path, headers=header, json={"prompt": "x"}, timeout=60, trust_env=False)
                assert answer.status_code == 401, (path, header)
        assert key not in server.http.get("/metrics").text
        assert key not in server.log()


def test_config_file_and_environment(tmp_path):
    port = free_port()
    config = tmp_path / "troupe.toml"
    config.write_text(f'port = {port}\nprefill = 0\ndecode = 1\n')
    with Process("serve", MODEL, "--config", config, "--single-process") as process:

        def ready():
            assert process.popen.poll() is None, process.log()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=10, trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False
        wait_until(ready, 60, "ready on the port of the file")


def test_version_and_help():
    assert run("version").stdout.startswith("troupe ")
    for command in ("serve", "node", "launch", "run", "chat", "inspect", "status", "bench"):
        result = run(command, "--help")
        assert result.returncode == 0 and "--help" in result.stdout, command


def test_inspect_the_default_model():
    result = run("inspect", MODEL)
    assert result.returncode == 0
    for fact in ("llama", "576", "49152"):
        assert fact in result.stdout, result.stdout
