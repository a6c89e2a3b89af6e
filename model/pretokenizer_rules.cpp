#include <array>

#include "model/pretokenizer.hpp"

namespace troupe::model {
namespace {

// Each is the `pre_tokenizer` of the named family's tokenizer.json.
constexpr std::string_view gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Digits(individual_digits) and then GPT-2's in one pass: a digit ends the text that the second
// sees, so spaces before it stay together.
constexpr std::string_view digits_then_gpt2 =
    R"(\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+)";
constexpr std::string_view llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view gpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view tekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view up_to_three_digits = R"(\p{N}{1,3})";
constexpr std::string_view deepseek_cjk =
    R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)";
constexpr std::string_view deepseek_v3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct known_rule {
  std::vector<std::string_view> names;
  std::vector<std::string_view> patterns;
  bool ignore_merges = false;
  bool add_bos = false;
};

const std::array<known_rule, 8>& known_rules() {
  static const std::array<known_rule, 8> rules = {{
      {{"gpt-2", "default", "phi-2", "mpt", "olmo"}, {gpt2}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell"}, {digits_then_gpt2}},
      {{"llama-bpe", "llama3", "llama-v3"}, {llama3}, true, true},
      {{"smaug-bpe", "dbrx"}, {llama3}},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2"}, {qwen2}},
      {{"gpt-4o", "llama4"}, {gpt4o}},
      {{"tekken"}, {tekken}, true, true},
      {{"deepseek-v3"}, {up_to_three_digits, deepseek_cjk, deepseek_v3}},
  }};
  return rules;
}

}  // namespace

result<pretokenizer_rule> find_pretokenizer_rule(std::string_view name) {
  std::string known;
  for (const known_rule& rule : known_rules()) {
    for (const std::string_view other : rule.names) {
      if (name == other)
        return pretokenizer_rule{
            {rule.patterns.begin(), rule.patterns.end()}, rule.ignore_merges, rule.add_bos};
      (known += known.empty() ? "" : ", ") += other;
    }
  }
  return fail(ec::unsupported, "tokenizer.ggml.pre is '" + std::string(name) +
                                   "', whose pattern is not known here; known are: " + known);
}

}  // namespace troupe::model
