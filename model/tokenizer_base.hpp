// What every kind of tokenizer shares: a vocabulary, and the cut of a prompt at its special tokens.
// Immutable after construction, so any thread.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.hpp"
#include "model/tokenizer_vocab.hpp"

namespace troupe::model {

class tokenizer_base : public tokenizer {
 public:
  using tokenizer::encode;
  std::vector<token_id> encode(std::span<const text_segment> segments,
                               bool add_special) const final;
  std::string token_bytes(token_id id, bool render_special) const final;
  std::size_t vocab_size() const final { return vocab_.size(); }
  bool is_special(token_id id) const final;
  std::optional<token_id> bos() const final { return vocab_.bos; }
  const std::vector<token_id>& end_of_generation() const final { return vocab_.end_of_generation; }
  std::optional<token_id> find(std::string_view token_text) const final {
    return vocab_.find(token_text);
  }

 protected:
  // add_bos: what to do when the file does not say.
  tokenizer_base(tokenizer_vocab vocab, bool add_bos);
  const tokenizer_vocab& vocab() const { return vocab_; }

  // Text without special tokens; `starts` if nothing or a special token precedes it.
  virtual void encode_text(std::string_view text, bool starts,
                           std::vector<token_id>& out) const = 0;
  // The bytes that a token which is neither special nor user-defined stands for.
  virtual std::string plain_bytes(token_id id) const = 0;

 private:
  void encode_joined(std::string_view text, std::span<const std::size_t> borders,
                     std::vector<token_id>& out) const;

  tokenizer_vocab vocab_;
  special_token_finder special_;
};

class metadata;
// By the file's own words: its tokenizer.json if it has one, else `tokenizer.ggml.model`.
// At least min_size tokens, filled up with unused ones where the format allows it.
result<std::shared_ptr<const tokenizer>> make_tokenizer(const metadata& meta,
                                                        std::size_t min_size = 0);
result<std::shared_ptr<const tokenizer>> make_bpe_tokenizer(const metadata& meta);  // gpt2
result<std::shared_ptr<const tokenizer>> make_spm_tokenizer(const metadata& meta);  // llama
result<std::shared_ptr<const tokenizer>> make_hf_tokenizer(const metadata& meta,
                                                           std::size_t min_size);  // tokenizer.json

}  // namespace troupe::model
