// What a schedule did: always as a running hash, so that two runs can be compared to the bit; as text only when
// somebody is going to read it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace troupe::simulation {

class trace {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  explicit trace(bool keep_text) : keep_text_(keep_text) {}

  // Into the hash.
  void mark(time_point t, std::uint64_t kind, std::uint64_t a = 0, std::uint64_t b = 0) {
    for (auto x : {static_cast<std::uint64_t>(t.time_since_epoch().count()), kind, a, b})
      hash_ = (hash_ ^ x) * 0x100000001B3ull;
    hash_ ^= hash_ >> 29;
    ++events_;
  }
  // For readers; `text` is a function, called only if the text is kept.
  template <class Text>
  void say(time_point t, Text text) {
    if (keep_text_) lines_.push_back(stamp(t) + text());
  }

  bool keeps_text() const { return keep_text_; }
  std::uint64_t hash() const { return hash_; }
  std::uint64_t events() const { return events_; }
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  static std::string stamp(time_point t) {
    const auto us =
        std::chrono::duration_cast<std::chrono::microseconds>(t.time_since_epoch()).count();
    std::string s = std::to_string(us / 1000) + "." + std::to_string(1000 + us % 1000).substr(1);
    return std::string(s.size() < 10 ? 10 - s.size() : 0, ' ') + s + " ms  ";
  }

  const bool keep_text_;
  std::uint64_t hash_ = 0xCBF29CE484222325ull, events_ = 0;
  std::vector<std::string> lines_;
};

}  // namespace troupe::simulation
