// Splits text into the pieces within which byte-level BPE may merge.
//
// The patterns are those of the models' own tokenizer.json, chosen by GGUF's `tokenizer.ggml.pre`,
// run by PCRE2 (JIT). Each stage splits the pieces of the stage before; what no match covers is a
// piece of its own. Invalid UTF-8 cuts the text: each such byte is a piece. Classes of characters
// are those of PCRE2's Unicode version. Immutable after make, so any thread.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::model {

// What a value of `tokenizer.ggml.pre` implies.
struct pretokenizer_rule {
  std::vector<std::string> patterns;  // stages, PCRE2 syntax; \s is Unicode's White_Space
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
  bool add_bos = false;        // when the file does not say
};
// unsupported, with the known names, if the name is not known.
result<pretokenizer_rule> find_pretokenizer_rule(std::string_view name);

class pretokenizer {
 public:
  // No patterns: the text is one piece.
  static result<std::unique_ptr<const pretokenizer>> make(std::span<const std::string> patterns);
  ~pretokenizer();
  pretokenizer(const pretokenizer&) = delete;
  pretokenizer& operator=(const pretokenizer&) = delete;

  // Lengths of the pieces, in order; they add up to text.size(). Appends to `lengths`.
  void split(std::string_view text, std::vector<std::size_t>& lengths) const;

 private:
  struct stage;
  explicit pretokenizer(std::vector<stage> stages);
  void split_valid(std::string_view text, std::vector<std::size_t>& lengths) const;

  std::vector<stage> stages_;
};

}  // namespace troupe::model
