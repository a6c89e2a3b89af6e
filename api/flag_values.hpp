// What a flag's value may be, and what is said of one that it may not be: always the flag, the value and the range. Pure.
#pragma once

#include <CLI/CLI.hpp>
#include <cerrno>
#include <sstream>
#include <string>
#include <type_traits>

namespace troupe::api {

// A number from `least` to `most`; whole if these are. CLI11's own range lets NaN pass.
template <class Number>
CLI::Validator within(Number least, Number most) {
  using wide = std::conditional_t<std::is_floating_point_v<Number>, double, std::int64_t>;
  const auto text = [](Number n) {
    std::ostringstream out;
    out << n;
    return out.str();
  };
  const std::string from = text(least), to = text(most);
  const char* kind = std::is_floating_point_v<Number> ? "number" : "whole number";
  return CLI::Validator(
      [=](std::string& given) {
        wide value{};
        errno = 0;  // CLI11 takes the largest number for a larger one
        const bool fits = CLI::detail::lexical_cast(given, value) && errno == 0 &&
                          value >= wide{least} && value <= wide{most};
        return fits ? std::string() : given + " is not a " + kind + " from " + from + " to " + to;
      },
      std::string(CLI::detail::type_name<Number>()) + " in [" + from + " - " + to + "]");
}

// For people: "--port: 99999 is not a whole number from 0 to 65535".
std::string what_is_wrong(const CLI::Error& e);

}  // namespace troupe::api
