// room: model
// Text to tokens and back over small vocabularies of both kinds: what has a token for every byte comes back as it was,
// and a control token never comes from text that may not hold one.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "model/bpe_alphabet.hpp"
#include "model/tokenizer_base.hpp"
#include "tests/model/tokenizer_metadata.hpp"

using namespace troupe;
using namespace troupe::model;
using troupe::testing::vocab_description;

namespace {

std::shared_ptr<const tokenizer> make_bpe(const char* pre) {
  vocab_description from{.pre = pre};
  for (int byte = 0; byte < 256; ++byte)
    from.tokens.emplace_back(bpe_character(static_cast<unsigned char>(byte)));
  for (const auto& [left, right] :
       {std::pair{"a", "a"}, {"aa", "aa"}, {"Ġ", "a"}, {"Ġ", "Ġ"}, {"a", "b"}, {"aa", "b"}}) {
    from.merges.push_back(std::string(left) + " " + right);
    from.tokens.push_back(std::string(left) + right);
  }
  from.types.assign(from.tokens.size(), 1);
  from.tokens.insert(from.tokens.end(), {"<|a|>", "<|a|>b"});
  from.types.insert(from.types.end(), {3, 3});
  return *make_tokenizer(*testing::make_metadata(from));
}

std::shared_ptr<const tokenizer> make_spm() {
  vocab_description from{.model = "llama", .pre = ""};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    from.tokens.push_back({'<', '0', 'x', digits[byte / 16], digits[byte % 16], '>'});
    from.types.push_back(6);
    from.scores.push_back(0);
  }
  for (const char* text : {"▁", "a", "▁a", "aa", "b", "ab", "é", "aab", "▁▁"}) {
    from.tokens.emplace_back(text);
    from.types.push_back(1);
    from.scores.push_back(-static_cast<float>(from.tokens.size() % 5));
  }
  from.tokens.emplace_back("<|a|>");
  from.types.push_back(3);
  from.scores.push_back(0);
  from.flags["add_space_prefix"] = false;
  return *make_tokenizer(*testing::make_metadata(from));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::array tokenizers = {make_bpe("smollm"),      make_bpe("llama-bpe"),
                                        make_bpe("qwen2"),       make_bpe("gpt-4o"),
                                        make_bpe("deepseek-v3"), make_spm()};
  if (size == 0) return 0;
  const tokenizer& tok = *tokenizers[data[0] % tokenizers.size()];
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  // SentencePiece writes a space and U+2581 alike.
  const bool reversible = &tok != tokenizers.back().get() || text.find("▁") == text.npos;
  const auto plain = tok.encode(text, false);
  for (const token_id id : plain)
    if (id >= tok.vocab_size() || tok.is_special(id)) std::abort();
  if (reversible && tok.decode(plain) != text) std::abort();
  if (reversible && tok.decode(tok.encode(text, false, true), true) != text) std::abort();
  // Where segments meet does not matter to text.
  const std::size_t cut = size > 1 ? data[1] % (text.size() + 1) : 0;
  const std::vector<text_segment> parts = {{text.substr(0, cut), false}, {text.substr(cut), false}};
  if (tok.encode(parts, false) != plain) std::abort();
  return 0;
}
