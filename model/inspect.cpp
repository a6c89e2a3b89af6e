#include "model/inspect.hpp"

#include <algorithm>

#include "model/architecture.hpp"
#include "model/synthetic.hpp"

namespace troupe::model {

namespace {

std::optional<special_token> token(const metadata& meta, std::string_view key) {
  auto id = meta.get<token_id>(key);
  if (!id) return std::nullopt;
  special_token out{*id, {}};
  if (auto tokens = meta.strings("tokenizer.ggml.tokens"); tokens && *id < tokens->size())
    out.text = (*tokens)[*id];
  return out;
}

std::vector<type_share> shares(const model_source& source) {
  std::vector<type_share> types;
  for (const auto& entry : source.tensors) {
    const auto name = find_stored_type(entry.raw_type)->name;
    auto found =
        std::find_if(types.begin(), types.end(), [&](auto& share) { return share.type == name; });
    if (found == types.end()) found = types.insert(types.end(), {std::string(name), 0, 0});
    ++found->tensors;
    found->bytes += entry.data.size();
  }
  std::sort(types.begin(), types.end(), [](auto& a, auto& b) { return a.bytes > b.bytes; });
  return types;
}

// As open_model does it, short of the digest.
result<void> try_to_load(const model_source& source, model_description& into) {
  TROUPE_TRY(const architecture* arch, architecture_of(source));
  TROUPE_TRY(into.config, read_config(*arch, source));
  TROUPE_CHECK(bind_weights(*arch, *into.config, source));
  return {};
}

}  // namespace

result<model_description> inspect(const std::filesystem::path& path) {
  if (is_synthetic(path)) {
    TROUPE_TRY(const auto made, open_model(path));
    model_description out;
    out.format = "synthetic";
    out.architecture = made->config.architecture;
    out.name = made->synthetic;
    out.types.push_back({synthetic_is_packed(made->synthetic) ? "Q4"
                         : synthetic_is_fp8(made->synthetic)  ? "FP8"
                                                              : "BF16",
                         0, 0});
    out.config = made->config;
    out.vocabulary = made->config.vocab_size;
    return out;
  }
  TROUPE_TRY(auto source, read_source(path));
  const auto& meta = *source.meta;
  model_description out;
  out.format = source.format;
  out.architecture = meta.get_or<std::string>("general.architecture", "").value_or("");
  out.name = meta.get_or<std::string>("general.name", "").value_or("");
  out.file_bytes = source.file_bytes;
  out.files = static_cast<std::uint32_t>(source.files.size());
  out.types = shares(source);
  for (const auto& entry : source.tensors)
    out.parameters += entry.shape[0] * entry.shape[1] * entry.shape[2] * entry.shape[3];
  out.bos = token(meta, "tokenizer.ggml.bos_token_id");
  out.eos = token(meta, "tokenizer.ggml.eos_token_id");
  out.has_chat_template = meta.contains("tokenizer.chat_template");
  if (auto loaded = try_to_load(source, out); !loaded) out.obstacle = loaded.error().detail;
  if (out.config) {
    const auto& config = *out.config;
    out.kv_bytes_per_token = std::uint64_t{2} * 2 * config.num_hidden_layers *
                             config.num_key_value_heads * config.head_dim;
    out.vocabulary = config.vocab_size;
  }
  if (auto tokens = meta.strings("tokenizer.ggml.tokens")) out.vocabulary = tokens->size();
  return out;
}

}  // namespace troupe::model
