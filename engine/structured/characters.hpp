// Reading the notations: one character of UTF-8 at a time, escapes in hexadecimal. Internal to this folder.
#pragma once

#include <optional>
#include <string_view>

#include "engine/structured/grammar.hpp"

namespace troupe::engine::structured {

class character_reader {
 public:
  explicit character_reader(std::string_view text) : text_(text) {}

  bool at_end() const { return at_ >= text_.size(); }
  std::size_t position() const { return at_; }
  char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool take(std::string_view wanted) {
    if (!text_.substr(std::min(at_, text_.size())).starts_with(wanted)) return false;
    at_ += wanted.size();
    return true;
  }
  // The next character; a byte that is not UTF-8 gives none.
  std::optional<char32_t> character() {
    if (at_end()) return std::nullopt;
    const auto byte = [&](std::size_t i) -> char32_t {
      return static_cast<unsigned char>(peek(i));
    };
    const char32_t first = byte(0);
    const std::size_t n = first < 0x80       ? 1
                          : first >> 5 == 6  ? 2
                          : first >> 4 == 14 ? 3
                          : first >> 3 == 30 ? 4
                                             : 0;
    if (n == 0) return std::nullopt;
    char32_t c = n == 1 ? first : first & (0x7Fu >> n);
    for (std::size_t i = 1; i < n; ++i) {
      if (byte(i) >> 6 != 2) return std::nullopt;
      c = c << 6 | (byte(i) & 0x3F);
    }
    at_ += n;
    return c;
  }
  // Exactly so many hexadecimal digits.
  std::optional<char32_t> hexadecimal(std::size_t digits) {
    char32_t c = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      const char d = peek(i);
      const int value = d >= '0' && d <= '9'   ? d - '0'
                        : d >= 'a' && d <= 'f' ? d - 'a' + 10
                        : d >= 'A' && d <= 'F' ? d - 'A' + 10
                                               : -1;
      if (value < 0) return std::nullopt;
      c = c * 16 + static_cast<char32_t>(value);
    }
    at_ += digits;
    return c;
  }
  // Decimal digits, at most nine.
  std::optional<std::uint32_t> number() {
    std::uint32_t value = 0;
    std::size_t n = 0;
    for (; peek() >= '0' && peek() <= '9'; ++at_) {
      if (++n > 9) return std::nullopt;
      value = value * 10 + static_cast<std::uint32_t>(peek() - '0');
    }
    return n > 0 ? std::optional(value) : std::nullopt;
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
};

struct repetition {
  std::uint32_t least;
  std::int64_t most;  // < 0: without end
};
// `*`, `+`, `?`, `{m}`, `{m,}`, `{m,n}` or `{,n}`, if one stands there. ec::invalid_argument
result<std::optional<repetition>> read_repetition(character_reader& in);

}  // namespace troupe::engine::structured
