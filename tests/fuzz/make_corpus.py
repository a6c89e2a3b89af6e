#!/usr/bin/env python3
"""Writes corpus/gguf_header and corpus/safetensors_header: small valid files, and one per way to lie.

Only the standard library. The outcome is committed; run it again after a change here.
"""
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus"
U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name.encode()) + struct.pack("<I", kind) + value


def u32(name: str, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def settings(architecture: str, **changed: int) -> list[bytes]:
    numbers = {"block_count": 1, "context_length": 8, "embedding_length": 4, "feed_forward_length": 4,
               "attention.head_count": 2, "attention.head_count_kv": 1} | changed
    return [key("general.architecture", STRING, text(architecture.encode())),
            key(f"{architecture}.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)),
            *(u32(f"{architecture}.{name}", value) for name, value in numbers.items())]


def weights(architecture: str) -> dict[str, list[int]]:
    layer = {"attn_norm": [4], "attn_q": [4, 4], "attn_k": [4, 2], "attn_v": [4, 2], "attn_output": [4, 4],
             "ffn_norm": [4], "ffn_gate": [4, 4], "ffn_up": [4, 4], "ffn_down": [4, 4]}
    out = {"token_embd.weight": [4, 3], "output_norm.weight": [4]}
    out |= {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    if architecture == "qwen2":
        out |= {"blk.0.attn_q.bias": [4], "blk.0.attn_k.bias": [2], "blk.0.attn_v.bias": [2]}
    if architecture == "qwen3":
        out |= {"blk.0.attn_q_norm.weight": [2], "blk.0.attn_k_norm.weight": [2]}
    return out


def gguf(keys: list[bytes], tensors: list[tuple[str, list[int], int, int]], data: int, *, version: int = 3,
         key_count: int | None = None, tensor_count: int | None = None, dimensions: int | None = None) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if tensor_count is None else tensor_count,
                                len(keys) if key_count is None else key_count)
    out += b"".join(keys)
    for name, shape, kind, offset in tensors:
        out += text(name.encode()) + struct.pack("<I", len(shape) if dimensions is None else dimensions)
        out += b"".join(struct.pack("<Q", n) for n in shape) + struct.pack("<IQ", kind, offset)
    out += b"\0" * (-len(out) % 32)
    return out + bytes(i % 251 for i in range(data))


def valid(architecture: str, **changed: int) -> bytes:
    offset, tensors = 0, []
    for name, shape in weights(architecture).items():
        tensors.append((name, shape, 0, offset))
        size = 4
        for n in shape:
            size *= n
        offset += (size + 31) // 32 * 32
    return gguf(settings(architecture, **changed), tensors, offset)


def gguf_cases() -> dict[str, bytes]:
    full = (1 << 64) - 1
    one = [("a", [32], 2, 0)]
    return {
        "llama": valid("llama"), "qwen2": valid("qwen2"), "qwen3": valid("qwen3"),
        "layers_huge": valid("llama", block_count=0xFFFFFFFF), "heads_zero": valid("llama", **{"attention.head_count": 0}),
        "q4_0": gguf([], one, 32), "keys_huge": gguf([], [], 0, key_count=full), "tensors_huge": gguf([], [], 0, tensor_count=full),
        "version_2": gguf([], one, 32, version=2), "version_1": gguf([], one, 32, version=1),
        "dimensions_5": gguf([], one, 32, dimensions=5), "product_wraps": gguf([], [("a", [1 << 33, 1 << 33], 0, 0)], 32),
        "offset_wraps": gguf([], [("a", [32], 2, full - 31)], 32), "bytes_wrap": gguf([], [("a", [1 << 62, 3], 0, 0)], 32),
        "overlap": gguf([], [("a", [32], 2, 0), ("b", [32], 2, 0)], 64), "twice": gguf([], one + one, 64),
        "alignment_huge": gguf([u32("general.alignment", 0x80000000)], one, 32),
        "strings": gguf([key("s", ARRAY, struct.pack("<IQ", STRING, 2) + text(b"x") + text(b""))], [], 0),
        "numbers": gguf([key("n", ARRAY, struct.pack("<IQ", U64, 2) + bytes(16))], [], 0),
        "array_wraps": gguf([key("n", ARRAY, struct.pack("<IQ", U64, (1 << 61) + 1))], [], 0),
        "array_of_arrays": gguf([key("n", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", U32, 0))], [], 0),
        "bool_2": gguf([key("b", BOOL, b"\2")], [], 0), "type_99": gguf([key("b", 99, b"")], [], 0),
    }


def safetensors(header: object, data: int) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return text(encoded) + bytes(data)


def safetensors_cases() -> dict[str, bytes]:
    def entry(dtype: str, shape: list, begin: int, end: int) -> dict:
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    two = {"a": entry("F32", [2, 3], 0, 24), "b": entry("BF16", [2], 24, 28)}
    return {
        "two": safetensors(two, 28), "meta": safetensors({"__metadata__": {"format": "pt"}, **two}, 28),
        "scalar": safetensors({"a": entry("F64", [], 0, 8)}, 8), "empty": safetensors({}, 0),
        "gap": safetensors({"a": entry("F32", [1], 4, 8)}, 8), "rest": safetensors(two, 29),
        "overlap": safetensors({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, 4),
        "wraps": safetensors({"a": entry("F32", [1 << 33, 1 << 33], 0, 4)}, 4),
        "negative": safetensors({"a": entry("F32", [-1], 0, 4)}, 4), "float": safetensors({"a": entry("F32", [1.5], 0, 4)}, 4),
        "deep": safetensors(b'{"a":' + b"[" * 2000, 0), "huge_length": struct.pack("<Q", (1 << 64) - 1),
        "twice": safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                             b'"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}', 4),
    }


def main() -> None:
    for folder, cases in (("gguf_header", gguf_cases()), ("safetensors_header", safetensors_cases())):
        (HERE / folder).mkdir(parents=True, exist_ok=True)
        for name, content in cases.items():
            (HERE / folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
