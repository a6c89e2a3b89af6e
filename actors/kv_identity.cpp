#include "actors/kv_identity.hpp"

#include <charconv>

namespace troupe::actors {

hash128_t kv_identity_of(const model::loaded_model& model, const gpu::kv_layout& layout,
                         std::string_view quantization) {
  hash128_stream h;
  std::string text = "troupe kv 1\n" + to_hex(model.digest) + "\n" + std::to_string(layout.hash());
  if (!quantization.empty()) text += "\n" + std::string(quantization);
  h.update(std::as_bytes(std::span(text)));
  return h.digest();
}

std::optional<hash128_t> parse_identity(std::string_view hex) {
  if (hex.size() != 32) return std::nullopt;
  hash128_t h;
  for (auto [half, to] :
       {std::pair(hex.substr(0, 16), &h.high), std::pair(hex.substr(16), &h.low)}) {
    const auto read = std::from_chars(half.data(), half.data() + half.size(), *to, 16);
    if (read.ec != std::errc() || read.ptr != half.data() + half.size()) return std::nullopt;
  }
  return h;
}

std::string identity_text_of(const node_info& info, const gpu::kv_layout& layout) {
  return "model " + info.model_name + " " + info.model_digest.substr(0, 12) + ", KV " +
         layout.description();
}

}  // namespace troupe::actors
