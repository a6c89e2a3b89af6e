// SentencePiece-style BPE (https://github.com/google/sentencepiece, bpe_model.cc): characters merge
// by the score of the token they would make, best first, leftmost first; what is no token falls
// back to bytes. Spaces are written as U+2581. Immutable after make, so any thread.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer_base.hpp"

namespace troupe::model {

class spm_tokenizer final : public tokenizer_base {
 public:
  // REQUIRES: the vocabulary has scores.
  static result<std::shared_ptr<const tokenizer>> make(tokenizer_vocab vocab,
                                                       bool add_space_prefix);
  std::string description() const override { return "SentencePiece BPE"; }

 private:
  struct symbol;
  spm_tokenizer(tokenizer_vocab vocab, bool add_space_prefix,
                const std::array<std::optional<token_id>, 256>& byte_tokens);
  void encode_text(std::string_view text, bool starts, std::vector<token_id>& out) const override;
  std::string plain_bytes(token_id id) const override;
  void encode_run(std::string_view run, std::vector<token_id>& out) const;
  void merge(std::string_view run, std::vector<symbol>& symbols) const;
  std::optional<token_id> mergeable(std::string_view text) const;

  bool add_space_prefix_;
  bool space_starts_tokens_ =
      true;  // no token has U+2581 after another character: runs between them are independent
  std::size_t max_length_ = 0;  // bytes of the longest mergeable token
  std::array<std::optional<token_id>, 256> byte_tokens_;
};

}  // namespace troupe::model
