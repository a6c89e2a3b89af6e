// The KV block: one unit for memory, transfer, cache, store and migration (docs/DESIGN.md section
// 3).
//
// A block holds block_tokens tokens for all layers, contiguous:
//   [layer][K|V][kv_head][token][head_dim], then a 64-byte fence (transport/fence.hpp) at
//   payload_bytes().
// K is stored after RoPE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace troupe::gpu {

enum class kv_dtype : std::uint8_t { f16, bf16, f32 };
inline constexpr std::size_t size_of(kv_dtype t) {
  return t == kv_dtype::f32 ? 4 : 2;
}
std::string to_string(kv_dtype t);

inline constexpr std::size_t fence_bytes = 64;

struct kv_layout {
  std::uint32_t num_layers = 0;
  std::uint32_t num_kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 16;
  kv_dtype dtype = kv_dtype::f16;

  std::size_t head_bytes() const {
    return std::size_t{block_tokens} * head_dim * size_of(dtype);
  }  // one K or V head
  std::size_t layer_bytes() const { return 2 * num_kv_heads * head_bytes(); }
  std::size_t payload_bytes() const { return num_layers * layer_bytes(); }
  // Distance of blocks in an arena: payload, fence, padded to 64.
  std::size_t block_bytes() const { return (payload_bytes() + fence_bytes + 63) / 64 * 64; }
  std::size_t bytes_per_token() const { return payload_bytes() / block_tokens; }
  std::uint32_t blocks_for(std::uint64_t tokens) const {
    return static_cast<std::uint32_t>((tokens + block_tokens - 1) / block_tokens);
  }
  std::uint64_t hash() const;       // equal hashes: blocks can be exchanged
  std::string description() const;  // "30 layers, 3 kv heads x 64, 16 tokens, f16"
  friend bool operator==(const kv_layout&, const kv_layout&) = default;
};

}  // namespace troupe::gpu
