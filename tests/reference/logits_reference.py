"""Compares the host device's logits with an independent transformer in numpy on the dequantized weights.

    python logits_reference.py MODEL TOOL [--limit PROMPTS] [--flips-max PERCENT]

TOOL (logits_tool) continues every prompt greedily; this program then reads the same tokens in one pass a prompt, in
float32 with norms and softmax in float64 and no rounding of activations or cache, and compares each logits row that
chose a token. Fails when
  - a token differs although the reference's best two logits are further apart than MARGIN (margin-aware equality),
  - more than --flips-max percent of all argmaxes differ (fidelity: llama.cpp 2.6 %, ours at most 0.5 %),
  - the largest error of a top-5 log-probability exceeds 0.05 in the median.
Needs: numpy, gguf. Two minutes on two cores.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import gguf
import numpy as np

MARGIN = 0.1

ENGLISH = [
    "The capital of France is", "Once upon a time, in a small village by the sea,", "Water boils at", "Explain in one sentence why the sky is blue.",
    "Write a short poem about autumn.", "List three prime numbers greater than 100.", "What is 17 * 23?", "Translate to Spanish: Where is the library?",
    "The most important invention of the twentieth century was", "Q: Who wrote Hamlet?\nA:", "My favourite recipe for pancakes starts with", "In economics, inflation is",
    "Dear Sir or Madam,\n\nI am writing to", "The mitochondria is the powerhouse of the cell because", "How do vaccines work?", "Summarize: The cat sat on the mat. The dog barked at the cat. The cat ran away.",
]
CODE = [
    "def fibonacci(n):\n", "#include <vector>\n#include <algorithm>\n\nint main() {\n", "SELECT name, COUNT(*) FROM users", "class Stack:\n    def __init__(self):\n",
    "function debounce(fn, ms) {\n", "for i in range(10):\n    print(", "import numpy as np\n\ndef softmax(x):\n", "fn main() {\n    let v = vec![1, 2, 3];\n",
    "#!/bin/bash\nset -e\n", "{\"name\": \"troupe\", \"version\":", "<html>\n<head>\n<title>", "Write a Python function that reverses a linked list.",
]
CHINESE = ["你好，请介绍一下你自己。", "中国的首都是", "今天天气很好，我们去", "请用一句话解释什么是机器学习。", "从前有一座山，山上有", "1 + 1 等于几？", "《红楼梦》的作者是", "春天来了，花"]
ARABIC = ["مرحبا، كيف حالك اليوم؟", "عاصمة مصر هي", "اكتب جملة قصيرة عن البحر.", "العلم نور و", "ما هو الذكاء الاصطناعي؟", "في يوم من الأيام"]
EMOJI = ["🙂🙂🙂", "Reply with emoji only: how was your day? 👍🏽", "👩‍👩‍👧‍👦 means", "🇩🇪 🇫🇷 🇯🇵", "I ❤️ pizza 🍕 and", "☃️ + ☀️ ="]
MIXED = ["Привет, мир! Как дела?", "naïve café Ærøskøbing ß", "mixed 中文 and English 和 123 数字:", "\t\t\tx = 1;\n\t\t\ty", "3.14159 26535 89793", "a"]


def prompts():
    """Short ones as a chat and as plain text; long ones of about 2,000 tokens from Python's own library."""
    out = []
    for k, text in enumerate(ENGLISH + CODE + CHINESE + ARABIC + EMOJI + MIXED):
        if k % 2 == 0:
            text = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        out.append({"text": text, "generate": 20})
    library = pathlib.Path(json.__file__).parent.parent
    for name, length in (("heapq.py", 7000), ("textwrap.py", 7000), ("this.py", 900), ("pathlib.py", 7000)):
        out.append({"text": (library / name).read_text()[:length], "generate": 16})
    out.append({"text": ("The committee met again, and the minutes say: " + " ".join(ENGLISH) + "\n") * 8, "generate": 16})
    out.append({"text": "".join(CHINESE) * 14, "generate": 16})
    return out


