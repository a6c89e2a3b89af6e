// A form of answer ready for use: its automaton, and which tokens may come next in each state, computed once a state. And
// the forms that were asked for lately, since clients ask for the same one again and again.
//
// Owner and thread: one engine. Bounded: an automaton by its own limit, masks and forms by count.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <unordered_map>

#include "engine/structured/answer_format.hpp"
#include "engine/structured/automaton.hpp"
#include "engine/structured/vocabulary.hpp"

namespace troupe::engine::structured {

class compiled_format {
 public:
  compiled_format(std::shared_ptr<const grammar> g, std::shared_ptr<const vocabulary> words,
                  std::size_t max_bytes);

  automaton::state start(work_budget& work) { return automaton_.start(work); }
  automaton::state next(automaton::state from, token_id token, work_budget& work) {
    return words_->next(automaton_, from, token, work);
  }
  bool only_ends(automaton::state s) const { return automaton_.only_ends(s); }
  // Null in a dead state, and where the work cannot be done. Stays valid as long as it is held.
  std::shared_ptr<const token_mask> allowed(automaton::state s, work_budget& work);
  // Another one should take its place, with nothing remembered but the states that answers are in.
  bool full() const { return automaton_.full(); }
  std::shared_ptr<compiled_format> emptied() const;
  automaton::state take(const compiled_format& other, automaton::state s, work_budget& work) {
    return automaton_.take(other.automaton_, s, work);
  }

 private:
  static constexpr std::size_t max_masks = 512;
  std::shared_ptr<const vocabulary> words_;
  automaton automaton_;
  std::unordered_map<automaton::state, std::shared_ptr<const token_mask>> masks_;
};

// Made at the first request that needs it: reading a tokenizer takes a while.
using vocabulary_source = std::function<result<std::shared_ptr<const vocabulary>>()>;

class format_cache {
 public:
  // max_bytes: of one automaton, after which answers of its form move to a new one.
  explicit format_cache(vocabulary_source source, std::size_t max_bytes = automaton::usual_bytes)
      : source_(std::move(source)), max_bytes_(max_bytes) {}
  // ec::invalid_argument or ec::unsupported from compile; ec::unsupported where the model has no tokenizer.
  result<std::shared_ptr<compiled_format>> get(const answer_format& format);
  // What answers that followed `full` move to.
  std::shared_ptr<compiled_format> in_place_of(const answer_format& format,
                                               const compiled_format& full);

 private:
  static constexpr std::size_t max_formats = 16;
  struct entry {
    answer_format format;
    std::shared_ptr<compiled_format> compiled;
  };
  std::shared_ptr<compiled_format>* find(const answer_format& format);
  std::shared_ptr<compiled_format> add(const answer_format& format,
                                       std::shared_ptr<compiled_format> compiled);
  vocabulary_source source_;
  std::size_t max_bytes_;
  std::shared_ptr<const vocabulary> words_;
  std::list<entry> entries_;  // the latest first
};

}  // namespace troupe::engine::structured
