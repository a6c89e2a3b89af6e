"""Compares our template engine with jinja2, set up as `transformers` does for chat templates.

    python chat_template_reference.py TOOL [--fixtures OUT.json] [--random N]

Templates lie in templates/ (written after those of the model families), snippets below. Each is rendered by jinja2
and by us over many contexts; the text, or that there is an error, must be equal. --random adds N expressions from a
grammar. Needs: jinja2.
"""
import argparse
import copy
import json
import pathlib
import random
import subprocess
import sys
import warnings

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes

warnings.simplefilter("ignore", SyntaxWarning)  # of the Python code that jinja2 makes
HERE = pathlib.Path(__file__).parent


class GenerationMarks(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationMarks, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    return made


TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a \"city\" <now> & later", "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Name, e.g. Zürich"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}, "days": {"type": "integer", "default": 1}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "description": "Adds", "strict": True, "parameters": {"type": "object", "properties": {
        "xs": {"type": "array", "items": {"type": "number"}}, "nested": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "boolean"}}}}}}}, "required": []}}},
]


def message_lists():
    m = lambda role, content, **more: {"role": role, "content": content, **more}
    call = lambda name, arguments, id="abcdef123": {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    yield [m("user", "Hi")]
    yield [m("system", "Be brief."), m("user", "  What's 2+2?  \n")]
    yield [m("user", "Hi"), m("assistant", "Hello!"), m("user", "你好 🙂 <|im_end|>\n")]
    yield [m("system", ""), m("user", ""), m("assistant", ""), m("user", "x")]
    yield [m("assistant", "I start"), m("user", "no")]
    yield [m("user", "a"), m("user", "b")]
    yield [m("user", "1"), m("assistant", "<think>\nhm\n</think>\n\n2"), m("user", "3"), m("assistant", "<think>ok</think>4")]
    yield [m("user", "Weather?"), m("assistant", None, tool_calls=[call("get_weather", {"city": "Zürich", "days": 2, "x": 1.5, "y": None, "z": [True]})]), m("tool", "{\"temp\": 20}", tool_call_id="abcdef123"), m("assistant", "20 degrees")]
    yield [m("system", "S"), m("user", "two"), m("assistant", "calling", tool_calls=[call("add", {"xs": [1, 2]}), call("add", {"xs": []}, "ghijkl456")]), m("tool", "3", tool_call_id="abcdef123"), m("tool", "0", tool_call_id="ghijkl456"), m("user", "thanks")]
    yield [m("user", [{"type": "text", "text": " one "}, {"type": "image"}, {"type": "text", "text": "two"}])]
    yield [m("tool", "alone")]
    yield [m("user", "line\r\nends\tand\u2028more"), m("assistant", "quote ' \" \\ end")]
    yield []


def template_contexts():
    for messages in message_lists():
        for prompt in (True, False):
            for tools in (None, TOOLS):
                context = {"messages": messages, "add_generation_prompt": prompt, "bos_token": "<s>", "eos_token": "</s>"}
                if tools:
                    context["tools"] = tools
                yield context
        yield {"messages": messages, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "enable_thinking": False, "date_string": "1 Jan 2025", "builtin_tools": ["code_interpreter", "add"], "tools_in_user_message": False, "tools": TOOLS[:1]}


DATA = {"s": "Hello World", "u": "Žluť 你好 🙂", "e": "", "n": 7, "m": -3, "f": 2.5, "t": True, "x": False, "z": None, "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"b": 1, "a": "two", "c": [1]},
        "r": [{"k": "x", "v": 2, "o": {"p": 1}}, {"k": "y", "v": 1, "o": {"p": 2}}, {"k": "x", "v": 3}], "q": "it's \"quoted\"\n", "p": "  padded\n\n", "h": "<a href='x'>&</a>", "items": [1], "long": "one two  three\nfour\n\nfive"}

SNIPPETS = r"""
{{ s }}|{{ n }}|{{ f }}|{{ t }}|{{ z }}|{{ l }}|{{ d }}|{{ missing }}|{{ (1,) }}|{{ (1, 'a') }}|{{ [] }}|{{ {} }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1e16 }} {{ 123456789012345678.0 }} {{ 0.1 + 0.2 }} {{ 1_000 }}
{{ -n }} {{ +n }} {{ - 3 }} {{ -n|abs }} {{ (-n)|abs }} {{ not n }} {{ not not n }} {{ -2 ** 2 }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 'a' < 'b' }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' == 1 }} {{ [1,2] == [1,2] }} {{ {'a':1} == {'a':1} }} {{ (1,2) == [1,2] }} {{ none == none }} {{ missing == none }} {{ missing == missing2 }}
{{ 1 in l }} {{ 9 not in l }} {{ 'ell' in s }} {{ 'b' in d }} {{ 'x' in missing }} {{ not 'b' in d }} {{ 1 in (1,2) }}
{{ n and s }} {{ e and s }} {{ e or s }} {{ none or false }} {{ missing or 'x' }} {{ 1 and 2 and 3 }} {{ 0 or '' or 5 }}
{{ 'a' if t }} {{ 'a' if x }}| {{ 'a' if x else 'b' }} {{ 'a' if x else 'b' if x else 'c' }} {{ (1 if t else 2) + 1 }}
{{ s ~ n ~ f ~ none ~ t ~ missing ~ l }} {{ 'a' ~ 1 + 2 }} {{ 1 ~ 2 * 3 }}
{{ 'a' + 'b' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 + [3] }} {{ (1,) + (2,) }} {{ 'x' * 0 }} {{ 'x' * -1 }}|
{{ s[0] }} {{ s[-1] }} {{ u[0] }} {{ u[-1] }} {{ u[2:5] }} {{ s[99] }}| {{ l[0] }} {{ l[-1] }} {{ l[5] }}| {{ d['a'] }} {{ d.b }} {{ d.c[0] }} {{ d['zz'] }}| {{ r[0].o.p }} {{ r.0.k }} {{ l.1 }} {{ d.zz is defined }}
{{ s[1:3] }} {{ s[:-1] }} {{ s[::-1] }} {{ s[::2] }} {{ s[5:1:-1] }} {{ l[1:] }} {{ l[:2] }} {{ l[::-1] }} {{ l[-2:] }} {{ l[10:] }} {{ l[:] }} {{ s[-100:100] }} {{ s[3:1] }}| {{ l[::-2] }} {{ u[::-1] }} {{ l[none:2] }}
{{ s|upper }} {{ s|lower }} {{ s|title }} {{ s|capitalize }} {{ p|trim }}| {{ s|length }} {{ u|length }} {{ l|count }} {{ d|length }} {{ missing|length }} {{ 'xxaxx'|trim('x') }} {{ "it's a-b (c) tom's" | title }} {{ "it's a-b tom's2x".title() }}
{{ l|first }} {{ l|last }} {{ s|first }} {{ s|last }} {{ []|first }}| {{ d|first }} {{ e|last }}|
{{ l|join }} {{ l|join(', ') }} {{ r|join('-', attribute='k') }} {{ s|join('.') }} {{ d|join(',') }} {{ [1, none, true]|join('|') }}
{{ l|sort }} {{ l|sort(reverse=true) }} {{ w|sort }} {{ w|sort(case_sensitive=true) }} {{ r|sort(attribute='v')|map(attribute='v')|list }} {{ w|sort|reverse|list }} {{ s|reverse }} {{ d|dictsort }} {{ {'B':1,'a':0}|dictsort }} {{ d|dictsort(false, 'key', true) }} {{ {'x':2,'y':1}|dictsort(by='value') }}
{{ l|map('string')|list }} {{ w|map('upper')|join }} {{ r|map(attribute='o.p')|list }} {{ r|map(attribute='zz', default='-')|list }} {{ w|map('replace', 'a', 'Z')|list }} {{ l|map('float')|list }}
{{ l|select('odd')|list }} {{ l|reject('odd')|list }} {{ l|select|list }} {{ [0,1,none,'']|select|list }} {{ [0,1]|reject|list }} {{ l|select('gt', 1)|list }} {{ w|select('in', ['a','b'])|list }} {{ l|select('divisibleby', 3)|list }}
{{ r|selectattr('k', 'equalto', 'x')|map(attribute='v')|list }} {{ r|rejectattr('k', '==', 'x')|list|length }} {{ r|selectattr('o')|list|length }} {{ r|selectattr('o', 'defined')|list|length }} {{ r|selectattr('o.p', 'eq', 2)|list|length }} {{ r|rejectattr('o', 'undefined')|list|length }}
{{ w|unique|list }} {{ ['a','A','b']|unique|list }} {{ ['a','A']|unique(case_sensitive=true)|list }} {{ r|unique(attribute='k')|list|length }} {{ l|max }} {{ l|min }} {{ w|min }} {{ l|sum }} {{ r|sum(attribute='v') }} {{ l|sum(start=10) }} {{ r|max(attribute='v') }}
{% for k, g in r|groupby('k') %}{{ k }}:{{ g|length }},{% endfor %}
{{ missing|default('d') }} {{ missing|d }}| {{ e|default('d') }}| {{ e|default('d', true) }} {{ none|default('d') }} {{ none|default('d', boolean=true) }} {{ n|default(1) }}
{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ '3.9'|int }} {{ 3.9|int }} {{ -3.9|int }} {{ '0x1f'|int(base=16) }} {{ 'ff'|int(0, 16) }} {{ ' 7 '|int }} {{ true|int }} {{ none|int }} {{ '2.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ 'x'|float(1.5) }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 2.1|round(method='ceil') }} {{ 2.9|round(0, 'floor') }} {{ 7|round }} {{ 1234.5|round(-2) }} {{ 0.5|round|int }} {{ -2.5|round }} {{ 2.675|round(2) }} {{ -3|abs }} {{ -2.5|abs }}
{{ 'a.b.c'|replace('.', '-') }} {{ 'aaa'|replace('a', 'b', 2) }} {{ 'abc'|replace('', '-') }} {{ 'abc'.replace('b', '') }} {{ 12|replace('1', '2') }}
{{ d|items|list }} {{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.get('a') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ missing|items|list }} {{ d|list }} {{ s|list|length }} {{ d|string }} {{ n|string + '!' }}
{{ d|tojson }} {{ r|tojson }} {{ q|tojson }} {{ u|tojson }} {{ none|tojson }} {{ 1.0|tojson }} {{ [1, 2.5, true, none, 'a']|tojson }} {{ {}|tojson }} {{ []|tojson }} {{ h|tojson }} {{ (1, 2)|tojson }} {{ 1e20|tojson }} {{ {1: 2, none: 3, true: 4}|tojson }}
{{ d|tojson(indent=2) }} {{ r|tojson(indent=4) }} {{ []|tojson(indent=2) }} {{ {'a': {}}|tojson(indent=1) }} {{ d|tojson(sort_keys=true) }} {{ u|tojson(ensure_ascii=true) }} {{ d|tojson(separators=(',', ':')) }} {{ d|tojson(indent='--') }}
{{ h|e }} {{ h|escape }} {{ h|safe }} {{ q|e }}
{{ long|indent }} {{ long|indent(2) }} {{ long|indent(2, true) }} {{ long|indent(2, blank=true) }} {{ long|indent(width='> ', first=true) }} {{ ''|indent }}| {{ 'a\n'|indent }}|
{{ s.upper() }} {{ s.lower() }} {{ p.strip() }}| {{ p.lstrip() }}| {{ p.rstrip() }}| {{ 'xxaxx'.strip('x') }} {{ 'abcba'.lstrip('ab') }} {{ 'abcba'.rstrip('ab') }} {{ s.startswith('Hell') }} {{ s.endswith(('x', 'ld')) }} {{ s.capitalize() }} {{ 'a b'.title() }} {{ '\u00a0x\u2003'.strip() }}
{{ long.split() }} {{ long.split(' ') }} {{ long.split(' ', 1) }} {{ long.split(none, 1) }} {{ 'a,b,,c'.split(',') }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a,b,c'.rsplit(',', 1) }} {{ long.splitlines() }} {{ 'a\r\nb\n\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ ' a  b '.split(none, 0) }} {{ 'abab'.split('ab') }}
{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('zz') }} {{ u.find('你') }} {{ s.count('l') }} {{ 'aaa'.count('aa') }} {{ ', '.join(w) }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'aB'.islower() }} {{ ''.isdigit() }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }}
{{ missing is defined }} {{ s is defined }} {{ missing is undefined }} {{ z is none }} {{ n is none }} {{ s is string }} {{ n is string }} {{ n is number }} {{ f is number }} {{ t is number }} {{ n is integer }} {{ t is integer }} {{ f is float }} {{ t is boolean }} {{ t is true }} {{ x is false }} {{ n is true }} {{ d is mapping }} {{ l is mapping }} {{ l is iterable }} {{ s is iterable }} {{ n is iterable }} {{ missing is iterable }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ n is sequence }} {{ range is callable }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is eq 7 }} {{ n is equalto(7) }} {{ n is ne 7 }} {{ n is gt 3 }} {{ n is lt(3) }} {{ n is in [1, 7] }} {{ n is not in [7] }} {{ n is sameas 7 }} {{ z is sameas none }} {{ s is upper }} {{ 'ab' is lower }} {{ n is not none }} {{ not n is none }} {{ n is odd and n is number }} {{ s is string or n }} {{ 'y' if n is odd else 'n' }} {{ -3 is odd }}
{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}
{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }} {{ ns.b }} {{ ns.zz is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}{% set t = 1, 2 %}{{ t }}
{% set x %}block {{ n }}{% endset %}[{{ x }}]{% set y | upper %}abc{% endset %}{{ y }}{% set y | replace('a', 'b') | upper %}abc{% endset %}{{ y }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.changed(i) }}{{ loop.depth }} {% endfor %}
{% for i in [] %}x{% else %}none{% endfor %} {% for i in l if i > 5 %}x{% else %}none{% endfor %} {% for i in l if i > 1 %}{{ i }}/{{ loop.length }} {% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'añb' %}{{ c }}.{% endfor %}{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }} {% endfor %}{% for i in missing %}x{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %} {{ range(3)|list }} {{ range(1, 10, 3)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }}
{% for i in l %}{% for j in w %}{{ i }}{{ j }}{% if loop.last %}!{% endif %}{% endfor %}{% endfor %}
{% if n == 1 %}1{% elif n == 7 %}7{% else %}else{% endif %}{% if missing %}a{% elif e %}b{% else %}c{% endif %}{% if t %}x{% endif %}
{% macro m(a, b=2, c='x' ~ b) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c=5) }} {{ m(b=1, a=2) }} {{ m() }} {{ m(1)|upper }} {{ m.name }}
{% macro outer() %}{{ n }}{{ inner() }}{% endmacro %}{% macro inner() %}in{% endmacro %}{{ outer() }}
{% macro v(a) %}{{ varargs }}{{ a }}{% endmacro %}{{ v(1, 2, 3) }}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}x{{ n }}{% endcall %}{% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(a, b) each(l) %}[{{ a }}{{ b }}]{% endcall %}
{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(4) }}
{% filter upper %}abc{{ s }}{% endfilter %}{% filter replace('a', 'b')|trim %} aa {% endfilter %}
{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}{% with %}{% set q = 2 %}{{ q }}{% endwith %}{{ q }}
{% raw %}{{ not }} {% rendered %}{% endraw %} {#- comment -#} x {# a #}y
{% generation %}gen {{ n }}{% endgeneration %}
{{ 'a\tb\n\'\"\\ \x41 \u00e9 \q' }} {{ "it's" }} {{ 'a' 'b' }} {{ '\U0001F642' }}
{{ {'a': 1, 'b': [1, {'c': 2}]}['b'][1]['c'] }} {{ {'a': {}} }} {{ {'a': 1,} }} {{ [1, 2,] }} {{ {1: 'x'}[1] }} {{ dict(a=1, b=2) }} {{ dict(a=1)|tojson }}
{{ raise_exception('no: ' ~ n) }}
{{ missing.x }}
{{ d.zz.y }}
{{ none.x is defined }} {{ n.x is defined }} {{ s.nothing is defined }}
{{ 1 + 'a' }}
{{ none + 1 }}
{{ missing + 1 }}
{{ missing() }}
{{ n() }}
{{ 'a' < 1 }}
{{ 1 / 0 }}
{{ 5 in 5 }}
{{ none|length }}
{% for i in 5 %}{% endfor %}
{% for i in none %}{% endfor %}
{{ l|sort(attribute='a')|list }} {{ [1, 'a']|sort }}
{% set d.x = 1 %}
{% for a, b in [1, 2] %}{% endfor %}
{{ s.split('') }}
{{ range(1000000) }}
{{ missing|tojson }}
{{ q }}{{ [q, "a'b", 'a"b', 'tab\t\\'] }} {{ ['é', '🙂', 'nul\x01'] }} {{ {'k': 'v', 1: none} }} {{ [1.0, true, none] }} {{ [missing] }}
{{ items }} {{ d['items'] is defined }} {{ r[0]['k'] }}
{{ 'a'if t else'b' }}{{ n if n>3and t }}
{{ (s|upper)[0:3] }} {{ s|upper|lower|title }} {{ s|default('x')|length + 1 }} {{ (l|length) * 2 }} {{ l|length * 2 }} {{ 'a'|upper ~ 'b'|upper }} {{ s.split(' ')[0].lower().strip('h') }} {{ 'a-b'|replace('-', ' ')|title }}
{{ [l, w]|map('length')|list }} {{ [1,2,3][-1] }} {{ 'abc'[1] }} {{ (1,2)[0] }} {{ loop is defined }}
{{ l is iterable and l is not mapping and l is not string }} {{ n is defined and n is not none and n > 5 }}
{%- if t -%}  stripped  {%- endif -%}  after {{- ' x ' -}} end
{% set joined = [] %}{{ joined }}{{ namespace(x=1).x }}{% set ns = namespace({'a': 2}) %}{{ ns.a }}
{{ s|attr('zz') is defined }} {{ [3,2]|sort|first }} {{ [[2,1],[1,2]]|sort }} {{ ['b','a']|map('upper')|sort|join }}
{{ 3 is divisibleby 3 }}{{ 'x' is in 'xyz' }}{{ [] is none }}{{ 1.0 is integer }}{{ '1' is number }}
""".strip("\n").split("\n")

BLOCKS = [
    "  {% if t %}\n    a\n  {% endif %}\n  b\n",
    "x  {% if t %}  \n  a {% endif %}  \nb\n\n",
    "{% for i in l %}\n  - {{ i }}\n{% endfor %}\nend",
    "{% for i in l %}\n  - {{ i }}\n  {%- endfor %}\nend\n",
    "a\n  {#- c -#}  \n b\n  {# d #}\n c {# e #} \nd",
    "a\n  {%+ if t %}\n b\n  {%+ endif +%}\n c",
    "\t{% set a = 1 %}\n\n\t{{ a }}\n",
    "{{ n }}\n\n{{- n }}\n\n{{ n -}}\n\nz",
    "  {% raw %}\n  {{ x }}\n  {% endraw %}\n z",
    "{% raw -%}  \n a {%- endraw %}\nb",
    "line\r\n{% if t %}\r\nyes\r\n{% endif %}\r\nend\r\n",
    "{% if t %}{# c #}\n  {% if n %}\n  q\n  {% endif %}\n{% endif %}",
    "{%- for m in r %}\n    {%- if m.v > 1 %}\n        {{- m.k }}\n    {%- endif %}\n{%- endfor %}\n",
    "a {% set x = 1 -%}\n   b {%- set y = 2 %}\n c",
    "{{ '{{' }} {{ '}}' }} {{ {'a': {'b': 1}}}} {% if {'a': 1} %}%}{% endif %}",
    "{{\n  n\n  +\n  1\n}}\n{%\n if t\n %}y{%\n endif\n %}",
    "{%if t%}a{%endif%}{{n}}{{-n-}}",
    "{% macro m() %}\n  x\n  {% if t %}\n  y\n  {% endif %}\n{% endmacro %}\n[{{ m() }}]",
    "{% set x %}\n a\n{% endset %}\n[{{ x }}]\n",
    "  {{ n }}  \n  {% if t %}  {{ n }}  {% endif %}  \n",
]

BROKEN = ["{{", "{% if t %}", "{% endif %}", "{{ 1 + }}", "{{ (1 }}", "{{ 1 ) }}", "{% foo %}", "{{ x|nofilter }}", "{{ x is notest }}", "{% for x %}{% endfor %}", "{% for in l %}{% endfor %}", "{{ 'a }}", "{# a", "{% set 1 = 2 %}", "{{ a b }}",
          "{% macro %}{% endmacro %}", "{% if t %}{% else %}{% else %}{% endif %}", "{{ f(a=1, 2) }}", "{% break %}", "{{ $ }}", "{{ }}", "{% %}", "{{ a. }}", "{{ [1 2] }}", "{% for i in l %}{% endif %}", "{% set true = 1 %}", "{% elif %}"]


def random_expression(rng, depth=0):
    g = lambda: random_expression(rng, depth + 1)
    if depth > 3 or rng.random() < 0.25:
        return rng.choice([*DATA, *DATA, "missing", "1", "0", "-2", "2.5", "'ab'", "''", "'o'", "true", "none", "[1, 2]", "{'a': 1}", "(1, 'b')", "'a b a'"])
    kind = rng.randrange(12)
    if kind == 0: return f"({g()} {rng.choice(['+', '-', '*', '/', '//', '~'])} {g()})"
    if kind == 1: return f"({g()} {rng.choice(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'])} {g()})"
    if kind == 2: return f"({g()} {rng.choice(['and', 'or'])} {g()})"
    if kind == 3: return f"({g()} if {g()} else {g()})"
    if kind == 4: return f"(not {g()})"
    if kind == 5: return f"{rng.choice(['s', 'u', 'l', 'w', 'e', 'p', 'r'])}[{rng.choice(['0', '-1', '1:', ':2', '::-1', ':-1', '5', '::2', chr(39) + 'a' + chr(39)])}]"
    if kind == 6: return f"({g()})|{rng.choice(['upper', 'lower', 'trim', 'length', 'first', 'last', 'join', 'list', 'string', 'int', 'float', 'abs', 'tojson', 'title', 'capitalize', 'reverse|list', 'sort', 'unique|list', 'default(1)', 'd(2, true)', 'round', 'items|list', 'dictsort', 'sum', 'max', 'min', 'indent(2)', 'tojson(indent=1)', 'select|list', 'map(' + chr(39) + 'string' + chr(39) + ')|list'])}"
    if kind == 7: return f"({g()} is {rng.choice(['', 'not '])}{rng.choice(['defined', 'none', 'string', 'number', 'mapping', 'iterable', 'sequence', 'boolean', 'integer', 'float', 'odd', 'true', 'false', 'lower', 'upper'])})"
    if kind == 8: return f"({g()}){rng.choice(['.strip()', '.split()', '.upper()', '.title()', '.items()|list', '.keys()|list', '.get(' + chr(39) + 'a' + chr(39) + ')', '.a', '.splitlines()', '.rstrip(' + chr(39) + 'b' + chr(39) + ')', '.startswith(' + chr(39) + 'a' + chr(39) + ')'])}"
    if kind == 9: return f"[{g()}, {g()}]"
    if kind == 10: return f"({g()})|replace('a', {rng.choice(['s', 'e', chr(39) + 'zz' + chr(39)])})"
    return f"{{'a': {g()}, 'b': {g()}}}"


def cases(random_count):
    """(name, source, context)"""
    for path in sorted((HERE / "templates").glob("*.jinja")):
        for context in template_contexts():
            yield path.name, path.read_text(), context
    for source in SNIPPETS + BLOCKS + BROKEN:
        yield "", source, DATA
    rng = random.Random(20261125)
    for _ in range(random_count):
        yield "", "{{ " + random_expression(rng) + " }}", DATA


def expected(made, source, context):
    try:
        return {"text": made.from_string(source).render(**context)}
    except jinja2.exceptions.TemplateError as e:
        return {"error": e.message or ""} if type(e) is jinja2.exceptions.TemplateError else {"error": None}
    except Exception:
        return {"error": None}


def same(e, g):
    if "text" in e:
        return g.get("text") == e["text"]
    return "error" in g and (e["error"] is None or g["error"] == "invalid_argument: " + e["error"])


def main():
    options = argparse.ArgumentParser()
    options.add_argument("tool")
    options.add_argument("--fixtures", help="write all but the random cases here")
    options.add_argument("--random", type=int, default=5000)
    arguments = options.parse_args()
    made = environment()
    todo = list(cases(arguments.random))
    # Python's indent changes a list that it is given: jinja2 gets copies.
    wanted = [expected(made, source, copy.deepcopy(context)) for _, source, context in todo]
    lines = "\n".join(json.dumps({"template": s, "context": c}) for _, s, c in todo) + "\n"
    out = subprocess.run([arguments.tool, "render"], input=lines.encode(), stdout=subprocess.PIPE, check=True, timeout=300)
    got = [json.loads(line) for line in out.stdout.splitlines()]
    assert len(got) == len(todo), (len(got), len(todo))
    wrong, by_name = 0, {}
    for (name, source, context), e, g in zip(todo, wanted, got):
        counts = by_name.setdefault(name or "snippets", [0, 0, 0])
        counts[0] += 1
        counts[1] += "text" in e
        if same(e, g):
            continue
        counts[2] += 1
        wrong += 1
        if wrong <= 25:
            print(f"--- {name or source!r}\n  expected {e}\n  got      {g}" + (f"\n  {json.dumps(context['messages'])[:200]}" if name else ""))
    for name, (count, texts, bad) in by_name.items():
        print(f"{name}: {count} cases, {texts} with text, {bad} differ")
    if arguments.fixtures:
        fixed = [{"source": s, **({"data": True} if c is DATA else {"context": c}), **e} for (n, s, c), e in zip(todo, wanted) if not n][:len(SNIPPETS + BLOCKS + BROKEN)]
        contexts = list(template_contexts())
        files = [{"file": n, "context": contexts.index(c), **e} for (n, s, c), e in zip(todo, wanted) if n]
        with open(arguments.fixtures, "w") as file:
            file.write(json.dumps({"data": DATA, "contexts": contexts, "snippets": fixed, "templates": files}, ensure_ascii=True, separators=(",", ":")).replace('},{"file"', '},\n{"file"').replace('},{"source"', '},\n{"source"') + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
