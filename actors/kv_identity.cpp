#include "actors/kv_identity.hpp"

namespace troupe::actors {

hash128_t kv_identity_of(const model::loaded_model& model, const gpu::kv_layout& layout,
                         std::string_view quantization) {
  hash128_stream h;
  std::string text = "troupe kv 1\n" + to_hex(model.digest) + "\n" + std::to_string(layout.hash());
  if (!quantization.empty()) text += "\n" + std::string(quantization);
  h.update(std::as_bytes(std::span(text)));
  return h.digest();
}

std::string identity_text_of(const node_info& info, const gpu::kv_layout& layout) {
  return "model " + info.model_name + " " + info.model_digest.substr(0, 12) + ", KV " +
         layout.description();
}

}  // namespace troupe::actors
