// tokenizer.json of Hugging Face `tokenizers` (https://huggingface.co/docs/tokenizers/api/tokenizer), as far as
// byte-level BPE goes: vocabulary, merges, added tokens, and the regular expressions of the pre-tokenizer.
// Unicode normalization (Qwen2 asks for NFC) is not done: text is taken as it comes.
#include <cctype>
#include <nlohmann/json.hpp>

#include "model/bpe_tokenizer.hpp"
#include "model/metadata.hpp"
#include "model/strict_json.hpp"
#include "model/tokenizer_base.hpp"

namespace troupe::model {
namespace {

using nlohmann::json;

constexpr std::uint64_t max_token_id = (1u << 24) - 1;

// A member, or null where there is none.
const json& member(const json& of, const char* name) {
  static const json null;
  if (!of.is_object()) return null;
  const auto it = of.find(name);
  return it == of.end() ? null : *it;
}

std::string string_member(const json& of, const char* name) {
  const json& held = member(of, name);
  return held.is_string() ? held.get<std::string>() : std::string();
}

bool flag_member(const json& of, const char* name, bool fallback) {
  const json& held = member(of, name);
  return held.is_boolean() ? held.get<bool>() : fallback;
}

tl::unexpected<error> unsupported(std::string what) {
  return fail(ec::unsupported, "tokenizer.json: " + std::move(what));
}
tl::unexpected<error> corrupt(std::string what) {
  return fail(ec::corrupt_file, "tokenizer.json: " + std::move(what));
}

struct vocabulary {
  std::vector<std::string> texts;
  std::vector<token_kind> kinds;

  result<void> put(const std::string& text, const json& id, token_kind kind) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > max_token_id)
      return corrupt("the id of token '" + text + "' is not a token id");
    const auto at = id.get<std::size_t>();
    if (at >= texts.size()) {
      texts.resize(at + 1);
      kinds.resize(at + 1, token_kind::unused);
    }
    texts[at] = text;
    kinds[at] = kind;
    return {};
  }
};

result<vocabulary> read_vocabulary(const json& root) {
  vocabulary made;
  const json& vocab = member(member(root, "model"), "vocab");
  if (!vocab.is_object()) return corrupt("model.vocab is not an object");
  for (const auto& [text, id] : vocab.items()) TROUPE_CHECK(made.put(text, id, token_kind::normal));
  const json& added = member(root, "added_tokens");
  if (!added.is_null() && !added.is_array()) return corrupt("added_tokens is not a list");
  for (const json& one : added) {
    const auto kind =
        flag_member(one, "special", false) ? token_kind::control : token_kind::user_defined;
    TROUPE_CHECK(made.put(string_member(one, "content"), member(one, "id"), kind));
  }
  return made;
}

// "a b" or ["a", "b"].
result<std::vector<std::string>> read_merges(const json& root) {
  const json& merges = member(member(root, "model"), "merges");
  if (!merges.is_array()) return corrupt("model.merges is not a list");
  std::vector<std::string> made;
  made.reserve(merges.size());
  for (const json& one : merges) {
    if (one.is_string()) {
      made.push_back(one.get<std::string>());
    } else if (one.is_array() && one.size() == 2 && one[0].is_string() && one[1].is_string()) {
      made.push_back(one[0].get<std::string>() + " " + one[1].get<std::string>());
    } else {
      return corrupt("merge " + std::to_string(made.size()) + " is not a pair of tokens");
    }
  }
  return made;
}

// The literal `text` as a pattern.
std::string quote_pattern(std::string_view text) {
  std::string made;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && std::isalnum(static_cast<unsigned char>(c)) == 0)
      made += '\\';
    made += c;
  }
  return made;
}

