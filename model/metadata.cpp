#include "model/metadata.hpp"

#include <algorithm>
#include <bit>

namespace troupe::model {

static_assert(std::endian::native == std::endian::little,
              "model files are little endian and read in place");

std::string_view to_string(value_type type) {
  switch (type) {
    case value_type::u8:
      return "u8";
    case value_type::i8:
      return "i8";
    case value_type::u16:
      return "u16";
    case value_type::i16:
      return "i16";
    case value_type::u32:
      return "u32";
    case value_type::i32:
      return "i32";
    case value_type::f32:
      return "f32";
    case value_type::boolean:
      return "bool";
    case value_type::string:
      return "string";
    case value_type::array:
      return "array";
    case value_type::u64:
      return "u64";
    case value_type::i64:
      return "i64";
    case value_type::f64:
      return "f64";
  }
  return "unknown type";
}

std::size_t size_of(value_type type) {
  switch (type) {
    case value_type::u8:
    case value_type::i8:
    case value_type::boolean:
      return 1;
    case value_type::u16:
    case value_type::i16:
      return 2;
    case value_type::u32:
    case value_type::i32:
    case value_type::f32:
      return 4;
    case value_type::u64:
    case value_type::i64:
    case value_type::f64:
      return 8;
    case value_type::string:
    case value_type::array:
      return 0;
  }
  return 0;
}

const metadata_value* metadata::find(std::string_view key) const {
  auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

result<const metadata_value*> metadata::require(std::string_view key) const {
  if (auto* value = find(key)) return value;
  return fail(ec::corrupt_file, source_ + ": the key '" + std::string(key) + "' is missing");
}

tl::unexpected<error> metadata::wrong_kind(std::string_view key, const metadata_value& value,
                                           std::string_view wanted) const {
  std::string found(to_string(value.type));
  if (value.type == value_type::array) found += " of " + std::string(to_string(value.element));
  return fail(ec::corrupt_file, source_ + ": the key '" + std::string(key) + "' (" + found +
                                    ") must be " + std::string(wanted));
}

metadata::number metadata::read(value_type type, const std::byte* at) {
  auto load = [at]<class T>(T) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  auto integer = [](auto value) {
    using kind = number::kind;
    return number{value < 0 ? kind::negative : kind::unsigned_, static_cast<std::uint64_t>(value),
                  0};
  };
  switch (type) {
    case value_type::u8:
      return {number::kind::unsigned_, load(std::uint8_t{}), 0};
    case value_type::u16:
      return {number::kind::unsigned_, load(std::uint16_t{}), 0};
    case value_type::u32:
      return {number::kind::unsigned_, load(std::uint32_t{}), 0};
    case value_type::u64:
      return {number::kind::unsigned_, load(std::uint64_t{}), 0};
    case value_type::i8:
      return integer(load(std::int8_t{}));
    case value_type::i16:
      return integer(load(std::int16_t{}));
    case value_type::i32:
      return integer(load(std::int32_t{}));
    case value_type::i64:
      return integer(load(std::int64_t{}));
    case value_type::boolean:
      return {number::kind::boolean, load(std::uint8_t{}), 0};
    case value_type::f32:
      return {number::kind::real, 0, load(float{})};
    case value_type::f64:
      return {number::kind::real, 0, load(double{})};
    case value_type::string:
    case value_type::array:
      break;
  }
  TROUPE_ASSERT(!"read() is for numbers");
  return {};
}

result<std::span<const std::string_view>> metadata::strings(std::string_view key) const {
  TROUPE_TRY(const metadata_value* value, require(key));
  if (value->type != value_type::array || value->element != value_type::string)
    return wrong_kind(key, *value, "an array of strings");
  return value->strings;
}

std::span<const std::byte> metadata::copy(std::span<const std::byte> bytes) {
  if (bytes.empty()) return {};
  auto* to = static_cast<std::byte*>(arena_.allocate(bytes.size(), 8));
  std::memcpy(to, bytes.data(), bytes.size());
  return {to, bytes.size()};
}

std::string_view metadata::copy(std::string_view text) {
  if (text.empty()) return {};
  auto* to = static_cast<char*>(arena_.allocate(text.size(), 1));
  std::memcpy(to, text.data(), text.size());
  return {to, text.size()};
}

bool metadata::insert(std::string_view key, const metadata_value& value) {
  return values_.emplace(std::string(key), value).second;
}

bool metadata::set_string(std::string_view key, std::string_view value) {
  if (contains(key)) return false;
  return insert(key, {.type = value_type::string, .text = copy(value), .bytes = {}, .strings = {}});
}

bool metadata::set_strings(std::string_view key, std::span<const std::string_view> values) {
  if (contains(key)) return false;
  metadata_value value{.type = value_type::array,
                       .element = value_type::string,
                       .text = {},
                       .bytes = {},
                       .strings = {}};
  if (!values.empty()) {
    // A vocabulary has 10^5 of them: one allocation for all the views and one for all the text.
    std::size_t total = 0;
    for (auto text : values) total += text.size();
    auto* to = static_cast<std::string_view*>(
        arena_.allocate(values.size() * sizeof(std::string_view), alignof(std::string_view)));
    auto* text_to = static_cast<char*>(arena_.allocate(std::max<std::size_t>(total, 1), 1));
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::copy(values[i].begin(), values[i].end(), text_to);
      new (to + i) std::string_view(text_to, values[i].size());
      text_to += values[i].size();
    }
    value.strings = {to, values.size()};
  }
  return insert(key, value);
}

bool metadata::set_number(std::string_view key, value_type type, std::span<const std::byte> bytes) {
  TROUPE_ASSERT(size_of(type) != 0);
  TROUPE_ASSERT(bytes.size() == size_of(type));
  if (contains(key)) return false;
  return insert(key, {.type = type, .text = {}, .bytes = copy(bytes), .strings = {}});
}

bool metadata::set_numbers(std::string_view key, value_type element,
                           std::span<const std::byte> bytes) {
  TROUPE_ASSERT(size_of(element) != 0);
  TROUPE_ASSERT(bytes.size() % size_of(element) == 0);
  if (contains(key)) return false;
  return insert(key, {.type = value_type::array,
                      .element = element,
                      .text = {},
                      .bytes = copy(bytes),
                      .strings = {}});
}

bool metadata::set_u32(std::string_view key, std::uint32_t value) {
  return set_number(key, value_type::u32, std::as_bytes(std::span(&value, 1)));
}

bool metadata::set_f32(std::string_view key, float value) {
  return set_number(key, value_type::f32, std::as_bytes(std::span(&value, 1)));
}

bool metadata::set_bool(std::string_view key, bool value) {
  const std::uint8_t byte = value ? 1 : 0;
  return set_number(key, value_type::boolean, std::as_bytes(std::span(&byte, 1)));
}

}  // namespace troupe::model
