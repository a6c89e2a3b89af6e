// The bytes of every token of a vocabulary, and which tokens may come next in a state of an automaton.
//
// Tokens are kept as a tree of their bytes, in one array in the order of a walk: that walk takes one step of the automaton for
// each node, reads memory in order, and leaps over everything that begins with what is impossible. Tokens without bytes are
// never allowed; those that end an answer are where it may end.
//
// A special token's bytes are special_mark and its text. No text holds that byte, so only a grammar that asks for special
// tokens (those that begin a tool's call) can be followed by one.
//
// vocabulary: immutable; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "engine/structured/automaton.hpp"
#include "model/tokenizer.hpp"

namespace troupe::engine::structured {

using token_mask = std::vector<std::uint64_t>;  // bit t % 64 of word t / 64

inline bool allows(std::span<const std::uint64_t> mask, token_id token) {
  return (mask[token / 64] >> (token % 64) & 1) != 0;
}

class vocabulary {
 public:
  vocabulary(std::uint32_t size, const std::function<std::string(token_id)>& bytes_of,
             std::span<const token_id> end_of_generation);

  // Of a model's vocabulary, which may have more ids than its tokenizer knows.
  vocabulary(std::uint32_t size, const model::tokenizer& tokenizer,
             std::span<const token_id> end_of_generation);

  std::string_view bytes(token_id token) const;
  bool ends(token_id token) const;
  token_mask allowed(automaton& a, automaton::state s, work_budget& work) const;
  // Where a token leads; dead if it is impossible.
  automaton::state next(automaton& a, automaton::state s, token_id token, work_budget& work) const;
  std::uint32_t size() const { return static_cast<std::uint32_t>(begin_.size() - 1); }

 private:
  // A text that tokens begin with.
  struct node {
    std::uint32_t end;  // the first node behind those that begin with this one
    std::uint32_t first_token, num_tokens = 0;  // of order_: those that it is all of
    std::uint32_t length : 24, last_byte : 8;
  };
  void leave(std::vector<std::uint32_t>& path, std::size_t length);
  std::string text_;                                 // the tokens' bytes, by token id
  std::vector<std::uint32_t> begin_;                 // [size + 1]
  std::vector<token_id> order_, end_of_generation_;  // order_: by their bytes
  std::vector<node> nodes_;
  std::size_t longest_ = 0;
};

}  // namespace troupe::engine::structured