class Model:
    """A Llama-family decoder from a GGUF, weights in float32."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        field = lambda name: reader.fields[name].contents()
        arch = field("general.architecture")
        assert arch == "llama", arch
        self.layers = field("llama.block_count")
        self.heads = field("llama.attention.head_count")
        self.kv_heads = field("llama.attention.head_count_kv")
        self.epsilon = field("llama.attention.layer_norm_rms_epsilon")
        hidden = field("llama.embedding_length")
        self.head_dim = hidden // self.heads
        self.theta = field("llama.rope.freq_base")
        self.w = {t.name: np.ascontiguousarray(gguf.dequantize(t.data, t.tensor_type), dtype=np.float32) for t in reader.tensors}
        self.w.setdefault("output.weight", self.w["token_embd.weight"])

    def norm(self, x, name):
        x64 = x.astype(np.float64)
        return (x64 / np.sqrt((x64 * x64).mean(-1, keepdims=True) + self.epsilon) * self.w[name]).astype(np.float32)

    def rotate(self, x):  # [tokens, heads, head_dim]; GGUF's llama pairs neighbours
        frequencies = (self.theta ** (-np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim)).astype(np.float32)
        angles = np.arange(x.shape[0], dtype=np.float64)[:, None, None] * frequencies.astype(np.float64)
        cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = even * cosine - odd * sine
        out[..., 1::2] = odd * cosine + even * sine
        return out

    def attend(self, x, layer):
        n = x.shape[0]
        q, k, v = ((x @ self.w[f"blk.{layer}.attn_{name}.weight"].T).reshape(n, -1, self.head_dim) for name in "qkv")
        q, k = self.rotate(q), self.rotate(k)
        mask = np.triu(np.full((n, n), -np.inf, np.float32), 1)
        out = np.empty_like(q)
        for h in range(self.heads):
            g = h // (self.heads // self.kv_heads)
            scores = (q[:, h] @ k[:, g].T / np.sqrt(np.float32(self.head_dim)) + mask).astype(np.float64)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, h] = (p / p.sum(-1, keepdims=True)).astype(np.float32) @ v[:, g]
        return out.reshape(n, -1) @ self.w[f"blk.{layer}.attn_output.weight"].T

    def logits(self, ids, first):
        """Rows [first, len(ids)) of the logits."""
        x = self.w["token_embd.weight"][ids]
        for layer in range(self.layers):
            x = x + self.attend(self.norm(x, f"blk.{layer}.attn_norm.weight"), layer)
            y = self.norm(x, f"blk.{layer}.ffn_norm.weight")
            gate = y @ self.w[f"blk.{layer}.ffn_gate.weight"].T
            up = y @ self.w[f"blk.{layer}.ffn_up.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.w[f"blk.{layer}.ffn_down.weight"].T
        return self.norm(x[first:], "output_norm.weight") @ self.w["output.weight"].T


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class Tally:
    def __init__(self):
        self.tokens = self.flips = self.beyond_margin = 0
        self.logit_errors, self.top5_errors, self.divergences = [], [], []

    def add(self, ours, reference):
        best = reference.argmax(-1)
        top = np.sort(np.partition(reference, -2, axis=-1)[:, -2:], axis=-1)
        margin = top[:, 1] - top[:, 0]
        flipped = ours.argmax(-1) != best
        self.tokens += len(best)
        self.flips += int(flipped.sum())
        self.beyond_margin += int((flipped & (margin > MARGIN)).sum())
        self.logit_errors.extend(np.abs(ours - reference).max(-1))
        p, q = log_softmax(reference), log_softmax(ours)
        five = np.argpartition(reference, -5, axis=-1)[:, -5:]
        self.top5_errors.extend(np.abs(np.take_along_axis(p, five, -1) - np.take_along_axis(q, five, -1)).max(-1))
        self.divergences.extend((np.exp(p) * (p - q)).sum(-1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("tool")
    parser.add_argument("--limit", type=int, default=0, help="only so many prompts")
    parser.add_argument("--flips-max", type=float, default=0.5)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = prompts()[: args.limit or None]
        request = pathlib.Path(folder, "prompts.jsonl")
        request.write_text("".join(json.dumps(p) + "\n" for p in lines))
        subprocess.run([args.tool, args.model, str(request), f"{folder}/out"], check=True, timeout=600)
        engine_seconds = time.monotonic() - started
        answers = [json.loads(line) for line in open(f"{folder}/out.jsonl")]
        model = Model(args.model)
        vocabulary = model.w["output.weight"].shape[0]
        ours = np.memmap(f"{folder}/out.f32", np.float32, "r").reshape(-1, vocabulary)
        tally, at = Tally(), 0
        for a in answers:
            ids, n = np.array(a["ids"]), a["generated"]
            # The row at position k chose token k + 1; the last token was chosen, never read.
            tally.add(ours[at : at + n], model.logits(ids[:-1], len(ids) - 1 - n))
            at += n
        del ours
    flips = 100 * tally.flips / tally.tokens
    longest = max(len(a["ids"]) for a in answers)
    print(f"{len(answers)} prompts, the longest of {longest} tokens, {tally.tokens} teacher-forced greedy tokens; engine {engine_seconds:.0f} s, all {time.monotonic() - started:.0f} s")
    print(f"argmax flips {tally.flips} = {flips:.2f} %, of them {tally.beyond_margin} beyond a margin of {MARGIN}")
    quantiles = lambda v: f"median {np.median(v):.4f}, p95 {np.quantile(v, 0.95):.4f}, largest {np.max(v):.4f}"
    print(f"largest error of a logit: {quantiles(tally.logit_errors)}")
    print(f"largest error of a top-5 log-probability: {quantiles(tally.top5_errors)}")
    print(f"KL divergence: mean {np.mean(tally.divergences):.2e}")
    good = tally.beyond_margin == 0 and flips <= args.flips_max and np.median(tally.top5_errors) <= 0.05
    print(f"logits {'agree' if good else 'DISAGREE'}: {tally.tokens} rows, {flips:.2f} % flips")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
