#include "gpu/kv_layout.hpp"

#include <array>

#include "base/hash.hpp"

namespace troupe::gpu {

std::string to_string(kv_dtype t) {
  switch (t) {
    case kv_dtype::f16:
      return "f16";
    case kv_dtype::bf16:
      return "bf16";
    case kv_dtype::f32:
      return "f32";
  }
  return "?";
}

std::uint64_t kv_layout::hash() const {
  // A version first: a change of the order of dimensions must give another hash.
  constexpr std::uint32_t version = 1;
  const std::array<std::uint32_t, 6> words{
      version, num_layers, num_kv_heads, head_dim, block_tokens, static_cast<std::uint32_t>(dtype)};
  return hash64(std::as_bytes(std::span(words)));
}

std::string kv_layout::description() const {
  return std::to_string(num_layers) + " layers, " + std::to_string(num_kv_heads) + " kv heads x " +
         std::to_string(head_dim) + ", " + std::to_string(block_tokens) + " tokens, " +
         to_string(dtype);
}

}  // namespace troupe::gpu
