// Recent answers, from which later requests of the same tenant and cache salt take guesses: agents and editors get nearly
// the same text again and again, and not every time is it in the prompt. (Suffix decoding over earlier outputs: Oliaro et
// al., "SuffixDecoding", 2411.04975; here an index of n-grams, whose memory is bounded in advance.)
//
// What a guess does can be measured: an answer comes sooner if its text was given before. So no text is found by requests
// of another tenant or salt, and nothing is kept unless the operator asks for it (speculation_options::history_bytes).
//
// Owner and thread: one engine.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.hpp"

namespace troupe::engine {

// The answers of one tenant and salt, the older half of which goes when there are too many tokens.
class recent_answers {
 public:
  explicit recent_answers(std::uint32_t most_tokens);

  // Where a text's end was found: so many tokens of it, and the position of what followed them.
  struct place {
    std::uint32_t length = 0;  // 0: nowhere
    std::uint32_t next = 0;
    std::uint32_t age = 0;  // of the index: places do not outlive it
  };
  void add(std::span<const token_id> answer);
  // `tokens` is a text at the end of which `at` was before its last token came: the place now. A copy that goes on is
  // followed, unless more of the text is found elsewhere.
  void follow(place& at, std::span<const token_id> tokens) const;
  // What followed there, to the end of that answer.
  std::span<const token_id> after(const place& at) const;
  void clear();
  std::size_t bytes() const;

 private:
  static constexpr token_id end_of_answer = 0xffffffff;
  // Ends of texts that are looked for.
  static constexpr std::array<std::uint32_t, 3> lengths = {4, 8, 16};
  static constexpr std::uint32_t longest = 64;  // of a place found anew: no more is compared

  std::size_t slot_of(std::span<const token_id> gram) const;
  void index(std::uint32_t first, std::uint32_t end);
  void make_room(std::size_t tokens);
  std::uint32_t matched(std::uint32_t next, std::span<const token_id> tokens) const;

  std::uint32_t most_;
  std::vector<token_id> text_;  // answers, each with end_of_answer behind it
  std::vector<std::uint32_t>
      slots_;  // by a gram's hash: the position behind it, of the latest; 0: none
  std::uint32_t age_ = 1;
};

class draft_history {
 public:
  explicit draft_history(std::uint64_t bytes) : bytes_(bytes) {}
  // Null where nothing is kept. Stays valid, and empty, when the memory is needed for others.
  std::shared_ptr<recent_answers> of(const std::string& tenant, const std::string& salt);
  void add(const std::string& tenant, const std::string& salt, std::span<const token_id> answer);
  std::size_t bytes() const { return used_; }
  std::size_t size() const { return all_.size(); }

 private:
  using owner = std::pair<std::string, std::string>;  // tenant and salt
  struct entry {
    std::shared_ptr<recent_answers> answers;
    std::size_t bytes = 0;  // as counted in used_
    std::list<const owner*>::iterator turn;
  };
  entry& entry_of(const std::string& tenant, const std::string& salt);
  void measure(const owner& whose, entry& e);
  void bound();

  const std::uint64_t bytes_;
  std::size_t used_ = 0;
  std::map<owner, entry> all_;
  std::list<const owner*> turns_;  // keys of all_: asked for most recently first
};

}  // namespace troupe::engine
