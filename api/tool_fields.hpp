// `tools`, `tool_choice` and `parallel_tool_calls` of a chat request, checked; and the calls that its messages report.
// Plain values, any thread.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "api/json_input.hpp"
#include "engine/structured/tool_calls.hpp"

namespace troupe::api {

struct tool_definition {
  engine::structured::callable call;
  std::string description;
};

enum class tool_choice : std::uint8_t { none, automatic, required, named };

struct tool_request {
  std::vector<tool_definition> tools;
  tool_choice choice = tool_choice::none;  // none as well where there are no tools
  std::vector<std::string> callable;       // names of those that may be called; empty: all
  bool parallel = true;

  bool active() const { return choice != tool_choice::none; }
  bool forced() const { return choice == tool_choice::required || choice == tool_choice::named; }
  bool may_call(const std::string& name) const {
    return callable.empty() || std::ranges::count(callable, name) > 0;
  }
};

void read_tools(field_reader& in, std::size_t max_tools, tool_request& to);
// An assistant's tool_calls and a tool's tool_call_id. `where` is "messages[3]".
void check_tool_message(field_reader& in, const std::string& where, nlohmann::json& message);

}  // namespace troupe::api
