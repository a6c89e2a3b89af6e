// A device that computes nothing and tells how long it would have taken. Every answer is the token 0. One thread.
#pragma once

#include <vector>

#include "actors/capacity/profile.hpp"
#include "engine/block_sealer.hpp"
#include "gpu/model_runner.hpp"

namespace troupe::actors {

class timed_runner final : public gpu::model_runner {
 public:
  static constexpr std::uint32_t vocab_size =
      256;  // enough for prompts that differ where they should

  explicit timed_runner(const device_profile& profile)
      : profile_(profile), layout_(layout_of(profile)) {}
  static std::size_t arena_bytes(const device_profile& p) {
    return p.num_blocks * layout_of(p).block_bytes();
  }

  const gpu::kv_layout& layout() const override { return layout_; }
  gpu::memory_kind kv_memory() const override { return gpu::memory_kind::host; }
  result<std::span<std::byte>> allocate_kv(std::uint32_t) override {
    return fail(ec::unsupported, "there is no memory behind these blocks");
  }
  result<void> attach_kv(std::span<std::byte>, std::uint32_t) override { return {}; }
  std::size_t weight_bytes() const override { return 0; }
  std::string description() const override { return profile_.device; }

  result<void> submit(const gpu::batch& b) override {
    last_pass_ = std::chrono::nanoseconds(
        static_cast<std::int64_t>(profile_.pass_seconds(b.sequences) * 1e9));
    device_clock_ += last_pass_;
    rows_ = b.num_logits();
    if (logits_.size() < std::size_t{rows_} * vocab_size) logits_.resize(rows_ * vocab_size);
    return {};
  }
  result<gpu::step_output> collect() override {
    return gpu::step_output{std::span(logits_).first(std::size_t{rows_} * vocab_size)};
  }

  std::chrono::nanoseconds last_pass() const { return last_pass_; }
  // Moves by each pass's time: what engine_options::pass_clock reads.
  std::chrono::steady_clock::time_point device_clock() const { return device_clock_; }

 private:
  static gpu::kv_layout layout_of(const device_profile& p) {
    return {1, 1, 1, p.block_tokens, gpu::kv_dtype::f16};
  }
  const device_profile& profile_;
  const gpu::kv_layout layout_;
  std::vector<float> logits_;
  std::uint32_t rows_ = 0;
  std::chrono::nanoseconds last_pass_{};
  std::chrono::steady_clock::time_point device_clock_{};
};

// Nobody reads these blocks, so nobody seals them.
class unsealed_blocks final : public engine::block_sealer {
 public:
  void invalidate(block_id) override {}
  void seal(block_id, const transport::block_tag&) override {}
};

}  // namespace troupe::actors
