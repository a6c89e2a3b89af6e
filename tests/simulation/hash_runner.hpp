// A device for simulations: its logits are a hash of every byte of KV that attention would read, from the arena,
// through the block table. A wrong, stale or overwritten block, a wrong position or a wrong token changes them, always:
// a real model often gives the same token from slightly wrong KV. And it costs a microsecond a token.
#pragma once

#include <cstring>
#include <vector>

#include "gpu/model_runner.hpp"

namespace troupe::simulation {

class hash_runner final : public gpu::model_runner {
 public:
  hash_runner(std::uint32_t block_tokens, std::uint32_t vocab_size)
      : layout_{1, 1, 2, block_tokens, gpu::kv_dtype::f32}, vocab_size_(vocab_size) {}

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
  void lose() { lost_ = true; }  // every pass from now on fails

  result<void> submit(const gpu::batch& b) override {
    if (lost_) return fail(ec::device_lost, "the simulated device is gone");
    logits_.clear();
    // As on a device, all KV of the pass is written before any of it is read by another sequence.
    for (const auto& s : b.sequences)
      for (std::size_t i = 0; i < s.tokens.size(); ++i) {
        const auto position = static_cast<std::uint32_t>(s.first_position + i);
        const std::uint64_t h = read_all(s, position);
        const std::uint64_t kv[2] = {mix(h, mix(s.tokens[i], position)), mix(h, ~position)};
        std::memcpy(slot(s, position), kv, sizeof kv);
      }
    for (const auto& s : b.sequences)
      for (std::size_t i = s.tokens.size() - s.num_logits; i < s.tokens.size(); ++i)
        add_logits(read_all(s, static_cast<std::uint32_t>(s.first_position + i + 1)));
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
  std::byte* slot(const gpu::sequence_rows& s, std::uint32_t position) {
    const std::uint32_t index = position / layout_.block_tokens;
    TROUPE_ASSERT(index < s.block_table.size() && s.block_table[index] < num_blocks_);
    return arena_.data() + s.block_table[index] * layout_.block_bytes() +
           (position % layout_.block_tokens) * 16;
  }
  std::uint64_t read_all(const gpu::sequence_rows& s, std::uint32_t count) {
    std::uint64_t h = 1;
    for (std::uint32_t p = 0; p < count; ++p) {
      std::uint64_t kv[2];
      std::memcpy(kv, slot(s, p), sizeof kv);
      h = mix(mix(h, kv[0]), kv[1]);
    }
    return h;
  }
  void add_logits(std::uint64_t h) {
    for (std::uint32_t v = 0; v < vocab_size_; ++v)
      logits_.push_back(static_cast<float>(mix(h, v) >> 40) / static_cast<float>(1 << 22) - 2.0f);
  }

  const gpu::kv_layout layout_;
  const std::uint32_t vocab_size_;
  std::span<std::byte> arena_;
  std::uint32_t num_blocks_ = 0;
  std::vector<float> logits_;
  bool lost_ = false;
};

}  // namespace troupe::simulation
