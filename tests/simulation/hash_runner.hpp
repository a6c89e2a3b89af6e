// A device for simulations: its logits are a hash of every byte of KV that attention would read, from the arena,
// through the block table. A wrong, stale or overwritten block, a wrong position or a wrong token changes them, always:
// a real model often gives the same token from slightly wrong KV. And it costs a microsecond a token.
//
// Peaked ones have one token in each place that is likely, more or less, as of a model. A draft's are the target's but for
// a share of places in which they are others: there it guesses wrongly.
#pragma once

#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include "gpu/model_runner.hpp"

namespace troupe::simulation {

class hash_runner final : public gpu::model_runner {
 public:
  struct logits_kind {
    bool peaked = false;
    std::uint32_t other_percent = 0;  // of places whose logits are not the target's
  };
  hash_runner(std::uint32_t block_tokens, std::uint32_t vocab_size, logits_kind kind)
      : layout_{1, 1, 2, block_tokens, gpu::kv_dtype::f32}, vocab_size_(vocab_size), kind_(kind) {}

  const gpu::kv_layout& layout() const override { return layout_; }
  gpu::memory_kind kv_memory() const override { return gpu::memory_kind::host; }
  result<std::span<std::byte>> allocate_kv(std::uint32_t) override {
    return fail(ec::unsupported, "host memory comes from the transport");
  }
  result<void> attach_kv(std::span<std::byte> arena, std::uint32_t num_blocks) override {
    arena_ = arena;
    num_blocks_ = num_blocks;
    return {};
  }
  std::size_t weight_bytes() const override { return 0; }
  std::string description() const override { return "hashes, 1 thread"; }
  void lose() { lost_ = true; }                                    // every pass from now on fails
  std::chrono::nanoseconds computed() const { return computed_; }  // time that its passes took
  // Whether the blocks hold what these tokens make, from the first on.
  bool holds(std::span<const token_id> tokens, std::span<const block_id> table) {
    std::uint64_t h = 1;
    for (std::uint32_t p = 0; p < tokens.size(); ++p) {
      const auto kv = made_of(h, tokens[p], p);
      if (std::memcmp(slot(table, p), kv.data(), sizeof kv) != 0) return false;
      h = mix(mix(h, kv[0]), kv[1]);
    }
    return true;
  }

  result<void> submit(const gpu::batch& b) override {
    if (lost_) return fail(ec::device_lost, "the simulated device is gone");
    logits_.clear();
    std::size_t rows = 0;
    // As on a device, all KV of the pass is written before any of it is read by another sequence.
    for (const auto& s : b.sequences)
      for (std::size_t i = 0; i < s.tokens.size(); ++i) {
        TROUPE_ASSERT(s.tokens[i] < vocab_size_);  // a device would read beyond its embeddings
        const auto position = static_cast<std::uint32_t>(s.first_position + i);
        const auto kv = made_of(read_all(s, position), s.tokens[i], position);
        std::memcpy(slot(s.block_table, position), kv.data(), sizeof kv);
        ++rows;
      }
    for (const auto& s : b.sequences)
      for (std::size_t i = s.tokens.size() - s.num_logits; i < s.tokens.size(); ++i)
        add_logits(read_all(s, static_cast<std::uint32_t>(s.first_position + i + 1)));
    computed_ += std::chrono::microseconds(300 + 40 * rows);
    return {};
  }
  result<gpu::step_output> collect() override { return gpu::step_output{logits_}; }

 private:
  static std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
    std::uint64_t z = a * 0x9E3779B97F4A7C15ull + b + 0xD1B54A32D192ED03ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  static std::array<std::uint64_t, 2> made_of(std::uint64_t before, token_id token,
                                              std::uint32_t position) {
    return {mix(before, mix(token, position)), mix(before, ~position)};
  }
  std::byte* slot(std::span<const block_id> table, std::uint32_t position) {
    const std::uint32_t index = position / layout_.block_tokens;
    TROUPE_ASSERT(index < table.size() && table[index] < num_blocks_);
    return arena_.data() + table[index] * layout_.block_bytes() +
           (position % layout_.block_tokens) * 16;
  }
  std::uint64_t read_all(const gpu::sequence_rows& s, std::uint32_t count) {
    std::uint64_t h = 1;
    for (std::uint32_t p = 0; p < count; ++p) {
      std::uint64_t kv[2];
      std::memcpy(kv, slot(s.block_table, p), sizeof kv);
      h = mix(mix(h, kv[0]), kv[1]);
    }
    return h;
  }
  void add_logits(std::uint64_t h) {
    if (mix(h, 1005) % 100 < kind_.other_percent) h = mix(h, 1007);
    const auto first = logits_.size();
    for (std::uint32_t v = 0; v < vocab_size_; ++v)
      logits_.push_back(static_cast<float>(mix(h, v) >> 40) / static_cast<float>(1 << 22) - 2.0f);
    if (kind_.peaked)
      logits_[first + mix(h, 1011) % vocab_size_] += 2.0f + static_cast<float>(mix(h, 1013) % 9);
  }

  const gpu::kv_layout layout_;
  const std::uint32_t vocab_size_;
  const logits_kind kind_;
  std::span<std::byte> arena_;
  std::uint32_t num_blocks_ = 0;
  std::vector<float> logits_;
  std::chrono::nanoseconds computed_{0};
  bool lost_ = false;
};

}  // namespace troupe::simulation
