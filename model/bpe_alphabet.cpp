#include "model/bpe_alphabet.hpp"

#include <array>
#include <cstdint>

#include "model/unicode.hpp"

namespace troupe::model {
namespace {

// Printable Latin-1 characters are themselves; the other 68 bytes follow one another from U+0100.
constexpr bool is_itself(std::uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

struct alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 0x144> bytes;  // by code point; -1: none

  alphabet() {
    bytes.fill(-1);
    std::uint32_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t code_point = is_itself(byte) ? byte : next++;
      append_utf8(characters[byte], code_point);
      bytes[code_point] = static_cast<int>(byte);
    }
  }
};

const alphabet& the_alphabet() {
  static const alphabet table;
  return table;
}

}  // namespace

std::string_view bpe_character(unsigned char byte) {
  return the_alphabet().characters[byte];
}

std::string bpe_bytes(std::string_view text) {
  const auto& table = the_alphabet().bytes;
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto [value, length] = first_code_point(text);
    if (value < table.size() && table[value] >= 0) {
      out.push_back(static_cast<char>(table[value]));
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  return out;
}

std::string bpe_text(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) out += bpe_character(static_cast<unsigned char>(byte));
  return out;
}

}  // namespace troupe::model
