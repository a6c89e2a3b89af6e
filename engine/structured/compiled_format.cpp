#include "engine/structured/compiled_format.hpp"

#include <algorithm>

namespace troupe::engine::structured {

compiled_format::compiled_format(grammar g, std::shared_ptr<const vocabulary> words,
                                 std::size_t max_bytes)
    : words_(std::move(words)), automaton_(std::move(g), max_bytes) {}

std::shared_ptr<const token_mask> compiled_format::allowed(automaton::state s) {
  if (s == automaton::dead) return nullptr;
  if (const auto known = masks_.find(s); known != masks_.end()) return known->second;
  if (masks_.size() >= max_masks) masks_.clear();
  auto mask = std::make_shared<const token_mask>(words_->allowed(automaton_, s));
  masks_.emplace(s, mask);
  return mask;
}

result<std::shared_ptr<compiled_format>> format_cache::get(const answer_format& format) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const entry& e) { return e.format == format; });
  if (found != entries_.end() && !found->compiled->full()) {
    entries_.splice(entries_.begin(), entries_, found);
    return found->compiled;
  }
  if (found != entries_.end()) entries_.erase(found);  // those who use it ask for the new one
  if (!words_) {
    if (!source_)
      return fail(ec::unsupported,
                  "this model has no tokenizer, so the form of an answer cannot be kept");
    TROUPE_TRY(words_, source_());
  }
  TROUPE_TRY(grammar g, compile(format));
  entries_.push_front(
      {format, std::make_shared<compiled_format>(std::move(g), words_, max_bytes_)});
  if (entries_.size() > max_formats) entries_.pop_back();
  return entries_.front().compiled;
}

}  // namespace troupe::engine::structured
