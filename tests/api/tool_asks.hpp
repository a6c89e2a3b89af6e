// Requests with tools, and what they are checked against.
#pragma once

#include "asks.hpp"

namespace troupe::api::testing {

inline const nlohmann::json weather = nlohmann::json::parse(
    R"({"type":"function","function":{"name":"get_weather","description":"Weather of a city","parameters":
        {"type":"object","properties":{"city":{"type":"string"},"unit":{"enum":["c","f"]}},"required":["city"]}}})");
inline const nlohmann::json ping =
    nlohmann::json::parse(R"({"type":"function","function":{"name":"ping"}})");
inline const nlohmann::json tool_chat = plus(chat, {{"tools", {weather, ping}}});

// {"type": "allowed_tools", ...}
inline nlohmann::json allowed(const nlohmann::json& mode, const nlohmann::json& tools) {
  return {{"type", "allowed_tools"}, {"allowed_tools", {{"mode", mode}, {"tools", tools}}}};
}

inline const request_limits limits = [] {
  request_limits l;
  l.vocab_size = 1000;
  return l;
}();

}  // namespace troupe::api::testing
