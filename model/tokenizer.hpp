// Text to token ids and back, as the model's file defines it.
//
// Byte-level BPE with the file's pre-tokenizer pattern (GGUF `tokenizer.ggml.model` = gpt2) and
// SentencePiece-style vocabularies (= llama). Immutable after make, so any thread.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::model {

struct loaded_model;

// A piece of a prompt. Only template text may hold special tokens: `<|im_end|>` typed by a user
// stays text.
struct text_segment {
  std::string text;
  bool parse_special = false;
};

class tokenizer {
 public:
  static result<std::shared_ptr<const tokenizer>> make(const loaded_model& model);
  virtual ~tokenizer() = default;

  // Adds bos/eos as the file asks for when add_special. Invalid UTF-8 is encoded byte by byte,
  // never an error.
  virtual std::vector<token_id> encode(std::span<const text_segment> segments,
                                       bool add_special) const = 0;
  std::vector<token_id> encode(std::string_view text, bool add_special,
                               bool parse_special = false) const;

  // The bytes of one token; may be part of a UTF-8 sequence. Special tokens give their text if
  // render_special, else nothing. REQUIRES: id < vocab_size().
  virtual std::string token_bytes(token_id id, bool render_special) const = 0;
  std::string decode(std::span<const token_id> ids, bool render_special = false) const;

  virtual std::size_t vocab_size() const = 0;
  virtual bool is_special(token_id id) const = 0;
  virtual std::optional<token_id> bos() const = 0;
  // Every token that ends an answer: eos (first), eot, eom as the file names them, then the known texts.
  virtual const std::vector<token_id>& end_of_generation() const = 0;
  virtual std::optional<token_id> find(std::string_view token_text) const = 0;
  // Kind, for people: "BPE (smollm)".
  virtual std::string description() const = 0;
};

// Turns a stream of token bytes into text that is valid UTF-8 at each step: holds an incomplete
// trailing sequence, replaces bytes that can never become valid by U+FFFD, and gives what is left
// at flush. One stream, one thread.
class utf8_stream {
 public:
  std::string push(std::string_view bytes);
  std::string flush();

 private:
  std::string held_;  // at most 3 bytes
};

}  // namespace troupe::model
