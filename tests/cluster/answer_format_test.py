"""Answers of a form that the client asks for: JSON of a schema, an expression, a choice, a grammar; on any topology, and
when a decode node dies in the middle."""

import json
import re

import pytest
from faults_test import BEYOND, kill_busy_decode
from troupe_process import ENDLESS, Server

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "roles": {"type": "array", "items": {"enum": ["actor", "singer", "dancer"]}, "minItems": 1, "maxItems": 3},
        "famous": {"type": "boolean"},
    },
    "required": ["name", "age", "roles", "famous"],
}
PROMPT = "A person of the theatre, as JSON: "
NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 100, "maximum": 999}, "minItems": 1200, "maxItems": 1200}

FORMS = {
    "schema": ({"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}},
               lambda text: list(json.loads(text)) == list(PERSON["properties"])),
    "guided_json": ({"guided_json": PERSON, "temperature": 1.3, "seed": 5},
                    lambda text: 0 <= json.loads(text)["age"] <= 130),
    "regex": ({"structured_outputs": {"regex": "(red|green|blue), [0-9]{2}"}},
              lambda text: re.fullmatch("(red|green|blue), [0-9]{2}", text)),
    "choice": ({"guided_choice": ["yes", "no", "perhaps"]}, lambda text: text in ("yes", "no", "perhaps")),
    "grammar": ({"grammar": 'root ::= "<" [a-z]{1,9} ">"'}, lambda text: re.fullmatch("<[a-z]{1,9}>", text)),
}


@pytest.mark.parametrize("fields, fits", FORMS.values(), ids=FORMS)
def test_one_answer_on_any_topology(server, single, fields, fits):
    answer = server.complete(PROMPT, max_tokens=150, **fields)["choices"][0]
    assert answer["finish_reason"] == "stop" and fits(answer["text"]), answer
    assert single.text(PROMPT, max_tokens=150, **fields) == answer["text"]
    stream = server.stream(PROMPT, max_tokens=150, **fields)
    assert stream.done and stream.text == answer["text"] and stream.finish_reason == "stop"


def test_chat_gives_json_for_each_choice(server):
    request = {"model": server.model, "messages": [{"role": "user", "content": "Name a city and its country as JSON."}],
               "response_format": {"type": "json_object"}, "max_tokens": 120, "n": 3, "temperature": 0.8, "seed": 1}
    answer = server.http.post("/v1/chat/completions", json=request)
    assert answer.status_code == 200, answer.text
    for choice in answer.json()["choices"]:
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)
        else:
            assert choice["message"]["content"].startswith("{")


def test_what_cannot_be_kept_is_refused(server):
    for fields, param in (({"guided_regex": "(?=a)"}, "guided_regex"),
                          ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "response_format"),
                          ({"grammar": "root ::= root"}, "grammar"),
                          ({"guided_regex": "a{1,1000000000}"}, "guided_regex")):
        answer = server.http.post("/v1/completions", json=server.body("x", **fields))
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_a_killed_decode_does_not_break_the_form(reference):
    fields = {"guided_json": NUMBERS, "temperature": 1.0, "seed": 11}
    with Server(prefill=1, decode=2) as server:
        with server.begin(PROMPT, max_tokens=ENDLESS, ignore_eos=True, **fields) as answer:
            lost = kill_busy_decode(server, answer, 20)
            answer.wait_text(reference.length(PROMPT, lost + BEYOND, **fields))
        reference.check(answer.text, PROMPT, **fields)
