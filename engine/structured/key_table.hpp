// Numbers of 64-bit keys: a hash table in one array, which is emptied without a walk over it. The automaton looks things up
// at every step of its work, where nodes of the standard library's tables cost ten times as much.
//
// Plain values; one thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace troupe::engine::structured {

class key_table {
 public:
  // The key's number, which is `value` if the key is new, and whether it is.
  std::pair<std::int32_t, bool> insert(std::uint64_t key, std::int32_t value) {
    if (size_ + size_ / 2 >= slots_.size()) grow();
    slot& s = place_of(key);
    if (s.round == round_) return {s.value, false};
    s = {key, value, round_};
    ++size_;
    return {value, true};
  }
  std::optional<std::int32_t> find(std::uint64_t key) {
    if (size_ == 0) return std::nullopt;
    const slot& s = place_of(key);
    return s.round == round_ ? std::optional(s.value) : std::nullopt;
  }
  void clear() {
    size_ = 0;
    if (slots_.size() > most_kept || ++round_ == 0) {
      slots_ = {};
      round_ = 1;
    }
  }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::size_t most_kept = std::size_t{1} << 15;  // places of an empty table
  struct slot {
    std::uint64_t key = 0;
    std::int32_t value = 0;
    std::uint32_t round = 0;  // that of the table's, where it is taken
  };

  // Where the key is, or the free place for it.
  slot& place_of(std::uint64_t key) {
    const std::size_t mask = slots_.size() - 1;
    // The finish of MurmurHash3's 64-bit mixer (A. Appleby): the keys are pairs of small numbers.
    std::uint64_t mixed = (key ^ (key >> 33)) * 0xFF51AFD7ED558CCDu;
    mixed = (mixed ^ (mixed >> 33)) * 0xC4CEB9FE1A85EC53u;
    std::size_t at = static_cast<std::size_t>(mixed ^ (mixed >> 33)) & mask;
    while (slots_[at].round == round_ && slots_[at].key != key) at = (at + 1) & mask;
    return slots_[at];
  }
  void grow() {
    std::vector<slot> old(std::max<std::size_t>(64, 2 * slots_.size()));
    old.swap(slots_);
    for (const slot& s : old)
      if (s.round == round_) place_of(s.key) = s;
  }

  std::vector<slot> slots_;  // a power of two
  std::size_t size_ = 0;
  std::uint32_t round_ = 1;
};

}  // namespace troupe::engine::structured
