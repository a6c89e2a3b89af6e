// The guesses for one sequence: what may follow its tokens, and how likely each is to be right. Three sources: the text
// itself (suffix_automaton), answers before it (draft_history), and offers from outside (a draft model).
//
// Every token that the sequence gets is compared with what was guessed for it, whether or not the guess was computed, so
// the estimates cost no pass and stay fresh while drafting is off. Guesses are sorted by how much of the text's end
// occurred before: a long match is far more often right.
// Owner and thread: one engine.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/ids.hpp"
#include "engine/draft_history.hpp"
#include "engine/suffix_automaton.hpp"

namespace troupe::engine {

// How often guesses were right, by kind of guess, the recent ones counting more.
class hit_rates {
 public:
  // Eight lengths of match; offers of unknown sureness, and by four grades of it; four lengths of match in answers before;
  // and guesses that differ from a better one, by four grades of what they would be worth without it.
  static constexpr std::size_t offered = 8, remembered = 13, second = 17, num_kinds = 21;
  static std::size_t kind_of(std::uint32_t match_length);   // REQUIRES: match_length > 0
  static std::size_t kind_of_offer(std::uint8_t sureness);  // in 255ths
  static std::size_t kind_of_memory(std::uint32_t match_length);
  static std::size_t kind_of_second(double rate);

  hit_rates();  // what is usual
  void note(std::size_t kind, bool hit, double keep);
  // Few of one's own count together with the usual rate.
  double rate(std::size_t kind) const { return hits_[kind] / tries_[kind]; }
  double rate(std::size_t kind, const hit_rates& usual) const;
  static hit_rates nothing();

 private:
  std::array<double, num_kinds> hits_{}, tries_{};
};

enum class guess_source : std::uint8_t { text, history, draft };
struct guess_sources {
  bool text = true, history = true, draft = true;
  bool unlikely = false;  // also what a draft model offers that has hardly ever been right
};

// A run of tokens and the probability that it is right up to each.
struct guess {
  std::vector<token_id> tokens;
  std::vector<float> chances;  // falling
  guess_source source = guess_source::text;
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
  // From now on, guesses come from these answers too.
  void remember(std::shared_ptr<const recent_answers> answers) { answers_ = std::move(answers); }
  // What each source guesses for a sequence of these tokens, at most `most` tokens each, the best first. Their first tokens
  // differ; the chances of others than the first are those that remain where the ones before it are wrong.
  void propose(std::span<const token_id> tokens, std::uint32_t most, const hit_rates& usual,
               const guess_sources& from, std::vector<guess>& out) const;
  std::size_t bytes() const { return text_.bytes(); }

 private:
  // An automaton of more tokens gives way to one of the last half of them.
  static constexpr std::uint32_t window = 1u << 16;
  // The first token of a source's guess.
  struct first_guess {
    token_id token;
    std::size_t kind;
    bool repeats = false;  // a second opinion of a source: nothing is learned about its kind
  };

  std::size_t collect_firsts(std::span<const token_id> tokens, std::span<first_guess, 4> out) const;
  void score(std::span<const token_id> tokens, std::uint32_t position, hit_rates& usual);
  std::size_t kind_at(std::size_t offer_index) const;
  // A different continuation of a shorter end of the text. length 0: none
  suffix_automaton::match other_than(token_id first, std::span<const token_id> tokens) const;
  void from_text(suffix_automaton::match m, std::span<const token_id> tokens, std::uint32_t most,
                 const hit_rates& usual, guess& out) const;
  void from_history(std::uint32_t most, const hit_rates& usual, guess& out) const;
  void from_offer(std::span<const token_id> tokens, std::uint32_t most, float least,
                  const hit_rates& usual, guess& out) const;

  suffix_automaton text_;
  std::uint32_t base_ = 0;  // position of the automaton's first token
  std::shared_ptr<const recent_answers> answers_;
  recent_answers::place remembered_;
  std::uint32_t offer_first_ = 0;
  std::vector<token_id> offer_;
  std::vector<std::uint8_t> sureness_;  // of offer_, or shorter
  bool offer_right_ = true;             // up to the tokens that are known
  hit_rates own_ = hit_rates::nothing();
};

}  // namespace troupe::engine
