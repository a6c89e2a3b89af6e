"""What a program's author does: install, find_package(troupe), build the example, run it against a cluster."""

import re
import subprocess

import pytest
from troupe_process import BINARY, MODEL, ROOT, Server, free_port


def command(*arguments, timeout=300):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    command("cmake", "--install", BINARY.parent, "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def example(prefix, tmp_path_factory):
    """The example built outside the tree: nothing but the installed files may be found."""
    folder = tmp_path_factory.mktemp("example")
    for name in ("CMakeLists.txt", "stream_tokens.cpp"):
        (folder / name).write_text((ROOT / "docs/examples/client" / name).read_text())
    command("cmake", "-S", folder, "-B", folder / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}",
            "-DCMAKE_BUILD_TYPE=Release")
    command("cmake", "--build", folder / "build")
    return folder / "build/stream_tokens"


@pytest.fixture(scope="module")
def cluster():
    port = free_port()
    with Server("--cluster-port", port, prefill=1, decode=1) as server:
        server.address = f"127.0.0.1:{port}"
        yield server


def test_the_installed_binary_runs(prefix):
    assert command(prefix / "bin/troupe", "version").stdout.startswith("troupe ")


def test_the_installed_tree_names_no_place_of_the_build(prefix):
    for path in prefix.rglob("*.cmake"):
        assert str(ROOT) not in path.read_text(), path


def test_the_client_streams_the_same_text_as_http(example, cluster):
    prompt = "The curtain rises, and"
    done = command(example, cluster.address, MODEL, prompt, timeout=90)
    assert done.stdout.rstrip("\n") == cluster.text(prompt, max_tokens=48)
    assert re.search(r"finish: (length|stop), \d+ tokens, decode decode-0", done.stderr), done.stderr


def test_the_client_cancels(example, cluster):
    done = command(example, cluster.address, MODEL, "Count: 1, 2, 3,", 3, timeout=90)
    assert "finish: abort" in done.stderr, done.stderr


def test_the_client_says_why_it_cannot_connect(example):
    done = subprocess.run([example, f"127.0.0.1:{free_port()}", MODEL, "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "no Troupe cluster answers" in done.stderr
