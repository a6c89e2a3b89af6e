#!/usr/bin/env python3
"""Writes dequantize_reference.bin: random blocks of every type and what the `gguf` package makes of them.

Run with the Python packages gguf 0.19 and numpy; the outcome is committed, so the tests need no Python.
Per record, little endian: u32 type, u32 rows, u32 columns, the blocks, rows * columns float32.
"""
import pathlib
import struct

import gguf
import numpy as np

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
ROWS, COLUMNS = 3, 512


def main() -> None:
    random = np.random.Generator(np.random.PCG64(20261125))
    with open(pathlib.Path(__file__).with_name("dequantize_reference.bin"), "wb") as out:
        for name in TYPES:
            kind = gguf.GGMLQuantizationType[name]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            # Every bit is random, so scales are subnormal, infinite and NaN too.
            blocks = random.integers(0, 256, (ROWS, COLUMNS // block * size), dtype=np.uint8)
            with np.errstate(all="ignore"):
                values = gguf.dequantize(blocks, kind).astype(np.float32)
            assert values.shape == (ROWS, COLUMNS)
            out.write(struct.pack("<III", int(kind), ROWS, COLUMNS))
            out.write(blocks.tobytes())
            out.write(values.tobytes())


if __name__ == "__main__":
    main()
