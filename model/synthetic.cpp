#include "model/synthetic.hpp"

#include <vector>

#include "base/hash.hpp"
#include "model/bpe_alphabet.hpp"
#include "model/metadata.hpp"

namespace troupe::model {
namespace {

constexpr std::string_view prefix = "synthetic:";

model_config llama(std::string_view name, std::uint32_t layers, std::uint32_t hidden,
                   std::uint32_t intermediate, std::uint32_t heads) {
  model_config c;
  c.architecture = "llama";
  c.name = name;
  c.vocab_size = 128256;
  c.hidden_size = hidden;
  c.intermediate_size = intermediate;
  c.num_hidden_layers = layers;
  c.num_attention_heads = heads;
  c.num_key_value_heads = 8;
  c.head_dim = 128;
  c.max_position_embeddings = 32768;
  c.rope.theta = 500000.0f;
  c.rope.dimensions = 128;
  return c;
}

std::shared_ptr<metadata> byte_tokenizer(std::string_view name, std::uint32_t vocab_size) {
  auto meta = std::make_shared<metadata>("synthetic " + std::string(name));
  std::vector<std::string> texts;
  for (std::uint32_t id = 0; id < vocab_size; ++id)
    texts.push_back(id < 256 ? std::string(bpe_character(static_cast<unsigned char>(id)))
                             : "<|" + std::to_string(id) + "|>");
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  meta->set_string("tokenizer.ggml.model", "gpt2");
  meta->set_string("tokenizer.ggml.pre", "gpt-2");
  meta->set_strings("tokenizer.ggml.tokens", views);
  meta->set_strings("tokenizer.ggml.merges", {});
  return meta;
}

}  // namespace

bool is_synthetic(const std::filesystem::path& path) {
  return path.native().starts_with(prefix);
}

std::filesystem::path synthetic_path(std::string_view name) {
  return std::string(prefix) + std::string(name);
}

result<model_config> synthetic_config(std::string_view name) {
  std::string_view shape = name;
  if (synthetic_is_packed(name)) shape.remove_suffix(3);
  if (synthetic_is_fp8(name)) shape.remove_suffix(4);
  if (shape == "llama-3-8b") return llama(name, 32, 4096, 14336, 32);
  if (shape == "llama-3-70b-slice") return llama(name, 8, 8192, 28672, 64);
  if (shape == "tiny") {
    model_config c = llama(name, 2, 512, 1024, 8);
    c.num_key_value_heads = 2;
    c.head_dim = 64;
    c.rope.dimensions = 64;
    c.vocab_size = 1000;
    return c;
  }
  return fail(ec::not_found,
              "there is no synthetic model '" + std::string(name) +
                  "'; use llama-3-8b, llama-3-70b-slice or tiny, or one of them with :q4 or :fp8");
}

result<std::shared_ptr<const loaded_model>> open_synthetic(std::string_view name) {
  auto made = std::make_shared<loaded_model>();
  TROUPE_TRY(made->config, synthetic_config(name));
  made->synthetic = name;
  hash128_stream identity;
  const std::string text = "troupe synthetic model 2\n" + std::string(name);
  identity.update(std::as_bytes(std::span(text)));
  made->digest = identity.digest();
  made->meta = byte_tokenizer(name, made->config.vocab_size);
  return made;
}

}  // namespace troupe::model
