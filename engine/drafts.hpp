// The guesses for one sequence: what may follow its tokens, and how likely each is to be right. Two sources: the text
// itself (suffix_automaton) and offers from outside (a draft model).
//
// Every token that the sequence gets is compared with what was guessed for it, whether or not the guess was computed, so
// the estimates cost no pass and stay fresh while drafting is off. Guesses are sorted by how much of the text's end
// occurred before: a long match is far more often right.
// Owner and thread: one engine.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.hpp"
#include "engine/suffix_automaton.hpp"

namespace troupe::engine {

// How often guesses were right, by kind of guess, the recent ones counting more.
class hit_rates {
 public:
  // Eight lengths of match, then offers: of unknown sureness, and by four grades of it.
  static constexpr std::size_t num_kinds = 13;
  static constexpr std::size_t offered = 8;
  static std::size_t kind_of(std::uint32_t match_length);   // REQUIRES: match_length > 0
  static std::size_t kind_of_offer(std::uint8_t sureness);  // in 255ths

  hit_rates();  // what is usual
  void note(std::size_t kind, bool hit, double keep);
  // Few of one's own count together with the usual rate.
  double rate(std::size_t kind) const { return hits_[kind] / tries_[kind]; }
  double rate(std::size_t kind, const hit_rates& usual) const;
  static hit_rates nothing();

 private:
  std::array<double, num_kinds> hits_{}, tries_{};
};

// A run of tokens and the probability that it is right up to each.
struct guess {
  std::vector<token_id> tokens;
  std::vector<float> chances;  // falling
  bool offered = false;        // by a draft model
};

class drafts {
 public:
  // Takes in tokens of the sequence that are new, at most `most`; those from num_context on are the sequence's own output
  // and teach `usual`, which is the engine's.
  void follow(std::span<const token_id> tokens, std::uint32_t num_context, std::uint32_t most,
              hit_rates& usual);
  // tokens[i] is meant for position first + i. Replaces the offer before.
  void offer(std::uint32_t first, std::vector<token_id> tokens,
             std::vector<std::uint8_t> sureness = {});
  // The better of both sources, at most `most` tokens, for a sequence of these tokens.
  void propose(std::span<const token_id> tokens, std::uint32_t most, const hit_rates& usual,
               bool from_text, bool from_draft, guess& out) const;
  std::size_t bytes() const { return text_.bytes(); }

 private:
  // An automaton of more tokens gives way to one of the last half of them.
  static constexpr std::uint32_t window = 1u << 16;

  void score(std::span<const token_id> tokens, std::uint32_t position, hit_rates& usual);
  std::size_t kind_at(std::size_t offer_index) const;
  void from_text(std::span<const token_id> tokens, std::uint32_t most, const hit_rates& usual,
                 guess& out) const;
  void from_offer(std::span<const token_id> tokens, std::uint32_t most, const hit_rates& usual,
                  guess& out) const;

  suffix_automaton text_;
  std::uint32_t base_ = 0;  // position of the automaton's first token
  std::uint32_t offer_first_ = 0;
  std::vector<token_id> offer_;
  std::vector<std::uint8_t> sureness_;  // of offer_, or shorter
  bool offer_right_ = true;             // up to the tokens that are known
  hit_rates own_ = hit_rates::nothing();
};

}  // namespace troupe::engine
