#include "model/infill.hpp"

#include <array>

namespace troupe::model {
namespace {

struct names {
  std::string_view prefix, suffix, middle;
};

// StarCoder and those after it; Qwen2.5-Coder, CodeGemma, Granite; Code Llama; DeepSeek-Coder.
constexpr std::array<names, 4> known = {{
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},
    {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"},
    {"\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"},
    {"<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"},
}};

std::optional<token_id> id_in(const metadata& meta, std::string_view key, const tokenizer& t) {
  const auto id = meta.get<std::uint32_t>(key);
  if (!id || *id >= t.vocab_size()) return std::nullopt;
  return *id;
}

}  // namespace

std::optional<infill_tokens> find_infill_tokens(const tokenizer& t, const metadata& meta) {
  const auto prefix = id_in(meta, "tokenizer.ggml.fim_pre_token_id", t);
  const auto suffix = id_in(meta, "tokenizer.ggml.fim_suf_token_id", t);
  const auto middle = id_in(meta, "tokenizer.ggml.fim_mid_token_id", t);
  if (prefix && suffix && middle) return infill_tokens{*prefix, *suffix, *middle};
  for (const names& n : known) {
    const auto p = t.find(n.prefix), s = t.find(n.suffix), m = t.find(n.middle);
    if (p && s && m) return infill_tokens{*p, *s, *m};
  }
  return std::nullopt;
}

std::vector<token_id> infill_prompt(const tokenizer& t, const infill_tokens& tokens,
                                    std::string_view before, std::string_view behind,
                                    bool add_special) {
  // A beginning of the model's own, then the rest by ids: users' text holds no special tokens.
  std::vector<token_id> ids;
  const auto around = add_special ? t.encode(std::string_view(), true) : std::vector<token_id>();
  if (!around.empty() && t.bos() == around.front()) ids.push_back(around.front());
  const auto add = [&](token_id marker, std::string_view text) {
    ids.push_back(marker);
    const auto more = t.encode(text, false);
    ids.insert(ids.end(), more.begin(), more.end());
  };
  add(tokens.prefix, before);
  add(tokens.suffix, behind);
  ids.push_back(tokens.middle);
  return ids;
}

}  // namespace troupe::model
