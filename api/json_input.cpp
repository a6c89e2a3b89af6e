#include "api/json_input.hpp"

#include <cmath>

namespace troupe::api {
namespace {

struct shape {
  std::uint64_t depth = 0, values = 0;
};

// Deepest nesting and an upper bound of the number of values, in one pass that understands only
// strings.
shape measure(std::string_view text, std::uint32_t stop_at_depth) {
  shape s;
  std::uint64_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      ++s.values;
      s.depth = std::max(s.depth, ++depth);
      if (depth > stop_at_depth) return s;
    } else if (c == ']' || c == '}') {
      if (depth > 0) --depth;
    } else if (c == ',') {
      ++s.values;
    }
  }
  return s;
}

std::string range_text(std::int64_t low, std::int64_t high) {
  return "an integer in [" + std::to_string(low) + ", " + std::to_string(high) + "]";
}

std::string plain(double x) {
  std::string s = std::to_string(x);
  s.erase(s.find_last_not_of('0') + 1);
  if (s.back() == '.') s.pop_back();
  return s;
}

}  // namespace

api_result<nlohmann::json> parse_json(std::string_view body, const json_limits& limits) {
  const shape s = measure(body, limits.depth);
  if (s.depth > limits.depth)
    return tl::make_unexpected(
        bad_field("", "The body nests deeper than " + std::to_string(limits.depth) + " levels.",
                  "invalid_json"));
  if (s.values > limits.values)
    return tl::make_unexpected(bad_field("", "The body holds too many values.", "invalid_json"));
  // The parser takes a NUL for the end and would not look at what follows.
  if (body.find('\0') != std::string_view::npos)
    return tl::make_unexpected(bad_field("", "The body is not valid JSON.", "invalid_json"));
  nlohmann::json value;
  try {
    value = nlohmann::json::parse(body.begin(), body.end());
  } catch (const nlohmann::json::parse_error& e) {
    return tl::make_unexpected(
        bad_field("", "The body is not valid JSON (at byte " + std::to_string(e.byte) + ").",
                  "invalid_json"));
  } catch (const nlohmann::json::exception&) {
    return tl::make_unexpected(
        bad_field("", "The body holds a number out of range.", "invalid_json"));
  }
  if (!value.is_object())
    return tl::make_unexpected(bad_field("", "The body must be a JSON object.", "invalid_json"));
  return value;
}

bool is_bounded_json(std::string_view text, const json_limits& limits) {
  const shape s = measure(text, limits.depth);
  return s.depth <= limits.depth && s.values <= limits.values && nlohmann::json::accept(text);
}

const nlohmann::json* field_reader::find(std::string_view name) const {
  if (failure_) return nullptr;
  auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool field_reader::number(std::string_view name, float& to, double low, double high) {
  const auto* value = find(name);
  if (!value) return false;
  const double x = value->is_number() ? value->get<double>() : std::nan("");
  if (!(x >= low && x <= high)) {  // so written that NaN fails
    fail(bad_field(name, std::string(name) + " must be a number in [" + plain(low) + ", " +
                             plain(high) + "]."));
    return false;
  }
  to = static_cast<float>(x);
  return true;
}

bool field_reader::read_integer(std::string_view name, std::int64_t& to, std::int64_t low,
                                std::int64_t high) {
  const auto* value = find(name);
  if (!value) return false;
  auto x = as_integer(*value, low, high);
  if (!x) {
    fail(bad_field(name, std::string(name) + " must be " + range_text(low, high) + "."));
    return false;
  }
  to = *x;
  return true;
}

bool field_reader::boolean(std::string_view name, bool& to) {
  const auto* value = find(name);
  if (!value) return false;
  if (!value->is_boolean()) {
    fail(bad_field(name, std::string(name) + " must be true or false.", "invalid_type"));
    return false;
  }
  to = value->get<bool>();
  return true;
}

bool field_reader::text(std::string_view name, std::string& to, std::size_t min_bytes,
                        std::size_t max_bytes) {
  const auto* value = find(name);
  if (!value) return false;
  if (!value->is_string()) {
    fail(bad_field(name, std::string(name) + " must be a string.", "invalid_type"));
    return false;
  }
  const auto& s = value->get_ref<const std::string&>();
  if (s.size() < min_bytes || s.size() > max_bytes) {
    fail(bad_field(name, std::string(name) + " must have " + std::to_string(min_bytes) + " to " +
                             std::to_string(max_bytes) + " bytes."));
    return false;
  }
  to = s;
  return true;
}

std::optional<std::int64_t> as_integer(const nlohmann::json& value, std::int64_t low,
                                       std::int64_t high) {
  if (value.is_number_unsigned()) {
    const auto u = value.get<std::uint64_t>();
    if (high < 0 || u > static_cast<std::uint64_t>(high)) return {};
    const auto i = static_cast<std::int64_t>(u);
    return i >= low ? std::optional(i) : std::nullopt;
  }
  if (value.is_number_integer()) {
    const auto i = value.get<std::int64_t>();
    return i >= low && i <= high ? std::optional(i) : std::nullopt;
  }
  if (value.is_number_float()) {
    const double d = value.get<double>();
    // Beyond 2^53 a double no longer tells which integer was meant.
    if (!(std::fabs(d) <= 9007199254740992.0) || d != std::floor(d)) return {};
    const auto i = static_cast<std::int64_t>(d);
    return i >= low && i <= high ? std::optional(i) : std::nullopt;
  }
  return {};
}

std::string dump(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace troupe::api
