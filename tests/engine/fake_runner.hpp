// A device whose logits are a hash of everything that attention would read: the KV of every position, from the arena,
// through the block table. A wrong, stale or overwritten block, a wrong position or a wrong token changes them.
#pragma once

#include <cstring>
#include <limits>
#include <vector>

#include "engine/sampler.hpp"
#include "gpu/model_runner.hpp"

namespace troupe::engine::testing {

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {  // splitmix64's finalizer over both
  std::uint64_t z = a * 0x9E3779B97F4A7C15ull + b + 0xD1B54A32D192ED03ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

struct fake_runner_options {
  std::uint32_t block_tokens = 4;
  std::uint32_t vocab_size = 40;
  std::uint32_t max_rows = 1024;
  gpu::memory_kind memory = gpu::memory_kind::host;
  token_id poison = ~token_id{0};  // a row of this token has logits that are not numbers
  bool samples = false;            // as a device that samples itself
};

class fake_runner final : public gpu::model_runner {
 public:
  explicit fake_runner(std::uint32_t num_blocks, const fake_runner_options& options = {})
      : options_(options),
        layout_{1, 1, 2, options.block_tokens, gpu::kv_dtype::f32},
        num_blocks_(num_blocks) {
    storage_.resize(num_blocks * layout_.block_bytes() / sizeof(line));
  }

  const gpu::kv_layout& layout() const override { return layout_; }
  gpu::memory_kind kv_memory() const override { return options_.memory; }
  result<std::span<std::byte>> allocate_kv(std::uint32_t) override { return arena(); }
  result<void> attach_kv(std::span<std::byte>, std::uint32_t) override { return {}; }
  std::size_t weight_bytes() const override { return 0; }
  std::string description() const override { return "fake"; }

  std::span<std::byte> arena() { return std::as_writable_bytes(std::span(storage_)); }
  std::span<std::byte> block(block_id b) {
    return arena().subspan(b * layout_.block_bytes(), layout_.block_bytes());
  }
  std::uint32_t num_blocks() const { return num_blocks_; }
  std::uint32_t vocab_size() const { return options_.vocab_size; }
  std::uint32_t largest_batch() const { return largest_batch_; }
  std::uint32_t total_rows() const { return total_rows_; }
  std::uint32_t num_passes() const { return num_passes_; }
  void fail_next(error e) { failure_ = std::move(e); }

  result<void> submit(const gpu::batch& b) override {
    if (failure_.code != ec::none)
      return tl::unexpected(std::exchange(failure_, error{ec::none, {}}));
    TROUPE_ASSERT(b.num_rows() > 0 && b.num_rows() <= options_.max_rows);
    total_rows_ += b.num_rows();
    ++num_passes_;
    largest_batch_ = std::max(largest_batch_, b.num_rows());
    logits_.clear();
    // As on a device, all KV of the pass is written before any of it is read by another sequence.
    for (const auto& s : b.sequences)
      for (std::size_t i = 0; i < s.tokens.size(); ++i) {
        const auto position = static_cast<std::uint32_t>(s.first_position + i);
        const std::uint64_t kv = mix(read_all(s, position), mix(s.tokens[i], position));
        std::memcpy(slot(s, position), &kv, sizeof kv);
      }
    for (const auto& s : b.sequences)
      for (std::size_t i = s.tokens.size() - s.num_logits; i < s.tokens.size(); ++i)
        add_logits(s.tokens[i], read_all(s, static_cast<std::uint32_t>(s.first_position + i + 1)));
    samples_.clear();
    if (!options_.samples) return {};
    for (std::size_t i = 0; i < b.sampling.size(); ++i)
      samples_.push_back(sampler_.sample(
          std::span(logits_).subspan(i * options_.vocab_size, options_.vocab_size), b.sampling[i]));
    return {};
  }
  result<gpu::step_output> collect() override {
    if (samples_.empty()) return gpu::step_output{logits_};
    return gpu::step_output{{}, samples_};
  }

 private:
  struct alignas(64) line {
    std::byte bytes[64];
  };

  std::byte* slot(const gpu::sequence_rows& s, std::uint32_t position) {
    const std::uint32_t index = position / options_.block_tokens;
    TROUPE_ASSERT(index < s.block_table.size() && s.block_table[index] < num_blocks_);
    return block(s.block_table[index]).data() + (position % options_.block_tokens) * 8;
  }
  std::uint64_t read_all(const gpu::sequence_rows& s, std::uint32_t count) {
    std::uint64_t h = 1;
    for (std::uint32_t p = 0; p < count; ++p) {
      std::uint64_t kv = 0;
      std::memcpy(&kv, slot(s, p), sizeof kv);
      h = mix(h, kv);
    }
    return h;
  }
  void add_logits(token_id token, std::uint64_t h) {
    for (std::uint32_t v = 0; v < options_.vocab_size; ++v) {
      const float x = static_cast<float>(mix(h, v) >> 40) / static_cast<float>(1 << 22) - 2.0f;
      logits_.push_back(token == options_.poison ? std::numeric_limits<float>::quiet_NaN() : x);
    }
  }

  fake_runner_options options_;
  gpu::kv_layout layout_;
  std::uint32_t num_blocks_;
  std::uint32_t largest_batch_ = 0, total_rows_ = 0, num_passes_ = 0;
  std::vector<line> storage_;
  std::vector<float> logits_;
  sampler sampler_{options_.vocab_size};
  std::vector<gpu::row_sample> samples_;
  error failure_{ec::none, {}};
};

}  // namespace troupe::engine::testing
