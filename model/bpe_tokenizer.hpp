// Byte-level BPE: text is cut by the pre-tokenizer, the bytes of each piece become tokens, merges
// do the rest. Immutable after make, so any thread.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/bpe_merges.hpp"
#include "model/pretokenizer.hpp"
#include "model/tokenizer_base.hpp"

namespace troupe::model {

struct bpe_settings {
  std::string name;  // of the pre-tokenizer, for people
  pretokenizer_rule rule;
  // "left right" in the byte alphabet; both and their concatenation must be tokens.
  std::vector<std::string_view> merges;
};

class bpe_tokenizer final : public tokenizer_base {
 public:
  static result<std::shared_ptr<const tokenizer>> make(tokenizer_vocab vocab,
                                                       bpe_settings settings);
  std::string description() const override { return "BPE (" + name_ + ")"; }

 private:
  bpe_tokenizer(tokenizer_vocab vocab, const bpe_settings& settings,
                std::unique_ptr<const pretokenizer> splitter, bpe_merges merges);
  void encode_text(std::string_view text, bool starts, std::vector<token_id>& out) const override;
  std::string plain_bytes(token_id id) const override;
  void encode_piece(std::string_view piece, std::vector<token_id>& symbols) const;

  std::string name_;
  bool ignore_merges_;
  std::unique_ptr<const pretokenizer> splitter_;
  bpe_merges merges_;
  std::array<std::optional<token_id>, 256> byte_tokens_;
};

}  // namespace troupe::model
