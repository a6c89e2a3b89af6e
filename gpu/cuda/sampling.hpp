// gpu/sampling.hpp on the GPU, for rows that ask for more than the highest logit (rows.hpp has that): a cluster of up
// to 8 thread blocks a row, which walks the row a few times. Thresholds (top_k, top_p, the most likely tokens) are found by a histogram over the
// distance to the largest logit, then among the tokens of the bucket where the threshold lies; where these are too many,
// ties say, bit by bit.
//
// Stateless; the thread that owns the stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/result.hpp"
#include "gpu/sampling.hpp"

namespace troupe::gpu::cuda {

// row_sampling without its spans.
struct sampling_task {
  std::uint32_t row = 0;     // of the pass's logits
  std::uint32_t sample = 0;  // of `samples`
  sampling_way way = sampling_way::greedy;
  bool logprobs = false;
  std::uint32_t num_top = 0, given = 0, top_k = 0;
  float scale = 1, top_p = 1, min_p = 0;
  std::uint64_t random = 0;
  std::uint32_t first_edit = 0, num_edits = 0;
  std::uint32_t mask = 0;  // of `masks`, or no_mask
};

inline constexpr std::uint32_t no_mask = ~0u;
__host__ __device__ constexpr std::uint32_t mask_words(std::uint32_t vocab) {
  return (vocab + 63) / 64;
}

// Overwrites edited and masked logits, and the edits.
struct sampling_arguments {
  float* logits;  // [..][vocab], rows of the pass from first_row on
  std::uint32_t vocab, first_row;
  std::uint32_t multiprocessors;  // of the card
  const sampling_task* tasks;     // [num_tasks], of a row one at most
  std::uint32_t num_tasks;
  logit_edit* edits;
  const std::uint64_t* masks;  // [..][mask_words(vocab)], row_sampling::allowed
  row_sample* samples;
};
result<void> sample_rows(const sampling_arguments& a, cudaStream_t stream);
// Once a device.
result<void> prepare_sampling();

}  // namespace troupe::gpu::cuda
