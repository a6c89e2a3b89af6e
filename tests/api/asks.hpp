// Requests and answers that the doors' tests begin with.
#pragma once

#include "fakes.hpp"

namespace troupe::api::testing {

inline const nlohmann::json chat = {{"model", "toy"},
                                    {"messages", {{{"role", "user"}, {"content", "Hello"}}}}};

inline nlohmann::json plus(nlohmann::json base, const nlohmann::json& more) {
  if (!more.is_null()) base.update(more);
  return base;
}
inline fake_service::chooser always(script s) {
  return [s](const actors::generation&) { return s; };
}
inline script says(std::string_view text, std::size_t per_event = 1) {
  script s;
  s.tokens = tokens_of(text);
  s.per_event = per_event;
  return s;
}
inline std::string header(const http_response& r, std::string_view name) {
  for (const auto& [n, v] : r.headers)
    if (n == name) return v;
  return {};
}

}  // namespace troupe::api::testing
