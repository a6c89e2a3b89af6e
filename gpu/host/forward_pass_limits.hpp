// Sizes that the forward_pass*.cpp share. They change speed and memory, never a result.
#pragma once

#include <cstdint>

namespace troupe::gpu::host {

inline constexpr std::uint32_t few_rows_max = 4;  // rows that each worker quantizes for itself
inline constexpr std::uint32_t prepare_rows = 4;  // rows of a quantization task
inline constexpr std::uint32_t row_chunk_max =
    128;  // rows of a matmul task: their activations stay in L2
inline constexpr std::uint32_t attention_rows_max = 32;  // rows of an attention task
inline constexpr std::uint32_t split_rows_max =
    8;  // rows of a pass whose attention may be split by segments
inline constexpr std::uint32_t head_dim_max = 256;
inline constexpr std::uint32_t queries_per_row_max = 16;  // query heads of a KV head
inline constexpr std::uint32_t none = 0xffffffff;         // attention that is not split

inline constexpr std::uint32_t quotient(std::uint32_t n, std::uint32_t size) {  // rounded up
  return (n + size - 1) / size;
}

}  // namespace troupe::gpu::host
