#include "model/bpe_tokenizer.hpp"

#include "model/bpe_alphabet.hpp"
#include "model/metadata.hpp"

namespace troupe::model {
namespace {

tl::unexpected<error> bad_merge(std::size_t index, std::string_view merge, std::string_view why) {
  return fail(ec::corrupt_file, "merge " + std::to_string(index) + " '" + std::string(merge) +
                                    "' " + std::string(why));
}

result<std::vector<bpe_merges::rule>> resolve(const tokenizer_vocab& vocab,
                                              std::span<const std::string_view> merges) {
  std::vector<bpe_merges::rule> rules;
  rules.reserve(merges.size());
  std::string joined;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    // Neither side is empty, and a side may start with a space in vocabularies that are not
    // byte-level.
    const std::size_t space = merge.size() < 3 ? merge.npos : merge.find(' ', 1);
    if (space == merge.npos || space + 1 == merge.size())
      return bad_merge(i, merge, "is not two tokens separated by a space");
    const std::string_view left_text = merge.substr(0, space), right_text = merge.substr(space + 1);
    const auto left = vocab.find(left_text), right = vocab.find(right_text);
    const auto merged = vocab.find((joined = left_text) += right_text);
    if (!left || !right) return bad_merge(i, merge, "names a token that is not in the vocabulary");
    if (!merged) return bad_merge(i, merge, "makes a token that is not in the vocabulary");
    rules.push_back({*left, *right, *merged});
  }
  return rules;
}

}  // namespace

result<std::shared_ptr<const tokenizer>> bpe_tokenizer::make(tokenizer_vocab vocab,
                                                             bpe_settings settings) {
  TROUPE_TRY(auto splitter, pretokenizer::make(settings.rule.patterns));
  TROUPE_TRY(const auto rules, resolve(vocab, settings.merges));
  return std::shared_ptr<const tokenizer>(
      new bpe_tokenizer(std::move(vocab), settings, std::move(splitter), bpe_merges(rules)));
}

bpe_tokenizer::bpe_tokenizer(tokenizer_vocab vocab, const bpe_settings& settings,
                             std::unique_ptr<const pretokenizer> splitter, bpe_merges merges)
    : tokenizer_base(std::move(vocab), settings.rule.add_bos),
      name_(settings.name),
      ignore_merges_(settings.rule.ignore_merges),
      splitter_(std::move(splitter)),
      merges_(std::move(merges)) {
  for (int byte = 0; byte < 256; ++byte)
    byte_tokens_[byte] = this->vocab().find(bpe_character(static_cast<unsigned char>(byte)));
}

void bpe_tokenizer::encode_piece(std::string_view piece, std::vector<token_id>& symbols) const {
  symbols.clear();
  if (ignore_merges_) {
    const auto whole = vocab().find(bpe_text(piece));
    if (whole && vocab().kind(*whole) == token_kind::normal) {
      symbols.push_back(*whole);
      return;
    }
  }
  // A byte without a token is dropped, as `tokenizers` does for vocabularies that lack some
  // (SmolLM2's lacks 21).
  for (const char byte : piece)
    if (const auto id = byte_tokens_[static_cast<unsigned char>(byte)]) symbols.push_back(*id);
  merges_.apply(symbols);
}

void bpe_tokenizer::encode_text(std::string_view text, bool, std::vector<token_id>& out) const {
  std::vector<std::size_t> lengths;
  lengths.reserve(text.size() / 4 + 1);
  splitter_->split(text, lengths);
  std::vector<token_id> symbols;
  for (const std::size_t length : lengths) {
    encode_piece(text.substr(0, length), symbols);
    out.insert(out.end(), symbols.begin(), symbols.end());
    text.remove_prefix(length);
  }
}

std::string bpe_tokenizer::plain_bytes(token_id id) const {
  return bpe_bytes(vocab().text(id));
}

result<std::shared_ptr<const tokenizer>> make_bpe_tokenizer(const metadata& meta) {
  TROUPE_TRY(auto vocab, tokenizer_vocab::make(meta));
  bpe_settings settings;
  TROUPE_TRY(settings.name, meta.get_or<std::string>("tokenizer.ggml.pre", "default"));
  TROUPE_TRY(settings.rule, find_pretokenizer_rule(settings.name));
  TROUPE_TRY(const auto merges, meta.strings("tokenizer.ggml.merges"));
  settings.merges.assign(merges.begin(), merges.end());
  return bpe_tokenizer::make(std::move(vocab), std::move(settings));
}

}  // namespace troupe::model
