// The vocabulary of a model file: text, kind and score of each token, the special tokens, and how
// to find them in text. Filled once from the file's metadata, then immutable: any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::model {

class metadata;

// Numbers are GGUF's `tokenizer.ggml.token_type`.
enum class token_kind : std::uint8_t {
  normal = 1,
  unknown = 2,
  control = 3,       // special: found only where the caller allows it, never shown
  user_defined = 4,  // found in any text before the algorithm runs, shown
  unused = 5,
  byte = 6,
};

class tokenizer_vocab {
 public:
  // Moves keep the views of ids_ valid, copies would not.
  tokenizer_vocab(tokenizer_vocab&&) = default;
  tokenizer_vocab& operator=(tokenizer_vocab&&) = default;

  static result<tokenizer_vocab> make(const metadata& meta);
  // With the tokens of another format, and the ids of special tokens from `meta`.
  // REQUIRES: kinds.size() == texts.size().
  static result<tokenizer_vocab> make(const metadata& meta, std::vector<std::string> texts,
                                      std::vector<token_kind> kinds);

  std::size_t size() const { return texts_.size(); }
  const std::string& text(token_id id) const { return texts_[id]; }
  token_kind kind(token_id id) const { return kinds_[id]; }
  const std::vector<float>& scores() const { return scores_; }  // empty when the file has none
  std::optional<token_id> find(std::string_view text) const;

  bool is_special(token_id id) const {
    return kinds_[id] == token_kind::control || kinds_[id] == token_kind::unknown;
  }

  std::optional<token_id> bos, eos, unknown;
  std::optional<bool> add_bos, add_eos;     // absent: the algorithm's default
  std::vector<token_id> end_of_generation;  // eos first, if the file names one

 private:
  tokenizer_vocab() = default;
  result<void> index();
  result<void> read_special(const metadata& meta);
  void collect_end_of_generation(std::span<const token_id> named);

  std::vector<std::string> texts_;
  std::vector<token_kind> kinds_;
  std::vector<float> scores_;
  std::unordered_map<std::string_view, token_id>
      ids_;  // views into texts_; of equal texts the first
};

// Finds the leftmost and, there, longest of the tokens that are matched as whole texts.
class special_token_finder {
 public:
  explicit special_token_finder(const tokenizer_vocab& vocab);

  struct match {
    std::size_t length = 0;  // 0: none
    token_id id = 0;
  };
  // At the start of `text`; control tokens only within its first `control_length` bytes.
  match at_start(std::string_view text, std::size_t control_length) const;
  // False: no token starts so. Cheap, for the scan over all text.
  bool may_start(char byte, bool control_allowed) const {
    return (starts_[static_cast<unsigned char>(byte)] & (control_allowed ? 3 : 1)) != 0;
  }

 private:
  // A trie whose children are linked lists: few texts share a prefix and then differ in many ways.
  struct node {
    std::uint32_t child = 0, sibling = 0;  // 0: none
    unsigned char byte = 0;
    bool ends = false, control = false;
    token_id id = 0;
  };
  std::uint32_t child_of(std::uint32_t parent, unsigned char byte) const;
  void add(std::string_view text, token_id id, bool control);

  std::vector<node> nodes_{1};
  std::array<std::uint8_t, 256> starts_{};  // 1: of a user-defined token, 2: of a control token
};

}  // namespace troupe::model
