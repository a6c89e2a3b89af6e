#include "engine/draft_history.hpp"

#include <algorithm>
#include <bit>

namespace troupe::engine {
namespace {

constexpr std::uint32_t first_tokens = 1024;
constexpr std::size_t slots_per_token = 4;
// A token, its slots, and that vectors grow by doubling.
constexpr std::size_t bytes_per_token = 2 * (sizeof(token_id) + slots_per_token * 4);
constexpr std::size_t bytes_of_entry = 512;

}  // namespace

recent_answers::recent_answers(std::uint32_t most_tokens) : most_(most_tokens) {
  clear();
}

void recent_answers::clear() {
  text_ = {end_of_answer};  // no position behind a gram is 0
  slots_ = {};
  ++age_;
}

std::size_t recent_answers::bytes() const {
  return text_.capacity() * sizeof(token_id) + slots_.capacity() * sizeof(std::uint32_t);
}

std::size_t recent_answers::slot_of(std::span<const token_id> gram) const {
  std::uint64_t h = gram.size();
  for (const token_id t : gram) h = (h ^ t) * 0x9E3779B97F4A7C15ull;
  return static_cast<std::size_t>(h ^ (h >> 29)) & (slots_.size() - 1);
}

// Grams of the answer [first, end). Each has two slots, of which the later answer takes the older one's.
void recent_answers::index(std::uint32_t first, std::uint32_t end) {
  const std::span<const token_id> text(text_);
  for (std::uint32_t next = first; next < end; ++next)
    for (const std::uint32_t n : lengths) {
      if (next - first < n) break;
      const std::size_t slot = slot_of(text.subspan(next - n, n));
      std::uint32_t& one = slots_[slot];
      std::uint32_t& other = slots_[slot ^ 1];
      (other < one ? other : one) = next;
    }
}

void recent_answers::make_room(std::size_t tokens) {
  const std::size_t wanted = text_.size() + tokens;
  const bool full = wanted > most_;
  if (full)
    text_.erase(text_.begin() + 1, text_.end() - static_cast<std::ptrdiff_t>(text_.size() / 2));
  const std::size_t slots =
      std::bit_ceil(std::max<std::size_t>(std::min<std::size_t>(wanted, most_), first_tokens)) *
      slots_per_token;
  if (!full && slots <= slots_.size()) return;
  if (full) ++age_;
  slots_.assign(std::max(slots, slots_.size()), 0);
  for (std::size_t first = 1; first < text_.size();) {
    const auto end = static_cast<std::size_t>(
        std::find(text_.begin() + static_cast<std::ptrdiff_t>(first), text_.end(), end_of_answer) -
        text_.begin());
    index(static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(end));
    first = end + 1;
  }
}

void recent_answers::add(std::span<const token_id> answer) {
  if (answer.size() + 2 > most_ / 2) answer = answer.last(std::max(most_ / 2, 2u) - 2);
  if (answer.size() <= lengths.front()) return;
  make_room(answer.size() + 1);
  const auto first = static_cast<std::uint32_t>(text_.size());
  text_.insert(text_.end(), answer.begin(), answer.end());
  text_.push_back(end_of_answer);
  index(first, static_cast<std::uint32_t>(text_.size() - 1));
}

std::uint32_t recent_answers::matched(std::uint32_t next, std::span<const token_id> tokens) const {
  const auto most = static_cast<std::uint32_t>(std::min<std::size_t>(longest, tokens.size()));
  std::uint32_t length = 0;
  while (length < most && length < next &&
         text_[next - 1 - length] == tokens[tokens.size() - 1 - length])
    ++length;
  return length;
}

void recent_answers::follow(place& at, std::span<const token_id> tokens) const {
  if (tokens.empty() || slots_.empty()) return void(at = {});
  if (at.length > 0 && at.age == age_ && text_[at.next] == tokens.back())
    at = {at.length + 1, at.next + 1, age_};
  else
    at = {};
  for (const std::uint32_t n : lengths) {
    if (tokens.size() < n) break;
    if (at.length >= n) continue;
    const std::size_t slot = slot_of(tokens.last(n));
    for (const std::uint32_t next : {slots_[slot], slots_[slot ^ 1]}) {
      const std::uint32_t length = next > 0 ? matched(next, tokens) : 0;
      if (length < n || length < at.length) continue;
      if (length > at.length || next > at.next) at = {length, next, age_};
    }
  }
}

std::span<const token_id> recent_answers::after(const place& at) const {
  if (at.length == 0 || at.age != age_) return {};
  const auto rest = std::span<const token_id>(text_).subspan(at.next);
  return rest.first(
      static_cast<std::size_t>(std::find(rest.begin(), rest.end(), end_of_answer) - rest.begin()));
}

// A salt is the client's to choose, so there may be very many: nothing here looks at all of them.
draft_history::entry& draft_history::entry_of(const std::string& tenant, const std::string& salt) {
  const auto [at, is_new] = all_.try_emplace({tenant, salt});
  entry& e = at->second;
  if (!is_new) {
    turns_.splice(turns_.begin(), turns_, e.turn);
    return e;
  }
  e.turn = turns_.insert(turns_.begin(), &at->first);
  // One may take half of the memory, so that it does not drive out everybody else.
  e.answers = std::make_shared<recent_answers>(static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(bytes_ / 2 / bytes_per_token, 64, 1u << 24)));
  measure(at->first, e);
  return e;
}

void draft_history::measure(const owner& whose, entry& e) {
  used_ -= e.bytes;
  e.bytes = e.answers->bytes() + bytes_of_entry + whose.first.size() + whose.second.size();
  used_ += e.bytes;
}

std::shared_ptr<recent_answers> draft_history::of(const std::string& tenant,
                                                  const std::string& salt) {
  if (bytes_ == 0) return nullptr;
  auto answers = entry_of(tenant, salt).answers;
  bound();
  return answers;
}

// Those go that were asked for least recently.
void draft_history::bound() {
  while (all_.size() > 1 && used_ > bytes_) {
    const auto oldest = all_.find(*turns_.back());
    oldest->second.answers->clear();
    used_ -= oldest->second.bytes;
    turns_.pop_back();
    all_.erase(oldest);
  }
}

void draft_history::add(const std::string& tenant, const std::string& salt,
                        std::span<const token_id> answer) {
  if (bytes_ == 0) return;
  entry& e = entry_of(tenant, salt);
  e.answers->add(answer);
  measure(**e.turn, e);
  bound();
}

}  // namespace troupe::engine
