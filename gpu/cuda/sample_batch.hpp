// The samples of one pass: what the batch asks of each row of logits, on its way to the device, and what comes back. Rows that
// ask for the highest logit and nothing else have it from the forward pass's own search; the others are tasks of sample_rows.
//
// Masks are there once for all rows that have the same; they come from the caller's memory at every pass.
//
// Owned by the runner, its thread. Allocates at make, and where a pass brings more edits than any before it.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"
#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/sampling.hpp"

namespace troupe::gpu::cuda {

class sample_batch {
 public:
  static result<sample_batch> make(std::uint32_t most_rows, std::uint32_t vocab,
                                   std::uint32_t multiprocessors);

  // Whether there is room for the rows' masks.
  bool has_room(std::span<const row_sampling> rows) const;
  // Begins a pass whose rows of logits are wanted so. REQUIRES: there is room. The stream has done with the pass before.
  result<void> upload(std::span<const row_sampling> rows, cudaStream_t stream);
  // Samples rows [first, + count), whose logits begin at `logits`.
  result<void> enqueue(std::uint32_t first, std::uint32_t count, float* logits,
                       cudaStream_t stream);
  // Once the stream has done all of it; valid until the next upload. argmax: the pass's own search, of each row.
  std::span<const row_sample> read(const unsigned long long* argmax);

 private:
  std::uint32_t mask_of(std::span<const std::uint64_t> allowed);
  result<void> reserve_edits(std::span<const row_sampling> rows);

  std::uint32_t vocab_ = 0, multiprocessors_ = 0, num_rows_ = 0, num_tasks_ = 0;
  std::vector<std::uint32_t> task_rows_;  // the row of the pass that a task is about
  std::vector<row_sample> samples_;
  device_buffer<sampling_task> tasks_;
  pinned_buffer<sampling_task> tasks_host_;
  device_buffer<logit_edit> edits_;
  pinned_buffer<logit_edit> edits_host_;
  device_buffer<std::uint64_t> masks_;  // each that the pass's rows have once
  pinned_buffer<std::uint64_t> masks_host_;
  std::unordered_map<const std::uint64_t*, std::uint32_t> known_masks_;  // by where they came from
  pinned_buffer<row_sample> task_samples_;                               // written by the device
};

}  // namespace troupe::gpu::cuda
