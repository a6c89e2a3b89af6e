#include "api/flag_values.hpp"

namespace troupe::api {

std::string what_is_wrong(const CLI::Error& e) {
  const std::string text = e.what();
  constexpr std::string_view conversion = "Could not convert: ", equals = " = ";
  if (!text.starts_with(conversion)) return text;
  // Numbers have ranges: what is left are switches.
  const auto rest = text.substr(conversion.size());
  const auto at = rest.find(equals);
  if (at == std::string::npos) return text;
  return rest.substr(0, at) + ": " + rest.substr(at + equals.size()) + " is not true or false";
}

}  // namespace troupe::api
