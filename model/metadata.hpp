// Key/value pairs of a model file, under GGUF's names
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
//
// Owns copies of all it holds, so it stays valid when the file is truncated under its mapping. A
// Hugging Face directory fills the same keys from config.json and its sisters; texts that have no
// GGUF key are kept whole under the names in `metadata_keys`. Filled by one reader, then immutable:
// any thread.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace troupe::model {

namespace metadata_keys {
// Absent for a GGUF. Whole files of a Hugging Face directory, as text.
inline constexpr std::string_view hf_tokenizer_json = "huggingface.tokenizer.json";
inline constexpr std::string_view hf_tokenizer_config_json = "huggingface.tokenizer_config.json";
// Every id that ends an answer; the first is tokenizer.ggml.eos_token_id too.
inline constexpr std::string_view hf_eos_token_ids = "huggingface.eos_token_ids";
}  // namespace metadata_keys

// Numbers are GGUF's `gguf_metadata_value_type`.
enum class value_type : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};
std::string_view to_string(value_type type);
// Bytes of a number or bool in the file; 0 for strings and arrays.
std::size_t size_of(value_type type);

// What can be asked for. Integers convert if the value fits, numbers to float if finite; nothing
// else converts.
template <class T>
concept metadata_scalar =
    std::same_as<T, std::string> || std::same_as<T, std::string_view> || std::is_arithmetic_v<T>;

struct metadata_value {
  value_type type = value_type::u32;
  value_type element = value_type::u32;  // of an array; arrays of arrays do not exist here
  std::string_view text;                 // string
  std::span<const std::byte>
      bytes;  // number, bool, or array of them: as in the file, little endian
  std::span<const std::string_view> strings;  // array of strings

  std::size_t count() const {  // of an array
    return element == value_type::string ? strings.size() : bytes.size() / size_of(element);
  }
};

class metadata {
 public:
  // `source` names the file in errors.
  explicit metadata(std::string source) : source_(std::move(source)) {}
  metadata(const metadata&) = delete;
  metadata& operator=(const metadata&) = delete;

  const std::string& source() const { return source_; }
  std::size_t size() const { return values_.size(); }
  // In the order of keys.
  const std::map<std::string, metadata_value, std::less<>>& values() const { return values_; }

  // nullptr when absent.
  const metadata_value* find(std::string_view key) const;
  bool contains(std::string_view key) const { return find(key) != nullptr; }

  // corrupt_file when absent, of another kind, or out of T's range; the detail names file and key.
  // A string_view lives as long as this object.
  template <metadata_scalar T>
  result<T> get(std::string_view key) const;
  // The fallback when absent; still an error when present and of another kind.
  template <metadata_scalar T>
  result<T> get_or(std::string_view key, std::type_identity_t<T> fallback) const;

  result<std::span<const std::string_view>> strings(std::string_view key) const;
  template <class T>
  requires std::is_arithmetic_v<T> result<std::vector<T>> numbers(std::string_view key)
  const;

  // For readers. false when the key is already there.
  bool set_string(std::string_view key, std::string_view value);
  bool set_strings(std::string_view key, std::span<const std::string_view> values);
  // REQUIRES: type is a number or bool, bytes.size() a multiple of its size (for a scalar: equal to
  // it).
  bool set_number(std::string_view key, value_type type, std::span<const std::byte> bytes);
  bool set_numbers(std::string_view key, value_type element, std::span<const std::byte> bytes);
  bool set_u32(std::string_view key, std::uint32_t value);
  bool set_f32(std::string_view key, float value);
  bool set_bool(std::string_view key, bool value);

 private:
  // One number at `at`, as the widest kind that holds it.
  struct number {
    enum class kind : std::uint8_t { boolean, negative, unsigned_, real } which;
    std::uint64_t integer = 0;  // of `negative`: two's complement
    double real = 0;
  };
  static number read(value_type type, const std::byte* at);
  template <class T>
  static bool convert(const number& from, T& to);
  result<const metadata_value*> require(std::string_view key) const;
  tl::unexpected<error> wrong_kind(std::string_view key, const metadata_value& value,
                                   std::string_view wanted) const;
  bool insert(std::string_view key, const metadata_value& value);
  std::string_view copy(std::string_view text);
  std::span<const std::byte> copy(std::span<const std::byte> bytes);

  std::string source_;
  std::pmr::monotonic_buffer_resource arena_;  // behind every view in values_
  std::map<std::string, metadata_value, std::less<>> values_;
};

template <class T>
bool metadata::convert(const number& from, T& to) {
  using kind = number::kind;
  if constexpr (std::same_as<T, bool>) {
    to = from.integer != 0;
    return from.which == kind::boolean;
  } else if constexpr (std::is_floating_point_v<T>) {
    if (from.which == kind::boolean) return false;
    double wide = from.which == kind::real ? from.real
                  : from.which == kind::negative
                      ? static_cast<double>(static_cast<std::int64_t>(from.integer))
                      : static_cast<double>(from.integer);
    // Written so that NaN fails; infinities have no meaning in a model file.
    if (!(wide >= -static_cast<double>(std::numeric_limits<T>::max()) &&
          wide <= static_cast<double>(std::numeric_limits<T>::max())))
      return false;
    to = static_cast<T>(wide);
    return true;
  } else {
    if (from.which == kind::negative) {
      auto wide = static_cast<std::int64_t>(from.integer);
      to = static_cast<T>(wide);
      return std::in_range<T>(wide);
    }
    to = static_cast<T>(from.integer);
    return from.which == kind::unsigned_ && std::in_range<T>(from.integer);
  }
}

template <metadata_scalar T>
result<T> metadata::get(std::string_view key) const {
  TROUPE_TRY(const metadata_value* value, require(key));
  if constexpr (std::is_arithmetic_v<T>) {
    T out{};
    if (size_of(value->type) == 0 || !convert(read(value->type, value->bytes.data()), out))
      return wrong_kind(key, *value,
                        std::same_as<T, bool>   ? "a bool"
                        : std::is_integral_v<T> ? "an integer in range"
                                                : "a finite number");
    return out;
  } else {
    if (value->type != value_type::string) return wrong_kind(key, *value, "a string");
    return T(value->text);
  }
}

template <metadata_scalar T>
result<T> metadata::get_or(std::string_view key, std::type_identity_t<T> fallback) const {
  if (!contains(key)) return T(std::move(fallback));
  return get<T>(key);
}

template <class T>
requires std::is_arithmetic_v<T> result<std::vector<T>> metadata::numbers(std::string_view key)
const {
  TROUPE_TRY(const metadata_value* value, require(key));
  if (value->type != value_type::array || size_of(value->element) == 0)
    return wrong_kind(key, *value, "an array of numbers");
  std::vector<T> out(value->count());
  const std::size_t step = size_of(value->element);
  for (std::size_t i = 0; i < out.size(); ++i) {
    T one{};
    if (!convert(read(value->element, value->bytes.data() + i * step), one))
      return wrong_kind(key, *value, "an array whose every element is in range");
    out[i] = one;
  }
  return out;
}

}  // namespace troupe::model
