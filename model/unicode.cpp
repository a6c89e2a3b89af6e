#include "model/unicode.hpp"

#include <cstring>

#include "base/result.hpp"

namespace troupe::model {
namespace {

// Length that a lead byte announces and the range of the byte after it; later ones are 80..BF.
struct lead_byte {
  std::size_t length = 0;  // 0: never a lead
  unsigned char low = 0x80, high = 0xBF;
};

lead_byte classify(unsigned char lead) {
  if (lead < 0x80) return {1};
  if (lead < 0xC2) return {};
  if (lead < 0xE0) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {};
}

}  // namespace

utf8_prefix utf8_prefix_of(std::string_view text) {
  TROUPE_ASSERT(!text.empty());
  const lead_byte lead = classify(static_cast<unsigned char>(text[0]));
  if (lead.length == 0) return {.bad = 1};
  for (std::size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {.incomplete = i};
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {.bad = i};
  }
  return {.valid = lead.length};
}

std::size_t valid_utf8_length(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    // Eight ASCII bytes at a time.
    std::uint64_t word = 0;
    while (at + 8 <= text.size()) {
      std::memcpy(&word, text.data() + at, 8);
      if ((word & 0x8080808080808080ull) != 0) break;
      at += 8;
    }
    if (at == text.size()) break;
    const std::size_t length = utf8_prefix_of(text.substr(at)).valid;
    if (length == 0) break;
    at += length;
  }
  return at;
}

void append_utf8(std::string& out, std::uint32_t c) {
  const auto byte = [&out](std::uint32_t value) { out.push_back(static_cast<char>(value)); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6);
    byte(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    byte(0xE0 | c >> 12);
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  } else {
    byte(0xF0 | c >> 18);
    byte(0x80 | (c >> 12 & 0x3F));
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  }
}

code_point_at first_code_point(std::string_view text) {
  const std::size_t length = utf8_prefix_of(text).valid;
  if (length == 0) return {0xFFFD, 1};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (length == 1) return {byte(0), 1};
  std::uint32_t value = byte(0) & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) value = value << 6 | (byte(i) & 0x3Fu);
  return {value, length};
}

std::size_t count_code_points(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size(); ++count)
    at += first_code_point(text.substr(at)).length;
  return count;
}

}  // namespace troupe::model
