// Figures of 4-bit weights, by their tunings (gpu/cuda/gemm.hpp).
#pragma once

namespace troupe::gpu::cuda {

// Products of few rows, alone.
void bench_fourbit_products();
// Whole decode steps: one row as others, and by kernels of its own, by KiB of blocks and MiB ahead.
void bench_fourbit_steps();

}  // namespace troupe::gpu::cuda
