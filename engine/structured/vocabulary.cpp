#include "engine/structured/vocabulary.hpp"

#include <algorithm>

namespace troupe::engine::structured {
namespace {

std::string bytes_in_grammars(const model::tokenizer& tokenizer, token_id t) {
  if (t >= tokenizer.vocab_size()) return {};
  if (tokenizer.is_special(t)) return special_mark + tokenizer.token_bytes(t, true);
  std::string bytes = tokenizer.token_bytes(t, false);
  // The mark is no part of UTF-8. The token of that single byte, which some vocabularies have, is none of any text either.
  return bytes.find(special_mark) == std::string::npos ? bytes : std::string();
}

}  // namespace

vocabulary::vocabulary(std::uint32_t size, const model::tokenizer& tokenizer,
                       std::span<const token_id> end_of_generation)
    : vocabulary(
          size, [&](token_id t) { return bytes_in_grammars(tokenizer, t); }, end_of_generation) {}

vocabulary::vocabulary(std::uint32_t size, const std::function<std::string(token_id)>& bytes_of,
                       std::span<const token_id> end_of_generation)
    : end_of_generation_(end_of_generation.begin(), end_of_generation.end()) {
  begin_.reserve(size + 1);
  begin_.push_back(0);
  for (token_id t = 0; t < size; ++t) {
    if (!ends(t)) text_ += bytes_of(t);
    begin_.push_back(static_cast<std::uint32_t>(text_.size()));
    if (begin_[t + 1] > begin_[t]) order_.push_back(t);
  }
  std::sort(order_.begin(), order_.end(),
            [&](token_id a, token_id b) { return bytes(a) < bytes(b); });
  std::string_view before;
  for (const token_id t : order_) {
    const std::string_view now = bytes(t);
    const auto end = std::mismatch(before.begin(), before.end(), now.begin(), now.end()).first;
    shared_.push_back(static_cast<std::uint32_t>(end - before.begin()));
    before = now;
  }
}

std::string_view vocabulary::bytes(token_id token) const {
  return std::string_view(text_).substr(begin_[token], begin_[token + 1] - begin_[token]);
}

bool vocabulary::ends(token_id token) const {
  return std::find(end_of_generation_.begin(), end_of_generation_.end(), token) !=
         end_of_generation_.end();
}

automaton::state vocabulary::next(automaton& a, automaton::state s, token_id token) const {
  const std::string_view text = bytes(token);
  if (text.empty()) return automaton::dead;
  a.grant_token();
  for (const char c : text) s = a.next(s, static_cast<std::uint8_t>(c));
  return s;
}

token_mask vocabulary::allowed(automaton& a, automaton::state s) const {
  token_mask mask((size() + 63) / 64);
  a.grant_token();
  const auto allow = [&](token_id t) { mask[t / 64] |= std::uint64_t{1} << (t % 64); };
  if (a.accepts(s))
    for (const token_id t : end_of_generation_)
      if (t < size()) allow(t);
  std::vector<automaton::state> path = {s};  // [i]: after i bytes of the present token
  for (std::size_t i = 0; i < order_.size(); ++i) {
    if (shared_[i] >= path.size()) continue;  // begins with what was impossible
    path.resize(shared_[i] + 1);
    const std::string_view text = bytes(order_[i]);
    while (path.size() <= text.size()) {
      const auto to = a.next(path.back(), static_cast<std::uint8_t>(text[path.size() - 1]));
      if (to == automaton::dead) break;
      path.push_back(to);
    }
    if (path.size() == text.size() + 1) allow(order_[i]);
  }
  return mask;
}

}  // namespace troupe::engine::structured
