"""The peers' figures in the same run: cuBLAS on Llama-3-8B's products and PyTorch's attention backends."""
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def time_us(call, batch=10, repeats=5):
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(batch):
            call()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / batch)
    return sorted(times)[len(times) // 2]


print("PyTorch", torch.__version__, torch.cuda.get_device_name())
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
print(f"cuBLAS bf16 8192^3: {2 * 8192**3 / time_us(lambda: a @ b) / 1e6:.0f} TFLOP/s")
for name, features, depth in (("qkv", 6144, 4096), ("o", 4096, 4096), ("gate_up", 28672, 4096), ("down", 4096, 14336)):
    w = torch.randn(features, depth, device="cuda", dtype=torch.bfloat16)
    for rows in (1, 64, 256, 512, 8192):
        x = torch.randn(rows, depth, device="cuda", dtype=torch.bfloat16)
        us = time_us(lambda: torch.nn.functional.linear(x, w))
        print(f"cuBLAS {name} rows {rows}: {us:.1f} us, {2 * rows * features * depth / us / 1e6:.1f} TFLOP/s")
for length in (8192, 16384):
    q, k, v = (torch.randn(1, 32, length, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend):
            us = time_us(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), 3)
        print(f"SDPA {backend.name} causal {length}: {us:.1f} us, {2 * length * length * 128 * 32 / us / 1e6:.0f} TFLOP/s")
