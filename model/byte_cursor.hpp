// Reads little-endian fields off a bounded view; every step is checked against what is left. One
// owner.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::model {

static_assert(std::endian::native == std::endian::little,
              "model files are little endian and read in place");

class byte_cursor {
 public:
  byte_cursor(std::span<const std::byte> bytes, std::string_view source)
      : bytes_(bytes), source_(source) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }

  // `field` names what is read, for the error only.
  result<std::span<const std::byte>> take(std::uint64_t count, std::string_view field) {
    if (count > remaining())
      return fail(ec::corrupt_file,
                  std::string(source_) + ": " + std::string(field) + " at byte " +
                      std::to_string(position_) + " needs " + std::to_string(count) +
                      " bytes and " + std::to_string(remaining()) +
                      " are left; the file is truncated or damaged, download it again");
    auto part = bytes_.subspan(position_, count);
    position_ += count;
    return part;
  }

  template <class T>
  result<T> read(std::string_view field) {
    TROUPE_TRY(auto part, take(sizeof(T), field));
    T value;
    std::memcpy(&value, part.data(), sizeof value);
    return value;
  }

  // A 64-bit length, then that many bytes.
  result<std::string_view> string(std::uint64_t limit, std::string_view field) {
    TROUPE_TRY(auto length, read<std::uint64_t>(field));
    if (length > limit)
      return fail(ec::corrupt_file,
                  std::string(source_) + ": " + std::string(field) + " at byte " +
                      std::to_string(position_) + " is " + std::to_string(length) +
                      " bytes long, more than the limit of " + std::to_string(limit));
    TROUPE_TRY(auto part, take(length, field));
    return std::string_view(reinterpret_cast<const char*>(part.data()), part.size());
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view source_;
  std::uint64_t position_ = 0;  // never past the end
};

}  // namespace troupe::model