// Appends the stages of a pre-tokenizer; true if one of them is ByteLevel.
result<bool> read_pretokenizer(const json& of, std::vector<std::string>& patterns) {
  const std::string type = string_member(of, "type");
  if (type == "Sequence") {
    bool byte_level = false;
    for (const json& one : member(of, "pretokenizers")) {
      TROUPE_TRY(const bool found, read_pretokenizer(one, patterns));
      byte_level = byte_level || found;
    }
    return byte_level;
  }
  if (type == "ByteLevel") {
    if (flag_member(of, "add_prefix_space", false))
      return unsupported("ByteLevel with add_prefix_space");
    if (flag_member(of, "use_regex", true)) {
      TROUPE_TRY(const auto rule, find_pretokenizer_rule("gpt-2"));
      patterns.push_back(rule.patterns[0]);
    }
    return true;
  }
  if (type == "Digits") {
    patterns.emplace_back(flag_member(of, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
    return false;
  }
  if (type == "Split") {
    const json& pattern = member(of, "pattern");
    const std::string behavior = string_member(of, "behavior");
    const bool inverted = flag_member(of, "invert", false);
    // Patterns that are inverted and then removed match all there is: what they leave is the matches.
    if (!(behavior == "Isolated" && !inverted) && !(behavior == "Removed" && inverted))
      return unsupported("Split with behavior '" + behavior + "'");
    const std::string literal = string_member(pattern, "String");
    patterns.push_back(literal.empty() ? string_member(pattern, "Regex") : quote_pattern(literal));
    return false;
  }
  return unsupported("the pre-tokenizer '" + type + "'");
}

// TemplateProcessing is where bos and eos around a text are said.
void read_post_processor(const json& of, tokenizer_vocab& vocab) {
  for (const json& one : member(of, "processors")) read_post_processor(one, vocab);
  const json& single = member(of, "single");
  if (string_member(of, "type") != "TemplateProcessing" || !single.is_array() || single.empty())
    return;
  const auto special = [&](const json& part) -> std::optional<token_id> {
    const std::string name = string_member(member(part, "SpecialToken"), "id");
    return name.empty() ? std::nullopt : vocab.find(name);
  };
  const auto first = special(single.front()), last = special(single.back());
  if (!vocab.add_bos) vocab.add_bos = first.has_value();
  if (first) vocab.bos = first;
  if (!vocab.add_eos) vocab.add_eos = single.size() > 1 && last.has_value();
}

result<void> check_model(const json& root) {
  const json& model = member(root, "model");
  const std::string type = string_member(model, "type");
  if (!type.empty() && type != "BPE") return unsupported("the model '" + type + "'; known is BPE");
  if (flag_member(model, "byte_fallback", false))
    return unsupported("BPE with byte_fallback (SentencePiece style); use the model's GGUF");
  const std::string normalizer = string_member(member(root, "normalizer"), "type");
  const bool none =
      normalizer == "Sequence" && member(member(root, "normalizer"), "normalizers").empty();
  if (!normalizer.empty() && normalizer != "NFC" && !none)
    return unsupported("the normalizer '" + normalizer + "'");
  return {};
}

}  // namespace

result<std::shared_ptr<const tokenizer>> make_hf_tokenizer(const metadata& meta,
                                                           std::size_t min_size) {
  TROUPE_TRY(const auto source, meta.get<std::string_view>(metadata_keys::hf_tokenizer_json));
  TROUPE_TRY(const json root, parse_strict_json(source, meta.source() + ": tokenizer.json"));
  TROUPE_CHECK(check_model(root));
  TROUPE_TRY(vocabulary tokens, read_vocabulary(root));
  // Embeddings often have more rows than there are tokens; a row that is sampled needs a text, if an empty one.
  if (tokens.texts.size() < min_size && min_size <= max_token_id + 1) {
    tokens.texts.resize(min_size);
    tokens.kinds.resize(min_size, token_kind::unused);
  }
  TROUPE_TRY(auto vocab,
             tokenizer_vocab::make(meta, std::move(tokens.texts), std::move(tokens.kinds)));
  read_post_processor(member(root, "post_processor"), vocab);
  bpe_settings settings;
  settings.name = "tokenizer.json";
  TROUPE_TRY(const bool byte_level,
             read_pretokenizer(member(root, "pre_tokenizer"), settings.rule.patterns));
  if (!byte_level) return unsupported("BPE that is not byte-level");
  settings.rule.ignore_merges = flag_member(member(root, "model"), "ignore_merges", false);
  TROUPE_TRY(const auto merges, read_merges(root));
  settings.merges.assign(merges.begin(), merges.end());
  return bpe_tokenizer::make(std::move(vocab), std::move(settings));
}

}  // namespace troupe::model
