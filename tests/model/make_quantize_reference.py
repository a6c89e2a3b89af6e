#!/usr/bin/env python3
"""Writes quantize_reference.bin: random rows and what the `gguf` package makes of them.

Run with the Python packages gguf 0.19 and numpy; the outcome is committed, so the tests need no Python.
Per record, little endian: u32 type, u32 rows, u32 columns, rows * columns float32, the blocks.
"""
import pathlib
import struct

import gguf
import numpy as np

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
ROWS, COLUMNS = 4, 256


def main() -> None:
    random = np.random.Generator(np.random.PCG64(20261125))
    with open(pathlib.Path(__file__).with_name("quantize_reference.bin"), "wb") as out:
        for name in TYPES:
            kind = gguf.GGMLQuantizationType[name]
            rows = random.standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.05
            rows[1] *= 30  # large, and of one sign
            rows[1] = np.abs(rows[1])
            rows[2, :32] = 0  # nothing at all in a block
            rows[2, 32:64] = 0.25  # all the same
            rows[3] *= 1e-6  # scales that are subnormal in half precision
            blocks = gguf.quantize(rows, kind)
            out.write(struct.pack("<III", int(kind), ROWS, COLUMNS))
            out.write(rows.tobytes())
            out.write(np.ascontiguousarray(blocks).tobytes())


if __name__ == "__main__":
    main()
