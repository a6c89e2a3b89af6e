// Hostile JSON to checked values. Duplicate keys: the last one wins.
//
// parse_json bounds depth and number of values before anything is allocated for them. field_reader
// reads typed, ranged fields of an object and keeps the first error, with the field's name as
// `param`; null is the same as absent. Plain functions and values, one thread each.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/errors.hpp"

namespace troupe::api {

struct json_limits {
  std::uint32_t depth = 64;
  std::uint64_t values = 1'100'000;
};

// The object that a request's body is; 400 for anything else.
api_result<nlohmann::json> parse_json(std::string_view body, const json_limits& limits = {});

// JSON text inside a string of a body: within the same bounds, as what is made of it is walked recursively too.
bool is_bounded_json(std::string_view text, const json_limits& limits = {});

class field_reader {
 public:
  explicit field_reader(const nlohmann::json& object) : object_(object) {}

  // nullptr when absent or null, or when an earlier field failed.
  const nlohmann::json* find(std::string_view name) const;
  // Each leaves `to` alone when the field is absent. Bounds are inclusive.
  bool number(std::string_view name, float& to, double low, double high);
  template <class T>
  bool integer(std::string_view name, T& to, std::int64_t low, std::int64_t high) {
    std::int64_t value = 0;
    if (!read_integer(name, value, low, high)) return false;
    to = static_cast<T>(value);
    return true;
  }
  bool boolean(std::string_view name, bool& to);
  bool text(std::string_view name, std::string& to, std::size_t min_bytes, std::size_t max_bytes);

  void fail(api_error e) {
    if (!failure_) failure_ = std::move(e);
  }
  const std::optional<api_error>& failure() const { return failure_; }

 private:
  bool read_integer(std::string_view name, std::int64_t& to, std::int64_t low, std::int64_t high);

  const nlohmann::json& object_;
  std::optional<api_error> failure_;
};

// An integer in [low, high], also when written 3.0; nothing for every other value.
std::optional<std::int64_t> as_integer(const nlohmann::json& value, std::int64_t low,
                                       std::int64_t high);
// Compact text; bytes that are not UTF-8 become U+FFFD, so it never throws.
std::string dump(const nlohmann::ordered_json& value);

}  // namespace troupe::api
