#!/usr/bin/env python3
"""Completes code at the cursor, as an editor's plugin would: what belongs between the text before and the text behind it.

    docs/examples/editor/complete.py program.py 12        the end of line 12
    docs/examples/editor/complete.py program.py 12:8      column 8 of it

With a model whose vocabulary has tokens for filling in the middle, `suffix` carries the text behind the cursor. Other models
refuse it with 400; they are given that text first and continue what is before the cursor. In both cases the open file is in
the prompt, and code repeats itself: guesses from the text (docs/speculation.md) make such answers faster. What an editor
needs besides: keep the connection, close it when the user types on (the server stops at once), and send the file's
beginning unchanged, so that its KV is reused.
"""

import argparse
import http.client
import json
import os
import pathlib
import sys
import time
import urllib.parse

MOST = 6000  # characters on either side
KEY = os.environ.get("TROUPE_API_KEY", "")  # if the server wants one


def ask(url, body):
    """(status, answer) of a completion; streamed text is joined, with the seconds until its first piece."""
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port or 80, timeout=60)
    began = time.monotonic()
    connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}),
                       {"Content-Type": "application/json", **({"Authorization": f"Bearer {KEY}"} if KEY else {})})
    answer = connection.getresponse()
    if answer.status != 200:
        return answer.status, json.loads(answer.read()).get("error", {}), 0
    text, first = "", None
    for line in answer:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        frame = json.loads(line[6:])
        if "error" in frame:
            sys.exit(frame["error"]["message"])
        piece = "".join(choice["text"] for choice in frame["choices"])
        first = first or (time.monotonic() - began if piece else None)
        text += piece
    connection.close()
    return 200, text, first or time.monotonic() - began


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("file", type=pathlib.Path)
    arguments.add_argument("cursor", help="LINE or LINE:COLUMN, from 1")
    arguments.add_argument("--url", default="http://127.0.0.1:8000")
    arguments.add_argument("--max-tokens", type=int, default=48)
    given = arguments.parse_args()
    lines = given.file.read_text().splitlines(keepends=True)
    line, _, column = given.cursor.partition(":")
    at = min(max(int(line), 1), len(lines)) - 1
    here = lines[at].rstrip("\n") if lines else ""
    split = len(here) if not column else min(int(column) - 1, len(here))
    before = ("".join(lines[:at]) + here[:split])[-MOST:]
    behind = (here[split:] + "\n" + "".join(lines[at + 1:]))[:MOST]

    fields = {"temperature": 0, "max_tokens": given.max_tokens, "stop": ["\n\n"]}
    began = time.monotonic()
    status, answer, first = ask(given.url, {"prompt": before, "suffix": behind, **fields})
    way = "filled in the middle"
    if status == 400 and answer.get("param") == "suffix":
        began = time.monotonic()
        status, answer, first = ask(given.url, {"prompt": behind + "\n\n" + before, **fields})
        way = "continued; this model does not fill in the middle"
    if status != 200:
        sys.exit(f"{status}: {answer.get('message')}")
    print(answer)
    took = time.monotonic() - began
    print(f"{way}: first piece after {first * 1e3:.0f} ms, all after {took * 1e3:.0f} ms", file=sys.stderr)


if __name__ == "__main__":
    main()
