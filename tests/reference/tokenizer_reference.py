"""Compares our byte-level BPE with Hugging Face `tokenizers` on the model file's own vocabulary.

    python tokenizer_reference.py MODEL TOOL [--fixtures OUT.json] [--megabytes N]

A `tokenizers` tokenizer is built from the GGUF's tokens and merges and the pre-tokenizer of the family
(Digits + ByteLevel for smollm), and the ids of every text must be equal. The texts are made from what lies on
any machine with Python, so they are the same in each run: sources, Unicode tables, seeded random characters. They
keep to the characters of Python's Unicode version: PCRE2 and `tokenizers` each have their own, and a letter
that only one of them knows is a letter only there (seen: 14 of 2,000 texts, scripts of Unicode 16).
Needs: gguf, tokenizers.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import sysconfig
import tempfile
import unicodedata

from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

SENTENCES = [
    "", " ", "  ", "\n", "\n\n\n", "\t\t x", " a", "a ", "  two  spaces  ", "Hello, world!", "I'm you're he'll we've it's they'd 'tis 'S",
    "The quick brown fox jumps over the lazy dog.", "1", "12", "2024-11-25T13:18:24Z", " 1 22 333 4444", "x  1", "3.14159e-10", "½ Ⅷ ² ٣ ४ 万",
    "def f(x):\n    return x ** 2  # square\n", "\tif (a && b) {\r\n\t\treturn c->d[0];\r\n\t}", "SELECT * FROM t WHERE a = 'b''c';", "https://example.org/a?b=c&d=%20e#f",
    "{\"key\": [1, 2.5, null, true], \"ключ\": \"значение\"}", "<html><body class=\"x\">&nbsp;</body></html>", "$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$",
    "你好，世界！今天天气怎么样？", "日本語のテキストです。カタカナも。", "안녕하세요 세계", "مرحبا بالعالم، كيف حالك؟", "שלום עולם", "नमस्ते दुनिया, आप कैसे हैं?", "สวัสดีชาวโลก",
    "Привет, мир! Как дела?", "Γειά σου Κόσμε", "Xin chào thế giới", "Žluťoučký kůň úpěl ďábelské ódy", "naïve café Ærøskøbing ß ſ", "e\u0301 a\u0308 \u0915\u094d\u0937",
    "🙂 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ☃️", "a\u00a0b\u2003c\u3000d\u180ee\u200bf\ufeffg", "line\u2028sep\u2029par\x85nel\x0bvt\x0cff", "zero\x00byte\x01\x02\x04\x7f", "\ue000\uf8ff\U000f0000", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "!!!!!!!!!!!!!????????....,,,,;;;;", "____init____ __main__ --flag=--x", "C++ C# F# .NET", "&&||!!==<=>=<>->=>::", "' 's ''s 'll'", "'",
    "x" * 33, "ab" * 40, " " * 70 + "x", "\n" * 40 + "y", "\u0301\u0301", "end of text  ", "end of line\n", "mixed 中文 and English 和 123 数字", "tab\tseparated\tvalues\n1\t2\t3\n",
]


def byte_alphabet():
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in itself]
    return {b: chr(b) for b in itself} | {b: chr(256 + i) for i, b in enumerate(others)}


def reference(path):
    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    assert get("model") == "gpt2", get("model")
    steps = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)],
        "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)],
    }[get("pre")]
    tokens = get("tokens")
    merges = [tuple(m.split(" ")) for m in get("merges")]
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    return made


# The pre-tokenizers of other families, as their tokenizer.json has them.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
FAMILIES = {"gpt-2": None, "llama-bpe": [LLAMA3], "qwen2": [LLAMA3.replace("{1,3}", "")], "gpt-4o": [O200K], "deepseek-v3": DEEPSEEK}


def family_pre_tokenizer(patterns):
    if patterns is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(splits + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def python_sources(limit):
    text = []
    for path in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts or "dist-packages" in path.parts:
            continue
        source = path.read_bytes().decode("utf-8", "ignore")
        text.append(source[:20000])
        limit -= len(text[-1])
        if limit <= 0:
            return text
    return text


def random_texts(rng, count, length):
    """Runs of characters of one block each, with spaces, digits and punctuation between."""
    blocks = [(0x20, 0x7F), (0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE00), (0x1100, 0x1200), (0x1680, 0x1690), (0x1E00, 0x2070),
              (0x2070, 0x2C00), (0x3000, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xE000, 0xF900), (0xFB00, 0x10000), (0x10000, 0x11000), (0x1D400, 0x1D800), (0x1F000, 0x1FB00)]
    made = []
    for _ in range(count):
        text = []
        while len(text) < length:
            low, high = rng.choice(blocks)
            text += [c for c in (chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 8))) if unicodedata.category(c) != "Cn"]
            text += rng.choice(["", " ", "  ", "\n", "\r\n", "\t", "1", "23", "'s", ".", "\u00a0"])
        made.append("".join(text))
    return made


def all_texts(megabytes):
    rng = random.Random(20261125)
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    # Each character between letters, digits and spaces, so that its class decides the pieces.
    named = [c for c in every[:0x20000] if unicodedata.category(c) != "Cn"]
    tables = ["".join(f"a{c}b {c}1{c} {c}" for c in named[i:i + 64]) for i in range(0, len(named), 64)]
    unnamed = ["".join(every[i:i + 4096]) for i in range(0x20000, len(every), 4096)]
    texts = SENTENCES + python_sources(int(megabytes * 1e6)) + random_texts(rng, 2000, 200) + tables + unnamed
    sentence = [s for s in SENTENCES if s.strip()]
    texts += [rng.choice(["", " ", "\n", "  "]).join(rng.choices(sentence, k=rng.randrange(2, 12))) for _ in range(2000)]
    return texts


def ours(tool, model, texts):
    lines = "\n".join(json.dumps(t) for t in texts) + "\n"
    out = subprocess.run([tool, "tokenize", model], input=lines.encode(), stdout=subprocess.PIPE, check=True, timeout=300)
    return [json.loads(line) for line in out.stdout.splitlines()]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("model")
    options.add_argument("tool")
    options.add_argument("--fixtures", help="write the ids of the fixed sentences here")
    options.add_argument("--megabytes", type=float, default=2)
    arguments = options.parse_args()
    made = reference(arguments.model)
    texts = all_texts(arguments.megabytes)
    size = sum(len(t.encode()) for t in texts)
    wrong = compare(arguments.tool, arguments.model, "model file", made, texts)
    if arguments.fixtures:
        rng = random.Random(7)
        fixed = SENTENCES + random_texts(rng, 40, 30)
        ids = [e.ids for e in made.encode_batch(fixed, add_special_tokens=False)]
        with open(arguments.fixtures, "w") as file:
            file.write("[\n" + ",\n".join(json.dumps({"text": t, "ids": i}) for t, i in zip(fixed, ids)) + "\n]\n")
    # The same tokenizers by their tokenizer.json, and the other families' patterns over this vocabulary.
    with tempfile.TemporaryDirectory() as directory:
        for name, patterns in [("", []), *FAMILIES.items()]:
            if name:
                made.pre_tokenizer = family_pre_tokenizer(patterns)
            path = f"{directory}/tokenizer-{name}.json"
            made.save(path)
            wrong += compare(arguments.tool, path, f"tokenizer.json {name}", made, texts)
    print(f"{len(texts)} texts, {size} bytes")
    return 1 if wrong else 0


def compare(tool, model, name, made, texts):
    expected = [e.ids for e in made.encode_batch(texts, add_special_tokens=False)]
    got = ours(tool, model, texts)
    assert len(got) == len(texts), (len(got), len(texts))
    wrong = [(t, e, g) for t, e, g in zip(texts, expected, got) if e != g]
    for text, e, g in wrong[:5]:
        at = next((i for i, (x, y) in enumerate(zip(e, g)) if x != y), min(len(e), len(g)))
        print(f"differs at token {at}: {made.decode(e[max(0, at - 3):at + 4])!r}\n  expected {e[at:at + 8]}\n  got      {g[at:at + 8]}")
    print(f"{name}: {sum(map(len, expected))} tokens, {len(wrong)} texts differ")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
