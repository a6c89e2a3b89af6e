// Which nodes hold a block, or are expected to, by their numbers: up to six in place, more as bits. Most blocks are held by
// one or two nodes, few (a system prompt) by all; both are small so. A plain value, for prefix_map.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace troupe::actors {

class holder_set {
 public:
  // A node's number, and whether it only is expected to have the block.
  struct mark {
    std::uint32_t node = 0;
    bool expected = false;
  };

  // False: it was there. `nodes`: all numbers are less.
  bool insert(mark m, std::uint32_t nodes) {
    if (contains(m)) return false;
    if (words_ == 0 && size_ < few_.size()) {
      few_[size_++] = packed(m);
      return true;
    }
    if (m.node / 64 >= words_) widen(std::max<std::uint32_t>(nodes, m.node + 1));
    word(m) |= bit(m);
    ++size_;
    return true;
  }

  bool erase(mark m) {  // false: it was not there
    if (!contains(m)) return false;
    --size_;
    if (words_ == 0) {
      *std::find(few_.begin(), few_.begin() + size_ + 1, packed(m)) = few_[size_];
      return true;
    }
    word(m) &= ~bit(m);
    if (size_ <= few_.size() / 2) narrow();
    return true;
  }

  bool contains(mark m) const {
    if (words_ == 0)
      return std::find(few_.begin(), few_.begin() + size_, packed(m)) != few_.begin() + size_;
    return m.node / 64 < words_ && (bits_[index(m)] & bit(m)) != 0;
  }

  template <class F>
  void for_each(F&& f) const {
    if (words_ == 0) {
      for (std::uint32_t i = 0; i < size_; ++i) f(unpacked(few_[i]));
      return;
    }
    for (std::uint32_t w = 0; w < 2u * words_; ++w)
      for (std::uint64_t left = bits_[w]; left != 0; left &= left - 1)
        f(mark{w / 2 * 64 + static_cast<std::uint32_t>(std::countr_zero(left)), w % 2 != 0});
  }

  // Of nodes 64 * w to 64 * w + 63, those that hold the block or are expected to. Cheap for sets that are wide.
  std::uint64_t nodes_at(std::uint32_t w) const {
    if (words_ != 0) return w < words_ ? bits_[2 * w] | bits_[2 * w + 1] : 0;
    std::uint64_t found = 0;
    for (std::uint32_t i = 0; i < size_; ++i)
      if (const mark m = unpacked(few_[i]); m.node / 64 == w) found |= bit(m);
    return found;
  }

  bool empty() const { return size_ == 0; }
  std::size_t heap_bytes() const { return words_ == 0 ? 0 : 16u * words_ + 16; }

 private:
  static std::uint16_t packed(mark m) {
    return static_cast<std::uint16_t>(m.node << 1 | (m.expected ? 1 : 0));
  }
  static mark unpacked(std::uint16_t p) { return {std::uint32_t{p} >> 1, (p & 1) != 0}; }
  static std::uint64_t bit(mark m) { return std::uint64_t{1} << m.node % 64; }
  static std::size_t index(mark m) { return 2 * (m.node / 64) + (m.expected ? 1 : 0); }
  std::uint64_t& word(mark m) { return bits_[index(m)]; }

  void widen(std::uint32_t nodes) {
    const auto words = static_cast<std::uint16_t>((nodes + 63) / 64);
    auto bits = std::make_unique<std::uint64_t[]>(2u * words);
    for_each([&](mark m) { bits[index(m)] |= bit(m); });
    bits_ = std::move(bits);
    words_ = words;
  }
  void narrow() {
    std::array<std::uint16_t, 6> few{};
    std::size_t n = 0;
    for_each([&](mark m) { few[n++] = packed(m); });
    few_ = few;
    words_ = 0;
    bits_.reset();
  }

  std::array<std::uint16_t, 6> few_{};
  std::uint16_t size_ = 0,
                words_ = 0;  // words_: pairs of them, held and expected; 0: all are in few_
  std::unique_ptr<std::uint64_t[]> bits_;
};

}  // namespace troupe::actors
