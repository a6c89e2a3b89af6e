#include "model/tokenizer.hpp"

#include "model/metadata.hpp"
#include "model/model.hpp"
#include "model/tokenizer_base.hpp"

namespace troupe::model {

result<std::shared_ptr<const tokenizer>> tokenizer::make(const loaded_model& model) {
  TROUPE_ASSERT(model.meta != nullptr);
  return make_tokenizer(*model.meta, model.config.vocab_size);
}

result<std::shared_ptr<const tokenizer>> make_tokenizer(const metadata& meta,
                                                        std::size_t min_size) {
  if (meta.contains(metadata_keys::hf_tokenizer_json)) return make_hf_tokenizer(meta, min_size);
  if (!meta.contains("tokenizer.ggml.model"))
    return fail(ec::unsupported,
                meta.source() + ": the file has no tokenizer (tokenizer.ggml.model)");
  TROUPE_TRY(const auto kind, meta.get<std::string>("tokenizer.ggml.model"));
  if (kind == "gpt2") return make_bpe_tokenizer(meta);
  if (kind == "llama") return make_spm_tokenizer(meta);
  return fail(ec::unsupported,
              meta.source() + ": tokenizer.ggml.model is '" + kind + "'; known are gpt2 and llama");
}

std::vector<token_id> tokenizer::encode(std::string_view text, bool add_special,
                                        bool parse_special) const {
  const text_segment segment{std::string(text), parse_special};
  return encode(std::span(&segment, 1), add_special);
}

std::string tokenizer::decode(std::span<const token_id> ids, bool render_special) const {
  std::string out;
  for (const token_id id : ids) out += token_bytes(id, render_special);
  return out;
}

}  // namespace troupe::model
