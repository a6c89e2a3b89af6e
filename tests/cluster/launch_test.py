"""`troupe launch`: one file, two made-up hosts on this machine, one cluster."""

import socket

import httpx
from troupe_process import MODEL, Process, free_port, run, wait_until


def cluster_file(tmp_path, http_port, cluster_port):
    path = tmp_path / "cluster.toml"
    path.write_text(f"""
model = "{MODEL}"

[serve]
on = "127.0.0.1"
port = {http_port}
cluster-port = {cluster_port}
decode = 1

[[node]]
role = "prefill"
on = "stage-left"
cluster-host = "127.0.0.1"
""")
    return path


def test_dry_run_prints_each_hosts_own_commands(tmp_path):
    cluster_port = free_port()
    path = cluster_file(tmp_path, free_port(), cluster_port)
    here = run("launch", path, "--as", "127.0.0.1", "--dry-run")
    there = run("launch", path, "--as", "stage-left", "--dry-run")
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    assert here.stdout.startswith("troupe serve ") and here.stdout.count("\n") == 1
    assert there.stdout.startswith("troupe node ") and f"--join=127.0.0.1:{cluster_port}" in there.stdout


def test_keys_are_not_among_the_arguments(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(f"""
model = "{MODEL}"
[serve]
port = {free_port()}
cluster-port = {free_port()}
api-key = ["key-of-alice", "key-of-bob"]
""")
    done = run("launch", path, "--dry-run")
    assert done.returncode == 0 and done.stdout.startswith("TROUPE_API_KEY=(hidden) troupe serve "), done.stdout + done.stderr
    assert "key-of" not in done.stdout + done.stderr


def test_dry_run_finds_everything_that_is_wrong(tmp_path):
    path = tmp_path / "cluster.toml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path.write_text(f"""
model = "{tmp_path}/no-such-model.gguf"
[serve]
port = {port}
cluster-port = {free_port()}
api-key-file = "{tmp_path}/no-keys"
allowed-origins = "chat.example"
device = "cuda:x"
[[node]]
role = "prefill"
prefil = 3
max-num-seqs = "many"
[[node]]
role = "decode"
cluster-host = "no-such-host.invalid"
insecure-cluster = true
[[node]]
role = "decode"
on = "elsewhere"
cluster-host = "127.0.0.1"
cluster-secret-file = "/only/there"
device = "tpu"
threads = -1
""")
        done = run("launch", path, "--dry-run")
    assert done.returncode == 1
    assert done.stdout.count("\n") == 3, "the plan of this host is printed all the same"
    for words in (("serve: ", f":{port} is in use"), ("serve: ", "no-such-model.gguf"), ("serve: ", "no-keys"),
                  ("serve: ", "chat.example"), ("serve: ", "device"), ("prefill-0-0: ", "--prefil"),
                  ("prefill-0-0: ", "--max-num-seqs"), ("decode-1-0: ", "no-such-host.invalid"),
                  ("decode-elsewhere-2-0: ", "--threads")):
        assert any(all(word in line for word in words) for line in done.stderr.splitlines()), (words, done.stderr)
    assert "/only/there" not in done.stderr, "files are looked at where they are"


def test_a_file_without_anything_for_this_host(tmp_path):
    done = run("launch", cluster_file(tmp_path, 8123, 7123), "--as", "nowhere")
    assert done.returncode == 1 and "--as" in done.stderr


def test_a_bad_file_names_what_is_wrong(tmp_path):
    path = tmp_path / "cluster.toml"
    for text, word in (("[serve", "line 1"), ("[director]\n", "director"), ("[serve]\n[[node]]\nrole = 'mime'\n", "mime")):
        path.write_text(text)
        done = run("launch", path)
        assert done.returncode == 1 and word in done.stderr, done.stderr


def test_two_hosts_make_one_cluster(tmp_path):
    http_port = free_port()
    path = cluster_file(tmp_path, http_port, free_port())
    url = f"http://127.0.0.1:{http_port}"

    def roles():
        try:
            nodes = httpx.get(url + "/v1/cluster", timeout=10, trust_env=False).raise_for_status().json()["nodes"]
        except (httpx.HTTPError, ValueError):
            return set()
        return {(node["role"], node["state"]) for node in nodes}

    with Process("launch", path, "--as", "stage-left") as left, Process("launch", path, "--as", "127.0.0.1") as right:
        def both_ready():
            assert left.popen.poll() is None, left.log()
            assert right.popen.poll() is None, right.log()
            return {("prefill", "ready"), ("decode", "ready")} <= roles()
        wait_until(both_ready, 90, "prefill and decode are ready")
        answer = httpx.post(url + "/v1/completions", json={"prompt": "All the world's a stage. " * 40, "max_tokens": 4},
                            timeout=240, trust_env=False)
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 4
