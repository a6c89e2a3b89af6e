// What a load, a row and a fence take while the copy engine keeps so many bytes on their way to every multiprocessor.
#pragma once

#include <cstdint>

#include "base/result.hpp"

namespace troupe::gpu::cuda {

struct memory_pace {
  double bytes_per_second = 0;
  double load_clocks = 0;   // of a word in L2
  double row_clocks = 0;    // of 9 KB in L2, by 128 threads
  double fence_clocks = 0;  // a store, a fence of the GPU, an atomic
};

// pieces: of piece_bytes each, per multiprocessor; at most 200 KB. 0: memory is idle.
result<memory_pace> measure_memory_pace(std::uint32_t pieces, std::uint32_t multiprocessors);
inline constexpr std::uint32_t piece_bytes = 9216;

}  // namespace troupe::gpu::cuda
