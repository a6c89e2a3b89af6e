#include "engine/structured/compiled_format.hpp"

#include <algorithm>

namespace troupe::engine::structured {

compiled_format::compiled_format(std::shared_ptr<const grammar> g,
                                 std::shared_ptr<const vocabulary> words, std::size_t max_bytes)
    : words_(std::move(words)), automaton_(std::move(g), max_bytes) {}

std::shared_ptr<const token_mask> compiled_format::allowed(automaton::state s, work_budget& work) {
  if (s == automaton::dead) return nullptr;
  if (const auto known = masks_.find(s); known != masks_.end()) return known->second;
  auto mask = std::make_shared<const token_mask>(words_->allowed(automaton_, s, work));
  if (work.exceeded()) return nullptr;
  if (masks_.size() >= max_masks) masks_.clear();
  masks_.emplace(s, mask);
  return mask;
}

std::shared_ptr<compiled_format> compiled_format::emptied() const {
  return std::make_shared<compiled_format>(automaton_.rules(), words_, automaton_.max_bytes());
}

// The form's place among the latest; none where it has not been asked for lately.
std::shared_ptr<compiled_format>* format_cache::find(const answer_format& format) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const entry& e) { return e.format == format; });
  if (found == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found);
  return &found->compiled;
}

std::shared_ptr<compiled_format> format_cache::add(const answer_format& format,
                                                   std::shared_ptr<compiled_format> compiled) {
  entries_.push_front({format, std::move(compiled)});
  if (entries_.size() > max_formats) entries_.pop_back();
  return entries_.front().compiled;
}

result<std::shared_ptr<compiled_format>> format_cache::get(const answer_format& format) {
  if (auto* known = find(format)) return (*known)->full() ? in_place_of(format, **known) : *known;
  if (!words_) {
    if (!source_)
      return fail(ec::unsupported,
                  "this model has no tokenizer, so the form of an answer cannot be kept");
    TROUPE_TRY(words_, source_());
  }
  TROUPE_TRY(grammar g, compile(format));
  return add(format, std::make_shared<compiled_format>(
                         std::make_shared<const grammar>(std::move(g)), words_, max_bytes_));
}

std::shared_ptr<compiled_format> format_cache::in_place_of(const answer_format& format,
                                                           const compiled_format& full) {
  std::shared_ptr<compiled_format>* known = find(format);
  if (known == nullptr) return add(format, full.emptied());
  if ((*known)->full()) *known = full.emptied();
  return *known;
}

}  // namespace troupe::engine::structured
