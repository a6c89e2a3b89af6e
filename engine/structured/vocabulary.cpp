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
  std::vector<std::uint32_t> path;  // nodes of the beginnings of the token at hand
  for (std::uint32_t i = 0; i < order_.size(); ++i) {
    const std::string_view text = bytes(order_[i]);
    const std::string_view before = i == 0 ? std::string_view() : bytes(order_[i - 1]);
    const auto shared = std::mismatch(text.begin(), text.end(), before.begin(), before.end()).first;
    leave(path, static_cast<std::size_t>(shared - text.begin()));
    while (path.size() < text.size()) {
      const auto last = static_cast<std::uint8_t>(text[path.size()]);
      path.push_back(static_cast<std::uint32_t>(nodes_.size()));
      nodes_.push_back({0, i, 0, static_cast<std::uint32_t>(path.size()), last});
    }
    ++nodes_[path.back()].num_tokens;
    longest_ = std::max(longest_, text.size());
  }
  leave(path, 0);
}

void vocabulary::leave(std::vector<std::uint32_t>& path, std::size_t length) {
  for (; path.size() > length; path.pop_back())
    nodes_[path.back()].end = static_cast<std::uint32_t>(nodes_.size());
}

std::string_view vocabulary::bytes(token_id token) const {
  return std::string_view(text_).substr(begin_[token], begin_[token + 1] - begin_[token]);
}

bool vocabulary::ends(token_id token) const {
  return std::find(end_of_generation_.begin(), end_of_generation_.end(), token) !=
         end_of_generation_.end();
}

automaton::state vocabulary::next(automaton& a, automaton::state s, token_id token,
                                  work_budget& work) const {
  const std::string_view text = bytes(token);
  if (text.empty()) return automaton::dead;
  for (const char c : text) s = a.next(s, static_cast<std::uint8_t>(c), work);
  return s;
}

token_mask vocabulary::allowed(automaton& a, automaton::state s, work_budget& work) const {
  token_mask mask((size() + 63) / 64);
  const auto allow = [&](token_id t) { mask[t / 64] |= std::uint64_t{1} << (t % 64); };
  if (a.accepts(s))
    for (const token_id t : end_of_generation_)
      if (t < size()) allow(t);
  std::vector<automaton::state> path(longest_ +
                                     1);  // [i]: after i bytes of the present node's text
  path[0] = s;
  for (std::size_t i = 0; i < nodes_.size();) {
    const node& n = nodes_[i];
    const auto to = a.next(path[n.length - 1], static_cast<std::uint8_t>(n.last_byte), work);
    if (to == automaton::dead) {
      i = n.end;
      continue;
    }
    path[n.length] = to;
    for (std::uint32_t t = 0; t < n.num_tokens; ++t) allow(order_[n.first_token + t]);
    ++i;
  }
  return mask;
}

}  // namespace troupe::engine::structured
