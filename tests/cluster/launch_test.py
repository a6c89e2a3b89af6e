"""`troupe launch`: one file, two made-up hosts on this machine, one cluster."""

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
    path = cluster_file(tmp_path, 8123, 7123)
    here = run("launch", path, "--as", "127.0.0.1", "--dry-run")
    there = run("launch", path, "--as", "stage-left", "--dry-run")
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    assert here.stdout.startswith("troupe serve ") and here.stdout.count("\n") == 1
    assert there.stdout.startswith("troupe node ") and "--join=127.0.0.1:7123" in there.stdout


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
            nodes = httpx.get(url + "/v1/cluster", timeout=2, trust_env=False).json()["nodes"]
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
                            timeout=60, trust_env=False)
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 4
