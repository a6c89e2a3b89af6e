#include "model/bpe_merges.hpp"

#include <array>
#include <bit>
#include <limits>
#include <queue>

#include "base/result.hpp"

namespace troupe::model {
namespace {

// Up to here a scan of all ranks per merge is faster than a heap.
constexpr std::size_t short_symbols = 32;

}  // namespace

bpe_merges::bpe_merges(std::span<const rule> rules) {
  slots_.resize(std::bit_ceil(2 * rules.size() + 2));
  mask_ = slots_.size() - 1;
  for (std::size_t rank = 0; rank < rules.size(); ++rank) {
    const rule& from = rules[rank];
    std::size_t at = hash(from.left, from.right) & mask_;
    while (slots_[at].rank != no_rank &&
           (slots_[at].left != from.left || slots_[at].right != from.right))
      at = (at + 1) & mask_;
    slots_[at] = {from.left, from.right, static_cast<std::uint32_t>(rank), from.merged};
  }
}

std::size_t bpe_merges::hash(token_id left, token_id right) {
  const std::uint64_t key = (std::uint64_t{left} << 32 | right) * 0x9E3779B97F4A7C15ull;
  return static_cast<std::size_t>(key ^ key >> 32);
}

const bpe_merges::slot& bpe_merges::find(token_id left, token_id right) const {
  std::size_t at = hash(left, right) & mask_;
  while (slots_[at].rank != no_rank && (slots_[at].left != left || slots_[at].right != right))
    at = (at + 1) & mask_;
  return slots_[at];
}

void bpe_merges::apply(std::vector<token_id>& symbols) const {
  if (symbols.size() < 2) return;
  if (symbols.size() <= short_symbols) {
    apply_short(symbols);
  } else {
    apply_long(symbols);
  }
}

void bpe_merges::apply_short(std::vector<token_id>& symbols) const {
  std::array<const slot*, short_symbols> pairs{};  // pairs[i]: rule of symbols i and i + 1
  std::size_t n = symbols.size();
  for (std::size_t i = 0; i + 1 < n; ++i) pairs[i] = &find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i)
      if (pairs[i]->rank < pairs[best]->rank) best = i;
    if (pairs[best]->rank == no_rank) break;
    symbols[best] = pairs[best]->merged;
    --n;
    for (std::size_t i = best + 1; i < n; ++i) symbols[i] = symbols[i + 1];
    for (std::size_t i = best; i + 1 < n; ++i) pairs[i] = pairs[i + 1];
    if (best + 1 < n) pairs[best] = &find(symbols[best], symbols[best + 1]);
    if (best > 0) pairs[best - 1] = &find(symbols[best - 1], symbols[best]);
  }
  symbols.resize(n);
}

void bpe_merges::apply_long(std::vector<token_id>& symbols) const {
  constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  TROUPE_ASSERT(symbols.size() < none);
  struct links {
    std::uint32_t previous, next;
  };
  struct candidate {
    std::uint32_t rank, at;
    bool operator>(const candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const auto n = static_cast<std::uint32_t>(symbols.size());
  std::vector<links> list(n);
  std::vector<candidate> first;
  first.reserve(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    list[i] = {i == 0 ? none : i - 1, i + 1 == n ? none : i + 1};
    if (i + 1 == n) continue;
    const std::uint32_t rank = find(symbols[i], symbols[i + 1]).rank;
    if (rank != no_rank) first.push_back({rank, i});
  }
  std::priority_queue<candidate, std::vector<candidate>, std::greater<>> queue(std::greater<>{},
                                                                               std::move(first));
  std::vector<bool> gone(n);
  const auto offer = [&](std::uint32_t left) {
    if (left == none || list[left].next == none) return;
    const std::uint32_t rank = find(symbols[left], symbols[list[left].next]).rank;
    if (rank != no_rank) queue.push({rank, left});
  };
  while (!queue.empty()) {
    const candidate top = queue.top();
    queue.pop();
    if (gone[top.at] || list[top.at].next == none) continue;
    const std::uint32_t right = list[top.at].next;
    const slot& found = find(symbols[top.at], symbols[right]);
    if (found.rank != top.rank) continue;  // one of the two has merged since
    symbols[top.at] = found.merged;
    gone[right] = true;
    list[top.at].next = list[right].next;
    if (list[right].next != none) list[list[right].next].previous = top.at;
    offer(top.at);
    offer(list[top.at].previous);
  }
  std::size_t kept = 0;
  for (std::uint32_t i = 0; i < n; ++i)
    if (!gone[i]) symbols[kept++] = symbols[i];
  symbols.resize(kept);
}

}  // namespace troupe::model
